//! The options of one request as values of the right types, checked against each other. Must not know how they were
//! given.

use super::error::GenerationError;
use super::options::GenerationConfig;

/// When beam search ends. (GE-14)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyStopping {
    /// As soon as there are `num_beams` finished sequences.
    Yes,
    /// When the best running beam, at its present length, is worse than the worst finished one.
    Heuristic,
    /// When no running beam can become better than the worst finished one.
    Never,
}

/// How many tokens a draft model guesses in the next round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Always `num_assistant_tokens`.
    Constant,
    /// Two more after a round that was right altogether, one less otherwise.
    Heuristic,
}

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    /// The likeliest, or drawn at random with `do_sample`.
    Tokens,
    /// Beam search; drawn at random with `do_sample`.
    Beams,
    /// Beam search in groups that are kept apart.
    GroupBeams,
    /// Contrastive search with this weight of the penalty.
    Contrastive(f32),
}

/// The options of a request, complete: see the table of [`options`](super::OPTIONS) for what each does.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the table of options has them")]
pub struct Settings {
    pub mode: Mode,
    pub max_new_tokens: Option<usize>,
    pub max_length: Option<usize>,
    pub min_new_tokens: usize,
    pub min_length: usize,
    pub max_time: Option<f64>,
    pub stop_strings: Vec<String>,
    pub do_sample: bool,
    pub seed: Option<u64>,
    pub num_return_sequences: usize,
    pub num_beams: usize,
    pub early_stopping: EarlyStopping,
    pub length_penalty: f64,
    pub num_beam_groups: usize,
    pub diversity_penalty: f32,
    pub temperature: f32,
    pub top_k: usize,
    pub top_p: f64,
    pub min_p: Option<f64>,
    pub top_h: Option<f64>,
    pub typical_p: f64,
    pub epsilon_cutoff: f64,
    pub eta_cutoff: f64,
    pub renormalize_logits: bool,
    pub repetition_penalty: f32,
    pub encoder_repetition_penalty: f32,
    pub frequency_penalty: f32,
    pub presence_penalty: f32,
    pub no_repeat_ngram_size: usize,
    pub encoder_no_repeat_ngram_size: usize,
    pub bad_words_ids: Vec<Vec<u32>>,
    pub sequence_bias: Vec<(Vec<u32>, f32)>,
    pub logit_bias: Vec<(u32, f32)>,
    pub suppress_tokens: Vec<u32>,
    pub begin_suppress_tokens: Vec<u32>,
    pub forced_bos_token_id: Option<u32>,
    pub forced_eos_token_id: Vec<u32>,
    pub exponential_decay_length_penalty: Option<(usize, f64)>,
    pub remove_invalid_values: bool,
    pub guidance_scale: f32,
    pub negative_prompt_ids: Option<Vec<u32>>,
    pub eos_token_id: Vec<u32>,
    pub pad_token_id: Option<u32>,
    pub bos_token_id: Option<u32>,
    pub prompt_lookup_num_tokens: Option<usize>,
    pub max_matching_ngram_size: usize,
    pub num_assistant_tokens: usize,
    pub num_assistant_tokens_schedule: Schedule,
    pub assistant_confidence_threshold: f64,
    pub logprobs: Option<usize>,
    pub output_scores: bool,
    pub output_logits: bool,
    pub prefill_chunk_size: Option<usize>,
}

impl Settings {
    /// The options of a call over the model's own (GE-01), checked (GE-03), and what to tell the user about them.
    ///
    /// # Errors
    /// [`GenerationError::Option`].
    pub fn resolve(
        call: &GenerationConfig,
        model: &GenerationConfig,
    ) -> Result<(Settings, Vec<String>), GenerationError> {
        let given = call.over(model);
        let number = |name: &str, default: f64| given.float(name).unwrap_or(default);
        let single = |name: &str| given.int(name).and_then(|id| u32::try_from(id).ok());
        let do_sample = given.flag("do_sample").unwrap_or(false);
        let num_beams = given.int("num_beams").unwrap_or(1);
        let num_beam_groups = given.int("num_beam_groups").unwrap_or(1);
        let top_k = given.int("top_k").unwrap_or(50);
        let eos_token_id = given.ids("eos_token_id").unwrap_or_default();
        let alpha = given.float("penalty_alpha").filter(|&alpha| alpha > 0.0 && top_k > 1);
        let mode = match alpha {
            _ if num_beams > 1 && num_beam_groups > 1 => Mode::GroupBeams,
            _ if num_beams > 1 => Mode::Beams,
            Some(alpha) if !do_sample => Mode::Contrastive(alpha as f32),
            _ => Mode::Tokens,
        };
        let settings = Settings {
            mode,
            max_new_tokens: given.int("max_new_tokens"),
            max_length: given.int("max_length"),
            min_new_tokens: given.int("min_new_tokens").unwrap_or(0),
            min_length: given.int("min_length").unwrap_or(0),
            max_time: given.float("max_time"),
            stop_strings: given.texts("stop_strings"),
            do_sample,
            seed: given.get("seed").and_then(serde_json::Value::as_u64),
            num_return_sequences: given.int("num_return_sequences").unwrap_or(1),
            num_beams,
            early_stopping: match given.get("early_stopping") {
                Some(serde_json::Value::String(_)) => EarlyStopping::Never,
                Some(serde_json::Value::Bool(true)) => EarlyStopping::Yes,
                _ => EarlyStopping::Heuristic,
            },
            length_penalty: number("length_penalty", 1.0),
            num_beam_groups,
            diversity_penalty: number("diversity_penalty", 0.0) as f32,
            temperature: number("temperature", 1.0) as f32,
            top_k,
            top_p: number("top_p", 1.0),
            min_p: given.float("min_p"),
            top_h: given.float("top_h"),
            typical_p: number("typical_p", 1.0),
            epsilon_cutoff: number("epsilon_cutoff", 0.0),
            eta_cutoff: number("eta_cutoff", 0.0),
            renormalize_logits: given.flag("renormalize_logits").unwrap_or(false),
            repetition_penalty: number("repetition_penalty", 1.0) as f32,
            encoder_repetition_penalty: number("encoder_repetition_penalty", 1.0) as f32,
            frequency_penalty: number("frequency_penalty", 0.0) as f32,
            presence_penalty: number("presence_penalty", 0.0) as f32,
            no_repeat_ngram_size: given.int("no_repeat_ngram_size").unwrap_or(0),
            encoder_no_repeat_ngram_size: given.int("encoder_no_repeat_ngram_size").unwrap_or(0),
            bad_words_ids: given.id_lists("bad_words_ids").unwrap_or_default(),
            sequence_bias: given.biases("sequence_bias"),
            logit_bias: given.biases("logit_bias").into_iter().map(|(ids, bias)| (ids[0], bias)).collect(),
            suppress_tokens: given.ids("suppress_tokens").unwrap_or_default(),
            begin_suppress_tokens: given.ids("begin_suppress_tokens").unwrap_or_default(),
            forced_bos_token_id: given.ids("forced_bos_token_id").and_then(|ids| ids.first().copied()),
            forced_eos_token_id: given.ids("forced_eos_token_id").unwrap_or_default(),
            exponential_decay_length_penalty: given.decay("exponential_decay_length_penalty"),
            remove_invalid_values: given.flag("remove_invalid_values").unwrap_or(false),
            guidance_scale: number("guidance_scale", 1.0) as f32,
            negative_prompt_ids: given.ids("negative_prompt_ids"),
            pad_token_id: single("pad_token_id").or(eos_token_id.first().copied()),
            eos_token_id,
            bos_token_id: single("bos_token_id"),
            prompt_lookup_num_tokens: given.int("prompt_lookup_num_tokens"),
            max_matching_ngram_size: given.int("max_matching_ngram_size").unwrap_or(2),
            num_assistant_tokens: given.int("num_assistant_tokens").unwrap_or(20),
            num_assistant_tokens_schedule: match given.get("num_assistant_tokens_schedule").and_then(|v| v.as_str()) {
                Some("heuristic" | "heuristic_transient") => Schedule::Heuristic,
                _ => Schedule::Constant,
            },
            assistant_confidence_threshold: number("assistant_confidence_threshold", 0.4),
            logprobs: given.int("logprobs"),
            output_scores: given.flag("output_scores").unwrap_or(false),
            output_logits: given.flag("output_logits").unwrap_or(false),
            prefill_chunk_size: given.int("prefill_chunk_size"),
        };
        settings.check(&given)?;
        let warnings = settings.warnings(call, model);
        Ok((settings, warnings))
    }

    /// Whether beams are kept.
    pub fn beams(&self) -> bool {
        matches!(self.mode, Mode::Beams | Mode::GroupBeams)
    }

    /// Refuses values and combinations that cannot be. (GE-03)
    fn check(&self, given: &GenerationConfig) -> Result<(), GenerationError> {
        let wrong = |name: &str, problem: String| Err(GenerationError::option(name, problem));
        for name in ["max_new_tokens", "num_return_sequences", "num_beams", "num_beam_groups", "prefill_chunk_size"] {
            if given.int(name) == Some(0) {
                return wrong(name, "must be at least 1".into());
            }
        }
        if self.do_sample && self.temperature == 0.0 {
            return wrong(
                "temperature",
                "must be greater than 0; for the likeliest tokens set do_sample to false".into(),
            );
        }
        // Name, value, whether it may be used, and what may.
        let ranges: [(&str, f64, bool, &str); 14] = [
            ("temperature", self.temperature.into(), self.temperature >= 0.0, "greater than 0"),
            ("top_p", self.top_p, (0.0..=1.0).contains(&self.top_p), "from 0 to 1"),
            ("min_p", self.min_p.unwrap_or(0.0), self.min_p.is_none_or(|p| (0.0..=1.0).contains(&p)), "from 0 to 1"),
            (
                "top_h",
                self.top_h.unwrap_or(1.0),
                self.top_h.is_none_or(|h| h > 0.0 && h <= 1.0),
                "greater than 0, at most 1",
            ),
            ("typical_p", self.typical_p, self.typical_p > 0.0 && self.typical_p <= 1.0, "greater than 0, at most 1"),
            ("epsilon_cutoff", self.epsilon_cutoff, (0.0..1.0).contains(&self.epsilon_cutoff), "from 0, less than 1"),
            ("eta_cutoff", self.eta_cutoff, (0.0..1.0).contains(&self.eta_cutoff), "from 0, less than 1"),
            ("repetition_penalty", self.repetition_penalty.into(), self.repetition_penalty > 0.0, "greater than 0"),
            (
                "encoder_repetition_penalty",
                self.encoder_repetition_penalty.into(),
                self.encoder_repetition_penalty > 0.0,
                "greater than 0",
            ),
            ("max_time", self.max_time.unwrap_or(0.0), self.max_time.is_none_or(|t| t >= 0.0), "at least 0"),
            ("diversity_penalty", self.diversity_penalty.into(), self.diversity_penalty >= 0.0, "at least 0"),
            (
                "penalty_alpha",
                given.float("penalty_alpha").unwrap_or(0.0),
                given.float("penalty_alpha").is_none_or(|a| (0.0..=1.0).contains(&a)),
                "from 0 to 1",
            ),
            (
                "exponential_decay_length_penalty",
                self.exponential_decay_length_penalty.map_or(1.0, |(_, f)| f),
                self.exponential_decay_length_penalty.is_none_or(|(_, f)| f > 0.0),
                "a factor greater than 0",
            ),
            (
                "assistant_confidence_threshold",
                self.assistant_confidence_threshold,
                (0.0..=1.0).contains(&self.assistant_confidence_threshold),
                "from 0 to 1",
            ),
        ];
        if let Some((name, value, _, range)) = ranges.iter().find(|(_, _, fits, _)| !fits) {
            return wrong(name, format!("must be {range}, found {value}"));
        }
        if self.num_return_sequences > 1 && !self.beams() && !self.do_sample {
            let n = self.num_return_sequences;
            return wrong(
                "num_return_sequences",
                format!("{n} results of the likeliest tokens are all the same; set do_sample or num_beams"),
            );
        }
        if self.beams() && self.num_return_sequences > self.num_beams {
            let (n, beams) = (self.num_return_sequences, self.num_beams);
            return wrong("num_return_sequences", format!("{n} results cannot come from {beams} beams"));
        }
        if self.num_beam_groups > 1 {
            if !self.num_beams.is_multiple_of(self.num_beam_groups) {
                let (beams, groups) = (self.num_beams, self.num_beam_groups);
                return wrong("num_beam_groups", format!("{beams} beams cannot be split into {groups} groups"));
            }
            if self.do_sample {
                return wrong("num_beam_groups", "groups of beams cannot be sampled; set do_sample to false".into());
            }
        }
        let lists = [("bad_words_ids", &self.bad_words_ids)];
        for (name, list) in lists {
            if list.iter().any(Vec::is_empty) {
                return wrong(name, "holds an empty list".into());
            }
        }
        if self.sequence_bias.iter().any(|(ids, _)| ids.is_empty()) {
            return wrong("sequence_bias", "holds an empty sequence".into());
        }
        if self.stop_strings.iter().any(String::is_empty) {
            return wrong("stop_strings", "holds an empty text".into());
        }
        let barred = |id: &u32| self.suppress_tokens.contains(id) || self.bad_words_ids.iter().any(|w| w[..] == [*id]);
        if let Some(id) = self.forced_bos_token_id.filter(barred) {
            return wrong("forced_bos_token_id", format!("token {id} is forced and suppressed at once"));
        }
        if !self.forced_eos_token_id.is_empty()
            && self.forced_eos_token_id.iter().all(|id| self.suppress_tokens.contains(id))
        {
            return wrong("forced_eos_token_id", "the token is forced and suppressed at once".into());
        }
        if self.logprobs.is_some() && self.beams() {
            return wrong("logprobs", "beam search has scores: use output_scores".into());
        }
        if self.guidance_scale != 1.0 && self.mode != Mode::Tokens {
            return wrong("guidance_scale", "works with greedy search and sampling only".into());
        }
        if self.prompt_lookup_num_tokens == Some(0)
            || self.prompt_lookup_num_tokens.is_some() && self.max_matching_ngram_size == 0
        {
            return wrong("prompt_lookup_num_tokens", "and max_matching_ngram_size must be at least 1".into());
        }
        Ok(())
    }

    /// What holds but was perhaps not meant.
    fn warnings(&self, call: &GenerationConfig, model: &GenerationConfig) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut idle = |names: &[&str], condition: &str| {
            // What the model's configuration sets for other modes than the call's is no one's mistake.
            for name in names.iter().filter(|name| call.get(name).is_some()) {
                warnings.push(format!("option {name} has no effect without {condition}"));
            }
        };
        if !self.do_sample {
            idle(&["temperature", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"], "do_sample");
            if !matches!(self.mode, Mode::Contrastive(_)) {
                idle(&["top_k"], "do_sample");
            }
        }
        if !self.beams() {
            idle(&["early_stopping", "length_penalty", "num_beam_groups", "diversity_penalty"], "num_beams above 1");
        }
        if self.mode != Mode::Tokens {
            idle(&["prompt_lookup_num_tokens", "num_assistant_tokens"], "plain greedy search or sampling");
        }
        if self.eos_token_id.is_empty() {
            idle(&["min_length", "min_new_tokens", "exponential_decay_length_penalty"], "an end token");
        }
        if call.get("max_new_tokens").is_some() && call.get("max_length").is_some() {
            warnings.push("max_new_tokens and max_length are both given; max_new_tokens holds".into());
        }
        if call.over(model).get("pad_token_id").is_none()
            && self.pad_token_id.is_some()
            && self.num_return_sequences > 1
        {
            warnings.push("there is no pad_token_id; the first end token stands for it".into());
        }
        warnings
    }

    /// Most tokens of a sequence that starts with `prompt` tokens. (GE-02)
    ///
    /// # Errors
    /// [`GenerationError::Prompt`] when there is no room for a new token.
    pub fn length_limit(&self, prompt: usize, max_positions: Option<usize>) -> Result<usize, GenerationError> {
        const DEFAULT_NEW_TOKENS: usize = 20;
        let asked = match (self.max_new_tokens, self.max_length) {
            (Some(new), _) => prompt.saturating_add(new),
            (None, Some(length)) => length,
            (None, None) => prompt.saturating_add(DEFAULT_NEW_TOKENS),
        };
        let limit = max_positions.map_or(asked, |positions| asked.min(positions));
        match (limit > prompt, asked > prompt) {
            (true, _) => Ok(limit),
            (false, true) => Err(GenerationError::Prompt(format!(
                "the prompt has {prompt} tokens and the model takes {limit}: no room for a new token; shorten the prompt"
            ))),
            (false, false) => Err(GenerationError::Prompt(format!(
                "the prompt has {prompt} tokens and max_length is {asked}; raise it, or better set max_new_tokens"
            ))),
        }
    }
}
