//! The terminal's properties and modes: typing during an answer must not appear in the answer.

use std::io::{self, IsTerminal};

use anstyle::{AnsiColor, Style};
use terminal_size::Width;

/// Remarks next to answers.
pub(crate) const ASIDE: Style = Style::new().dimmed();
/// Errors.
pub(crate) const ERROR: Style = AnsiColor::Red.on_default().bold();
/// Warnings.
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// The prompt before user input.
pub(crate) const PROMPT: Style = AnsiColor::Cyan.on_default().bold();

/// Columns of the terminal on standard output, if it is one and tells.
pub(crate) fn stdout_width() -> Option<usize> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    columns(terminal_size::terminal_size_of(stdout))
}

/// Columns of the terminal on standard error.
pub(crate) fn stderr_width() -> Option<usize> {
    let stderr = io::stderr();
    if !stderr.is_terminal() {
        return None;
    }
    columns(terminal_size::terminal_size_of(stderr))
}

fn columns(size: Option<(Width, terminal_size::Height)>) -> Option<usize> {
    size.map(|(Width(columns), _)| usize::from(columns)).filter(|&columns| columns > 0)
}

/// Whether input may be colored: the terminal supports it and `NO_COLOR` is not set.
pub(crate) fn has_color() -> bool {
    anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
}

/// Whether the terminal, by its name, can't move its cursor; lines are then read without an editor.
pub(crate) fn is_dumb() -> bool {
    std::env::var("TERM").is_ok_and(|name| ["dumb", "cons25", "emacs"].contains(&name.as_str()))
}

pub(crate) use modes::{Quiet, prompting, quiet, restore};

#[cfg(unix)]
mod modes {
    use std::io::{self, IsTerminal};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Mutex, PoisonError};

    use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};

    /// Terminal modes before [`quiet`].
    static ORIGINAL: Mutex<Option<Termios>> = Mutex::new(None);
    /// Whether the line editor is active.
    static PROMPTING: AtomicBool = AtomicBool::new(false);
    /// Disables bracketed paste, which the line editor enables.
    const PASTE_OFF: &[u8] = b"\x1b[?2004l\r\n";

    /// While held, the terminal does not echo input but keeps it for the next reader. Ctrl-C still
    /// works.
    pub(crate) struct Quiet(());

    /// Turns off echo on the terminal of standard input.
    pub(crate) fn quiet() -> Quiet {
        let stdin = io::stdin();
        if stdin.is_terminal()
            && let Ok(original) = termios::tcgetattr(&stdin)
        {
            let mut modes = original.clone();
            // Canonical mode off: Ctrl-D is kept as a character instead of ending a line that
            // nothing reads yet.
            modes.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
            modes.special_codes[SpecialCodeIndex::VMIN] = 1;
            modes.special_codes[SpecialCodeIndex::VTIME] = 0;
            *lock() = Some(original);
            let _ = termios::tcsetattr(&stdin, OptionalActions::Now, &modes);
        }
        Quiet(())
    }

    impl Drop for Quiet {
        fn drop(&mut self) {
            restore();
        }
    }

    /// Records whether the line editor is active.
    pub(crate) fn prompting(yes: bool) {
        PROMPTING.store(yes, Ordering::SeqCst);
    }

    /// Restores the terminal's original modes, whatever changed them. Ignores a terminal that is
    /// gone.
    pub(crate) fn restore() {
        let Some(original) = lock().take() else { return };
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &original);
        // Bypasses the lock of standard output, which may be held.
        if PROMPTING.load(Ordering::SeqCst) && io::stdout().is_terminal() {
            let _ = rustix::io::write(io::stdout(), PASTE_OFF);
        }
    }

    fn lock() -> std::sync::MutexGuard<'static, Option<Termios>> {
        ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(not(unix))]
mod modes {
    /// Other systems have no such mode.
    pub(crate) struct Quiet(());

    pub(crate) fn quiet() -> Quiet {
        Quiet(())
    }

    pub(crate) fn prompting(_yes: bool) {}

    pub(crate) fn restore() {}
}
