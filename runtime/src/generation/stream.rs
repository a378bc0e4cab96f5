//! Tokens to text as they come. Must not know where tokens come from. (TD-07)

/// The text of tokens; what generation knows of a tokenizer.
pub trait TokenText: Send + Sync {
    /// The text of these ids. Bytes that are no character (yet) read as U+FFFD.
    fn text(&self, ids: &[u32]) -> String;
}

impl<F: Fn(&[u32]) -> String + Send + Sync> TokenText for F {
    fn text(&self, ids: &[u32]) -> String {
        self(ids)
    }
}

/// Gives the text of a growing list of tokens in pieces that never end within a character. The pieces together are the
/// text of all tokens, provided that text only grows at its end once it ends with a whole character; so decode without
/// the clean-up of spaces that some old tokenizers have.
#[derive(Debug, Clone)]
pub struct StreamDecoder<D> {
    decode: D,
    /// The tokens of the last piece, then those that have not been given yet. The former are decoded again beside the
    /// latter, because a decoder may treat the first token in its own way.
    window: Vec<u32>,
    /// How many of the window have been given.
    given: usize,
}

impl<D: TokenText> StreamDecoder<D> {
    /// A decoder with no tokens yet.
    pub fn new(decode: D) -> Self {
        StreamDecoder { decode, window: Vec::new(), given: 0 }
    }

    /// Takes one more token; the text that can be given with it, maybe none.
    pub fn push(&mut self, id: u32) -> Option<String> {
        self.window.push(id);
        let text = self.rest()?;
        if text.ends_with('\u{FFFD}') {
            return None;
        }
        self.window.drain(..self.given);
        self.given = self.window.len();
        Some(text)
    }

    /// The text still held back, when no more tokens come; the decoder is as new.
    pub fn finish(&mut self) -> Option<String> {
        let text = self.rest();
        self.window.clear();
        self.given = 0;
        text
    }

    /// The text past what has been given; `None` when it has not grown.
    fn rest(&self) -> Option<String> {
        let all = self.decode.text(&self.window);
        let given = self.decode.text(&self.window[..self.given]);
        // Where the text changed before its end, what follows the common part.
        let common = all.chars().zip(given.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        Some(all[common..].to_string()).filter(|rest| !rest.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::{Draws, Use};
    use super::*;

    /// Pieces of bytes as byte-level tokenizers have them, cut anywhere in characters of one to four bytes.
    fn bytes_of(id: u32) -> Vec<u8> {
        const PIECES: [&[u8]; 14] = [
            b"a",
            b" the",
            b"\n",
            "é".as_bytes(),
            "語".as_bytes(),
            "🙂".as_bytes(),
            &[0xE2],
            &[0x82],
            &[0xAC],
            &[0xF0, 0x9F],
            &[0x99, 0x82],
            &[0xC3],
            &[0xFF],
            "\u{FFFD}".as_bytes(),
        ];
        PIECES[id as usize % PIECES.len()].to_vec()
    }

    fn byte_level(ids: &[u32]) -> String {
        String::from_utf8_lossy(&ids.iter().flat_map(|&id| bytes_of(id)).collect::<Vec<_>>()).into_owned()
    }

    /// As SentencePiece tokenizers decode: the first space is not part of the text; tokens above 90 are special.
    fn pieces(ids: &[u32]) -> String {
        const PIECES: [&str; 6] = [" a", " ", "b", " cd", ".", "語"];
        let text: String = ids.iter().filter(|id| **id <= 90).map(|&id| PIECES[id as usize % PIECES.len()]).collect();
        text.strip_prefix(' ').map(String::from).unwrap_or(text)
    }

    /// TD-07: over random ids the pieces are the whole text, and none ends within a character.
    #[test]
    fn td_07_pieces_make_the_whole() {
        for case in 0..2000u32 {
            let draws = Draws::new(5, case);
            let ids: Vec<u32> = (0..40).map(|i| (draws.uniform(i, Use::Token) * 100.0) as u32).collect();
            let decode: fn(&[u32]) -> String = if case % 2 == 0 { byte_level } else { pieces };
            let mut stream = StreamDecoder::new(decode);
            let mut text = String::new();
            for &id in &ids {
                let piece = stream.push(id);
                assert!(!piece.as_deref().is_some_and(|p| p.is_empty() || p.ends_with('\u{FFFD}')), "{piece:?}");
                text.extend(piece);
            }
            text.extend(stream.finish());
            assert_eq!(text, decode(&ids), "{ids:?}");
        }
    }

    /// A character in three tokens comes at once, with the third.
    #[test]
    fn td_07_a_character_is_not_broken() {
        let mut stream = StreamDecoder::new(byte_level);
        assert_eq!(
            [0, 6, 7, 8, 1].map(|id| stream.push(id)),
            [Some("a".into()), None, None, Some("€".into()), Some(" the".into())]
        );
        assert_eq!((stream.push(6), stream.finish(), stream.finish()), (None, Some("\u{FFFD}".into()), None));
    }
}
