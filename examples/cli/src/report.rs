//! Reports errors: one line on standard error.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::error::ErrorKind;

use crate::error::CliError;
use crate::terminal::{self, ASIDE, ERROR, WARNING};
use crate::wrap;

mod hint;

static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Keeps panics off standard error: those that are caught are reported as one-line errors.
pub(crate) fn keep_panics_quiet() {
    std::panic::set_hook(Box::new(|info| {
        log::debug!("{info}");
        let mut last = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(info.to_string());
    }));
}

/// Message and location of the last panic.
pub(crate) fn last_panic() -> String {
    let last = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
    last.clone().unwrap_or_else(|| "no message".into())
}

/// Reports an error: its first line, with `--verbose` all lines.
pub(crate) fn error(error: &CliError, verbose: u8) -> ExitCode {
    match error {
        // These need no message: the reader has gone, or the user pressed Ctrl-C.
        CliError::BrokenPipe | CliError::Interrupted => {}
        CliError::Usage(message) => problem(&format!("{} (see --help)", one_line(message))),
        error => problem(&message(error, verbose)),
    }
    ExitCode::from(error.exit_code())
}

/// An error's message: its first line, with `verbose` all lines.
pub(crate) fn message(error: &CliError, verbose: u8) -> String {
    let text = error.to_string();
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    if verbose > 0 {
        return lines.map(clean).collect::<Vec<_>>().join("\n");
    }
    let mut message = clean(lines.next().unwrap_or("unknown error"));
    if lines.next().is_some() {
        message.push_str(" (use --verbose for all of it)");
    }
    message
}

/// Reports an error of clap in one line, or prints the requested help.
pub(crate) fn usage(error: &clap::Error, command: &clap::Command) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A pipe that closes early is not an error.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(2)
        }
        _ => {
            let text = error.render().to_string();
            let called = hint::called(&text, command);
            let called = called.as_deref();
            let hint = hint::hint(error, command, called);
            let wanted = text.lines().map(str::trim).take_while(|line| {
                !line.starts_with("Usage:") && !line.starts_with("For more information")
            });
            let mut joined = String::new();
            for line in wanted.filter(|line| !line.is_empty()) {
                match line.strip_prefix("tip: ") {
                    Some(_) if hint.is_some() => {}
                    Some(tip) => joined = format!("{joined}; {tip}"),
                    None => joined = format!("{joined} {line}"),
                }
            }
            if let Some(hint) = hint {
                joined = format!("{joined}; {hint}");
            }
            let about = called.map_or(String::new(), |name| format!("{name} "));
            problem(&format!(
                "{} (see kinglet {about}--help)",
                one_line(&joined).trim_start_matches("error: ")
            ));
            ExitCode::from(2)
        }
    }
}

/// Prints a line to standard error, wrapped on a terminal. Errors are ignored: there is nowhere to
/// report them.
pub(crate) fn tell(line: &str) {
    show("", anstyle::Style::new(), line, anstyle::Style::new());
}

/// Prints a dimmed remark to standard error.
pub(crate) fn aside(line: &str) {
    show("", ASIDE, line, ASIDE);
}

/// Prints an error.
pub(crate) fn problem(message: &str) {
    show("error: ", ERROR, message, anstyle::Style::new());
}

/// Prints a warning.
pub(crate) fn warning(message: &str) {
    show("warning: ", WARNING, message, anstyle::Style::new());
}

/// Prints a word in one style and text in another; `anstream` removes styles that can't be shown or
/// aren't wanted.
fn show(word: &str, of_word: anstyle::Style, text: &str, style: anstyle::Style) {
    let mut line = format!("{word}{text}");
    if let Some(width) = terminal::stderr_width() {
        line = wrap::fold(&line, width);
    }
    // The first word is never wrapped.
    let (word, text) = line.split_at_checked(word.len()).unwrap_or(("", &line));
    let word = if word.is_empty() { String::new() } else { format!("{of_word}{word}{of_word:#}") };
    let _ = writeln!(anstream::stderr().lock(), "{word}{style}{text}{style:#}");
}

/// Prints a log message of the engine in this program's form: `warning: ...`.
pub(crate) fn log(record: &log::Record<'_>) {
    let message = record.args().to_string();
    let message = message.lines().map(clean).collect::<Vec<_>>().join("\n");
    match record.level() {
        log::Level::Error => problem(&message),
        log::Level::Warn => warning(&message),
        log::Level::Info => tell(&format!("info: {message}")),
        level => tell(&format!("{} {}: {message}", level.as_str().to_lowercase(), record.target())),
    }
}

/// Joins all lines and collapses white space.
fn one_line(text: &str) -> String {
    clean(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Escapes control characters: a message may quote a file, which must not control the terminal.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\t' {
            let _ = write!(clean, "{}", c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_unless_more_is_asked_for() {
        let error = CliError::Usage("one\n\n  two\x1b[2J".into());
        assert_eq!(message(&error, 0), "one (use --verbose for all of it)");
        assert_eq!(message(&error, 1), "one\n  two\\u{1b}[2J");
        assert_eq!(one_line("a\n  b\tc"), "a b c");
    }
}
