//! Standard output: text as it is generated, or one JSON object per line.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use serde_json::{Value, json};

use crate::error::CliError;
use crate::generation::Answer;
use crate::wrap::Wrapper;
use crate::{interrupt, terminal};

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The text alone.
    Text,
    /// One JSON object per line.
    Json,
}

/// Standard output.
pub(crate) struct Output {
    format: Format,
    /// Whether to escape control characters: a model's text must not control the terminal.
    escape: bool,
    /// Position of the cursor. On a terminal text is wrapped between words.
    wrapper: Wrapper,
    /// Whether the last text ended with a line break, or there was none.
    at_line_start: bool,
}

impl Output {
    /// Creates the output for a format.
    pub(crate) fn new(format: Format) -> Self {
        let wrapper = Wrapper::default();
        Self { format, escape: io::stdout().is_terminal(), wrapper, at_line_start: true }
    }

    /// The format.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Prints one token: its id (`None` at the end of the text) and the text that is now final.
    ///
    /// # Errors
    /// [`CliError::BrokenPipe`] if the reader is gone, otherwise [`CliError::Stdout`].
    pub(crate) fn token(&mut self, id: Option<u32>, text: &str) -> Result<(), CliError> {
        match self.format {
            Format::Text if text.is_empty() => Ok(()),
            Format::Text => self.text(text),
            Format::Json if id.is_none() && text.is_empty() => Ok(()),
            Format::Json => self.event(&json!({ "event": "token", "id": id, "text": text })),
        }
    }

    /// Prints the end of an answer: a line break, or the final event.
    ///
    /// # Errors
    /// As [`Output::token`].
    pub(crate) fn done(&mut self, answer: &Answer) -> Result<(), CliError> {
        match self.format {
            Format::Text => self.end_line(),
            Format::Json => self.event(&answer.to_json()),
        }
    }

    /// Prints text that was held back, and ends the line if it is not empty.
    ///
    /// # Errors
    /// As [`Output::token`].
    pub(crate) fn end_line(&mut self) -> Result<(), CliError> {
        match self.at_line_start {
            true => Ok(()),
            false => self.text("\n"),
        }
    }

    /// Prints plain text at once; on a terminal, word by word.
    ///
    /// # Errors
    /// As [`Output::token`].
    pub(crate) fn text(&mut self, text: &str) -> Result<(), CliError> {
        let shown = if self.escape { escape(text) } else { Cow::Borrowed(text) };
        self.at_line_start = text.ends_with('\n');
        let shown = match terminal::stdout_width().filter(|_| self.escape) {
            Some(width) => Cow::Owned(self.wrapper.push(&shown, width)),
            None => shown,
        };
        let mut out = io::stdout().lock();
        match out.write_all(shown.as_bytes()).and_then(|()| out.flush()) {
            // The terminal was closed. The task ends as after SIGHUP, and is saved.
            Err(_) if self.escape && interrupt::hang_up() => Ok(()),
            written => written.map_err(failed),
        }
    }

    /// Prints the program's own text with styles, which only a terminal that supports them shows.
    /// Quoted text must be [`escape`]d.
    ///
    /// # Errors
    /// As [`Output::token`].
    pub(crate) fn styled(&mut self, text: &str) -> Result<(), CliError> {
        self.at_line_start = text.ends_with('\n');
        let mut out = anstream::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(failed)
    }

    /// Prints a JSON object on its own line. Integers that JavaScript would round become strings.
    ///
    /// # Errors
    /// As [`Output::token`].
    pub(crate) fn event(&mut self, event: &Value) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", exact(event)).and_then(|()| out.flush()).map_err(failed)
    }
}

/// Integers below this are exact in JavaScript and in other software that stores numbers as
/// doubles.
const EXACT_BELOW: u64 = 1 << 53;

/// Converts integers that a double can't hold to strings.
fn exact(value: &Value) -> Cow<'_, Value> {
    fn holds(value: &Value) -> bool {
        match value {
            Value::Number(number) => {
                number.is_f64()
                    || number.as_i128().is_some_and(|n| n.unsigned_abs() < u128::from(EXACT_BELOW))
            }
            Value::Array(values) => values.iter().all(holds),
            Value::Object(fields) => fields.values().all(holds),
            _ => true,
        }
    }
    fn convert(value: &mut Value) {
        match value {
            Value::Number(_) if !holds(value) => *value = Value::String(value.to_string()),
            Value::Array(values) => values.iter_mut().for_each(convert),
            Value::Object(fields) => fields.values_mut().for_each(convert),
            _ => {}
        }
    }
    if holds(value) {
        return Cow::Borrowed(value);
    }
    let mut value = value.clone();
    convert(&mut value);
    Cow::Owned(value)
}

pub(crate) fn failed(error: io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::BrokenPipe,
        _ => CliError::Stdout(error),
    }
}

/// Replaces control characters, except tab and line break, by their symbols from U+2400 on.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let visible = |c: char| match c {
        '\u{7f}' => '\u{2421}',
        c if !steers(c) => c,
        c => char::from_u32(0x2400 + u32::from(c)).filter(|_| c < ' ').unwrap_or('\u{fffd}'),
    };
    Cow::Owned(text.chars().map(visible).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_not_obeyed() {
        assert_eq!(escape("a\tb\nü"), "a\tb\nü");
        assert_eq!(escape("\x1b[2J\x07\x7f\u{9b}1m\r"), "␛[2J␇␡\u{fffd}1m␍");
    }

    #[test]
    fn whole_numbers_that_a_double_would_round_are_text() {
        let event = json!({ "a": [u64::MAX, 1u64 << 53, (1u64 << 53) - 1], "b": { "c": i64::MIN, "d": -5 }, "e": 1e300 });
        let expected = json!({
            "a": ["18446744073709551615", "9007199254740992", 9_007_199_254_740_991u64],
            "b": { "c": "-9223372036854775808", "d": -5 },
            "e": 1e300,
        });
        assert_eq!(*exact(&event), expected);
        let small = json!({ "seed": 7 });
        assert!(matches!(exact(&small), Cow::Borrowed(_)));
    }
}
