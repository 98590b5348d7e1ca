//! What is known of the terminal, and its modes: what is typed while an answer appears must not be shown in the midst of it.

use std::io::{self, IsTerminal};

use anstyle::{AnsiColor, Style};
use terminal_size::Width;

/// What is said beside answers.
pub(crate) const ASIDE: Style = Style::new().dimmed();
/// What went wrong.
pub(crate) const ERROR: Style = AnsiColor::Red.on_default().bold();
/// What may go wrong.
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// Before what is typed.
pub(crate) const PROMPT: Style = AnsiColor::Cyan.on_default().bold();

/// Columns of the terminal that standard output is; `None` if it is none, or doesn't say.
pub(crate) fn stdout_width() -> Option<usize> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    columns(terminal_size::terminal_size_of(stdout))
}

/// Columns of the terminal that standard error is.
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

/// Whether what is typed may be coloured: a terminal that can, and no `NO_COLOR` in the environment.
pub(crate) fn has_color() -> bool {
    anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
}

/// Whether the terminal can't move its cursor, by its name: lines are then read without an editor.
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

    /// As the terminal was before [`quiet`].
    static ORIGINAL: Mutex<Option<Termios>> = Mutex::new(None);
    /// Whether the line editor has the terminal.
    static PROMPTING: AtomicBool = AtomicBool::new(false);
    /// Ends the mode in which pasted text is marked, which the line editor begins.
    const PASTE_OFF: &[u8] = b"\x1b[?2004l\r\n";

    /// While it is held, the terminal does not show what is typed, and keeps it for who reads next. Ctrl-C still works.
    pub(crate) struct Quiet(());

    /// Silences the terminal that standard input is.
    pub(crate) fn quiet() -> Quiet {
        let stdin = io::stdin();
        if stdin.is_terminal()
            && let Ok(original) = termios::tcgetattr(&stdin)
        {
            let mut modes = original.clone();
            // Ctrl-D is kept as the character that it is, rather than ending a line that nobody reads yet.
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

    /// Says whether the line editor has the terminal.
    pub(crate) fn prompting(yes: bool) {
        PROMPTING.store(yes, Ordering::SeqCst);
    }

    /// Makes the terminal what it was, whoever has changed it. Where it is gone there is nothing to do.
    pub(crate) fn restore() {
        let Some(original) = lock().take() else { return };
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &original);
        // Not through the lock of standard output, which may be held.
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
    /// There is no such mode here.
    pub(crate) struct Quiet(());

    pub(crate) fn quiet() -> Quiet {
        Quiet(())
    }

    pub(crate) fn prompting(_yes: bool) {}

    pub(crate) fn restore() {}
}
