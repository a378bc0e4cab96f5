//! What can go wrong between a conversation and its prompt.

/// An error of a chat template or a conversation. Every variant is bad input or wrong usage (exit code 2).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// No template to use.
    #[error("{0}")]
    NoTemplate(String),
    /// The template cannot be parsed.
    #[error("the chat template does not parse: {0}")]
    Syntax(String),
    /// The template refuses the conversation, in its own words.
    #[error("the chat template refuses the conversation: {0}")]
    Refused(String),
    /// The template fails on the conversation.
    #[error("the chat template fails: {0}")]
    Failed(String),
    /// The template does more work, or writes more, than any chat template has reason to.
    #[error("the chat template does not come to an end: it was stopped after {0} steps")]
    Endless(u64),
    /// The conversation is not one.
    #[error("{0}")]
    Conversation(String),
}
