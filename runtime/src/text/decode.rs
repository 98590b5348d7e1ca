//! Incremental decoding: turns token texts into text one token at a time.
//!
//! `tokenizers` decodes a whole sequence. It passes all tokens through a chain of decoders, some of
//! which look at neighbours (a run of `<0xE5>` bytes becomes one character, the first token loses
//! its leading space). Here each decoder is a [`Stage`] that takes one token and returns the text
//! that is certain so far. The pieces, joined, are exactly the one-shot result, and the work per
//! token doesn't grow with the text. Chains that can't be split this way (CTC, rules that rewrite
//! the fused text) are decoded in a [`Window`] over the last tokens.

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::{Decoder, DecoderWrapper as Wrapper};

use super::tokenizer::guarded;

/// A tokenizer's decoder chain as incremental stages.
#[derive(Clone)]
pub(crate) enum Pipeline {
    Stages(Vec<Stage>),
    Window(Box<Window>),
}

impl Pipeline {
    /// Builds the pipeline of a tokenizer's decoder, at the beginning of a text.
    pub(crate) fn new(decoder: Option<&DecoderWrapper>) -> Self {
        let Some(decoder) = decoder else {
            // Without a decoder, `tokenizers` joins the tokens with spaces.
            return Self::Stages(vec![Stage::Join { first: true }]);
        };
        let mut parts = Vec::new();
        let mut stages = Vec::new();
        if flatten(decoder, &mut parts, 0) && stages_of(&parts, &mut stages).is_some() {
            Self::Stages(stages)
        } else {
            Self::Window(Box::new(Window::new(decoder.clone())))
        }
    }

    /// Whether the joined pieces always equal the one-shot result.
    pub(crate) fn is_exact(&self) -> bool {
        matches!(self, Self::Stages(_))
    }

    /// Takes a token's text and appends the text that is now certain to `out`.
    pub(crate) fn push(&mut self, token: String, out: &mut String) -> Result<(), String> {
        match self {
            Self::Stages(stages) => push_through(stages, token, out),
            Self::Window(window) => window.push(token, out),
        }
    }

    /// Ends the text: appends what was held back to `out`.
    pub(crate) fn finish(&mut self, out: &mut String) -> Result<(), String> {
        match self {
            Self::Stages(stages) => {
                for index in 0..stages.len() {
                    let mut held = Vec::new();
                    if let Some(stage) = stages.get_mut(index) {
                        stage.finish(&mut held)?;
                    }
                    for token in held {
                        push_through(stages.get_mut(index + 1..).unwrap_or_default(), token, out)?;
                    }
                }
                Ok(())
            }
            Self::Window(window) => window.finish(out),
        }
    }
}

/// Lists the decoders of nested sequences in order. False if they are nested too deeply.
fn flatten(decoder: &DecoderWrapper, parts: &mut Vec<DecoderWrapper>, depth: usize) -> bool {
    match decoder {
        Wrapper::Sequence(sequence) => {
            depth < 16 && sequence.get_decoders().iter().all(|part| flatten(part, parts, depth + 1))
        }
        other => {
            parts.push(other.clone());
            true
        }
    }
}

/// The stages of a chain; `None` if one of its decoders needs the whole text at once.
fn stages_of(parts: &[DecoderWrapper], stages: &mut Vec<Stage>) -> Option<()> {
    // After `Fuse` or `ByteLevel` the chain sees a single token: the text so far.
    let mut fused = false;
    for part in parts {
        match (part, fused) {
            (Wrapper::ByteLevel(_), false) => {
                stages.push(Stage::ByteLevel { pending: Vec::new() });
                fused = true;
            }
            (Wrapper::Fuse(_), false) => {
                stages.push(Stage::Fuse);
                fused = true;
            }
            (Wrapper::Fuse(_), true) => {}
            (Wrapper::ByteFallback(_), false) => {
                stages.push(Stage::ByteFallback { pending: Vec::new() });
            }
            (Wrapper::Replace(_), false) => stages.push(Stage::Each(part.clone())),
            (Wrapper::WordPiece(_) | Wrapper::Metaspace(_), false) => {
                stages.push(Stage::FirstDiffers { decoder: part.clone(), first: true });
            }
            // The fused text counts as the first token, and Metaspace looks at single characters.
            (Wrapper::Metaspace(_), true) => stages.push(Stage::Each(part.clone())),
            (Wrapper::BPE(_), false) => {
                stages.push(Stage::LastDiffers { decoder: part.clone(), held: None });
            }
            (Wrapper::Strip(strip), false) => stages.push(Stage::StripEach {
                content: strip.content,
                start: strip.start,
                stop: strip.stop,
            }),
            (Wrapper::Strip(strip), true) => stages.push(Stage::StripFused {
                content: strip.content,
                start: strip.start,
                stop: strip.stop,
                held: 0,
            }),
            _ => return None,
        }
    }
    Some(())
}

/// One decoder of a chain, with the text it holds back.
#[derive(Clone)]
pub(crate) enum Stage {
    /// No decoder: tokens are joined with spaces.
    Join { first: bool },
    /// Each token is rewritten independently.
    Each(DecoderWrapper),
    /// Each token is rewritten independently; the first of the text differently.
    FirstDiffers { decoder: DecoderWrapper, first: bool },
    /// Each token is rewritten independently; the last of the text differently.
    LastDiffers { decoder: DecoderWrapper, held: Option<String> },
    /// Runs of `<0xNN>` tokens become characters, or one U+FFFD per byte if the run is not valid
    /// UTF-8. That is known only at the end of the run.
    ByteFallback { pending: Vec<String> },
    /// Tokens are written in GPT-2's byte alphabet; the joined bytes are UTF-8.
    ByteLevel { pending: Vec<u8> },
    /// All tokens become one. Nothing to do, since the pieces are joined anyway.
    Fuse,
    /// Strips up to `start` and `stop` characters `content` from the ends of each token.
    StripEach { content: char, start: usize, stop: usize },
    /// The same for the ends of the fused text. `held` counts trailing `content` characters that
    /// may be its end.
    StripFused { content: char, start: usize, stop: usize, held: usize },
}

/// Passes one token through a chain of stages, and appends the result to `out`.
fn push_through(stages: &mut [Stage], token: String, out: &mut String) -> Result<(), String> {
    let Some((stage, rest)) = stages.split_first_mut() else {
        out.push_str(&token);
        return Ok(());
    };
    let mut produced = Vec::new();
    stage.push(token, &mut produced)?;
    for token in produced {
        push_through(rest, token, out)?;
    }
    Ok(())
}

impl Stage {
    fn push(&mut self, token: String, out: &mut Vec<String>) -> Result<(), String> {
        match self {
            Self::Fuse => out.push(token),
            Self::Join { first } => {
                let first = std::mem::replace(first, false);
                out.push(if first { token } else { format!(" {token}") });
            }
            Self::Each(decoder) => out.extend(run(decoder, vec![token])?),
            Self::FirstDiffers { decoder, first } => {
                if std::mem::replace(first, false) {
                    out.extend(run(decoder, vec![token])?);
                } else {
                    // An empty token stands for all earlier ones.
                    out.extend(run(decoder, vec![String::new(), token])?.into_iter().skip(1));
                }
            }
            Self::LastDiffers { decoder, held } => {
                if let Some(before) = held.replace(token) {
                    // An empty token stands for all later ones.
                    out.extend(run(decoder, vec![before, String::new()])?.into_iter().take(1));
                }
            }
            Self::ByteFallback { pending } => {
                if is_byte_token(&token) {
                    pending.push(token);
                } else {
                    flush_bytes(pending, out)?;
                    out.push(token);
                }
            }
            Self::ByteLevel { pending } => {
                push_byte_level(&token, pending);
                let mut text = String::new();
                take_utf8(pending, &mut text);
                out.push(text);
            }
            Self::StripEach { content, start, stop } => {
                out.push(strip(&token, *content, *start, *stop));
            }
            Self::StripFused { content, start, stop, held } => {
                let mut text = String::new();
                for c in token.chars() {
                    if *start > 0 {
                        if c == *content {
                            *start -= 1;
                            continue;
                        }
                        *start = 0;
                    }
                    if c == *content && *stop > 0 {
                        if *held < *stop {
                            *held += 1;
                        } else {
                            text.push(c);
                        }
                        continue;
                    }
                    text.extend(std::iter::repeat_n(*content, std::mem::take(held)));
                    text.push(c);
                }
                out.push(text);
            }
        }
        Ok(())
    }

    /// Returns what was held back, at the end of the text.
    fn finish(&mut self, out: &mut Vec<String>) -> Result<(), String> {
        match self {
            Self::LastDiffers { decoder, held } => {
                if let Some(last) = held.take() {
                    out.extend(run(decoder, vec![last])?);
                }
            }
            Self::ByteFallback { pending } => flush_bytes(pending, out)?,
            // An incomplete character at the end becomes one U+FFFD, as in `from_utf8_lossy`.
            Self::ByteLevel { pending } if !pending.is_empty() => {
                out.push(String::from_utf8_lossy(&std::mem::take(pending)).into_owned());
            }
            _ => {}
        }
        Ok(())
    }
}

fn run(decoder: &DecoderWrapper, tokens: Vec<String>) -> Result<Vec<String>, String> {
    guarded(|| decoder.decode_chain(tokens))?.map_err(|error| error.to_string())
}

/// Whether `tokenizers` takes the token for a byte. It handles signs inside the brackets itself.
fn is_byte_token(token: &str) -> bool {
    token.len() == 6
        && token.starts_with("<0x")
        && token.ends_with('>')
        && token.get(3..5).is_some_and(|digits| u8::from_str_radix(digits, 16).is_ok())
}

fn flush_bytes(pending: &mut Vec<String>, out: &mut Vec<String>) -> Result<(), String> {
    if !pending.is_empty() {
        let run = std::mem::take(pending);
        let texts = guarded(|| ByteFallback::new().decode_chain(run))?;
        out.extend(texts.map_err(|error| error.to_string())?);
    }
    Ok(())
}

/// Appends the bytes of a token in GPT-2's byte alphabet. A token with a character outside the
/// alphabet (such as an added token with a space) stands for its own UTF-8 bytes.
fn push_byte_level(token: &str, bytes: &mut Vec<u8>) {
    let before = bytes.len();
    for c in token.chars() {
        match byte_of(c) {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(before);
                bytes.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

/// Decodes GPT-2's alphabet: printable Latin-1 bytes stand for themselves, and the other 68, in
/// order, are the characters from U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// Moves all complete characters out of `bytes`, malformed ones as U+FFFD. An incomplete character
/// at the end stays; it has at most 3 bytes.
fn take_utf8(bytes: &mut Vec<u8>, text: &mut String) {
    let mut rest = bytes.as_slice();
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                bytes.clear();
                return;
            }
            Err(error) => {
                let (valid, after) = rest.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(valid));
                match error.error_len() {
                    Some(bad) => {
                        text.push(char::REPLACEMENT_CHARACTER);
                        rest = after.get(bad..).unwrap_or_default();
                    }
                    None => {
                        let kept = after.len();
                        let start = bytes.len() - kept;
                        bytes.drain(..start);
                        return;
                    }
                }
            }
        }
    }
}

/// Strips up to `start` and `stop` characters `content` from the ends of one token.
fn strip(token: &str, content: char, start: usize, stop: usize) -> String {
    let mut text = token;
    for _ in 0..start {
        match text.strip_prefix(content) {
            Some(rest) => text = rest,
            None => break,
        }
    }
    for _ in 0..stop {
        match text.strip_suffix(content) {
            Some(rest) => text = rest,
            None => break,
        }
    }
    text.to_string()
}

/// Decodes the last tokens with and without each new token and returns the difference, for chains
/// that have no incremental form. Exact as long as the chain rewrites no more than the window.
#[derive(Clone)]
pub(crate) struct Window {
    decoder: DecoderWrapper,
    tokens: Vec<String>,
    /// How many of `tokens` are context, whose text was returned already.
    context: usize,
}

impl Window {
    /// A window that stays undecided for this many tokens is returned as it is.
    const MAX_TOKENS: usize = 64;

    fn new(decoder: DecoderWrapper) -> Self {
        Self { decoder, tokens: Vec::new(), context: 0 }
    }

    fn text(&self, count: usize) -> Result<String, String> {
        let tokens = self.tokens.get(..count).unwrap_or(&self.tokens).to_vec();
        Ok(run(&self.decoder, tokens)?.concat())
    }

    fn push(&mut self, token: String, out: &mut String) -> Result<(), String> {
        self.tokens.push(token);
        let given = self.text(self.context)?;
        let text = self.text(self.tokens.len())?;
        let undecided = text.ends_with(char::REPLACEMENT_CHARACTER) || !text.starts_with(&given);
        if undecided && self.tokens.len() < Self::MAX_TOKENS {
            return Ok(());
        }
        out.push_str(new_part(&given, &text));
        // The tokens returned just now are the context of the next.
        self.tokens.drain(..self.context);
        self.context = self.tokens.len();
        Ok(())
    }

    fn finish(&mut self, out: &mut String) -> Result<(), String> {
        let given = self.text(self.context)?;
        let text = self.text(self.tokens.len())?;
        out.push_str(new_part(&given, &text));
        self.tokens.clear();
        self.context = 0;
        Ok(())
    }
}

/// The part of `text` after its common prefix with `given`.
fn new_part<'a>(given: &str, text: &'a str) -> &'a str {
    let shared: usize = given
        .chars()
        .zip(text.chars())
        .take_while(|(a, b)| a == b)
        .map(|(_, b)| b.len_utf8())
        .sum();
    text.get(shared..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_a_bijection() {
        let mut seen = [false; 256];
        for code in 0..0x200 {
            if let Some(byte) = char::from_u32(code).and_then(byte_of) {
                assert!(
                    !std::mem::replace(&mut seen[usize::from(byte)], true),
                    "byte {byte} twice"
                );
            }
        }
        assert!(seen.iter().all(|&seen| seen));
        // Well-known characters of the alphabet: space, newline, soft hyphen.
        assert_eq!(
            (byte_of('Ġ'), byte_of('Ċ'), byte_of('Ń')),
            (Some(b' '), Some(b'\n'), Some(0xad))
        );
    }

    #[test]
    fn utf8_is_cut_as_from_utf8_lossy_does() {
        let cases: [&[u8]; 6] = [
            b"plain",
            "h\u{e9}\u{4f60}\u{1f642}".as_bytes(),
            &[0xe4, 0xbd, b'a', 0xf0, 0x9f, 0x99],
            &[0xff, 0xfe, 0xc0, 0x80, 0xed, 0xa0, 0x80],
            &[0xf4, 0x90, 0x80, 0x80, 0xe2, 0x82],
            &[0xf0, 0x9f, 0xf0, 0x9f, 0x99, 0x82],
        ];
        for case in cases {
            let (mut pending, mut text) = (Vec::new(), String::new());
            for &byte in case {
                pending.push(byte);
                take_utf8(&mut pending, &mut text);
                assert!(pending.len() <= 3, "{pending:x?} is held back");
            }
            text.push_str(&String::from_utf8_lossy(&pending));
            assert_eq!(text, String::from_utf8_lossy(case), "{case:x?}");
        }
    }
}
