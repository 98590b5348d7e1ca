//! A pseudo-terminal that runs the program, and the screen that a person would see.

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use pty_process::Size;
use pty_process::blocking::{self, Pty};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal};
use rustix::termios::{LocalModes, tcgetattr};

const ROWS: u16 = 50;
/// After this long something is wrong, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program in a terminal.
pub(super) struct Terminal {
    pty: Pty,
    child: Child,
    screen: vt100::Parser,
    /// All output so far.
    written: Vec<u8>,
}

impl Terminal {
    /// Starts a command in a terminal with the given number of columns.
    pub(super) fn start(command: &std::process::Command, columns: u16) -> Self {
        let (pty, pts) = blocking::open().unwrap();
        pty.resize(Size::new(ROWS, columns)).unwrap();
        let mut inside = blocking::Command::new(command.get_program()).args(command.get_args());
        inside = inside.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        for (name, value) in command.get_envs() {
            inside = match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        let child = inside.spawn(pts).unwrap();
        let screen = vt100::Parser::new(size(ROWS), size(columns), 0);
        Self { pty, child, screen, written: Vec::new() }
    }

    /// The screen's text, without trailing blanks and empty lines.
    pub(super) fn text(&self) -> String {
        let contents = self.screen.screen().contents();
        contents.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_string()
    }

    /// The screen's lines as the terminal shows them.
    pub(super) fn rows(&self) -> Vec<String> {
        let (_, columns) = self.screen.screen().size();
        self.screen.screen().rows(0, columns.get()).map(|row| row.trim_end().to_string()).collect()
    }

    /// Whether the terminal, rather than the program, broke a line of the screen.
    pub(super) fn has_broken_line(&self) -> bool {
        (0..ROWS).any(|row| self.screen.screen().row_wrapped(row))
    }

    /// All that was written, escape sequences too.
    pub(super) fn written(&self) -> String {
        String::from_utf8_lossy(&self.written).into_owned()
    }

    /// Reads what arrives within a moment; false at the end.
    fn read(&mut self) -> bool {
        let moment = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let mut fds = [PollFd::new(&self.pty, PollFlags::IN)];
        if rustix::event::poll(&mut fds, Some(&moment)).unwrap_or(0) == 0 {
            return true;
        }
        let mut bytes = [0; 4096];
        // Linux reports an error where other systems report an end.
        let count = self.pty.read(&mut bytes).unwrap_or(0);
        self.screen.process(&bytes[..count]);
        self.written.extend(&bytes[..count]);
        count > 0
    }

    /// Waits until the screen is as expected.
    #[track_caller]
    pub(super) fn wait(&mut self, what: &str, is_there: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_there(self) {
            assert!(begun.elapsed() < PATIENCE, "no {what} on the screen:\n{}", self.text());
            let more = self.read();
            assert!(more || is_there(self), "it ended without {what}:\n{}", self.text());
        }
    }

    /// Waits for a text.
    #[track_caller]
    pub(super) fn see(&mut self, text: &str) {
        self.wait(text, |terminal| terminal.text().contains(text));
    }

    /// Waits until a line can be typed.
    #[track_caller]
    pub(super) fn prompt(&mut self) {
        self.wait("prompt", |terminal| terminal.text().lines().last() == Some(">"));
    }

    /// Types without Enter.
    pub(super) fn type_in(&mut self, keys: &str) {
        self.pty.write_all(keys.as_bytes()).unwrap();
    }

    /// Types a line at the prompt and checks that it was accepted.
    #[track_caller]
    pub(super) fn say(&mut self, line: &str) {
        self.prompt();
        self.type_in(line);
        let typed = format!("> {line}");
        let is_last = |terminal: &Self| terminal.text().ends_with(&typed);
        self.wait(&typed, is_last);
        self.type_in("\r");
        let column = |terminal: &Self| terminal.screen.screen().cursor_position().1;
        self.wait("next line", |terminal| column(terminal) == 0 || !is_last(terminal));
    }

    /// Waits until an answer, recognized by words that no prompt has, has begun.
    #[track_caller]
    pub(super) fn see_words(&mut self, question: &str) {
        let begun = |terminal: &Self| {
            let text = terminal.text();
            let after = text.rsplit_once(&format!("> {question}")).map(|(_, after)| after);
            // Or the question has scrolled off the screen.
            after.is_none_or(|after| after.trim().len() > 20)
        };
        self.wait("answer", begun);
    }

    pub(super) fn resize(&mut self, columns: u16) {
        self.pty.resize(Size::new(ROWS, columns)).unwrap();
        self.screen.set_size(size(ROWS), size(columns));
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        rustix::process::kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Whether typing is echoed, as a shell expects after a program ends.
    pub(super) fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.pty).unwrap();
        modes.local_modes.contains(LocalModes::ECHO | LocalModes::ICANON)
    }

    /// Whether it has ended. Keeps reading, so that it can.
    pub(super) fn has_ended(&mut self) -> bool {
        self.read();
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end; returns the exit code.
    #[track_caller]
    pub(super) fn end(&mut self) -> i32 {
        let begun = Instant::now();
        while !self.has_ended() {
            assert!(begun.elapsed() < PATIENCE, "it does not end:\n{}", self.text());
        }
        while self.read_rest() {}
        code(self.child.wait().unwrap())
    }

    fn read_rest(&mut self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.pty, PollFlags::IN)];
        let ready = rustix::event::poll(&mut fds, Some(&now)).unwrap_or(0) > 0;
        let readable = ready && fds[0].revents().contains(PollFlags::IN);
        readable && self.read()
    }

    /// Closes the terminal, as the window's button does, and waits for the end; returns the exit
    /// code.
    #[track_caller]
    pub(super) fn close(self) -> i32 {
        let Self { pty, mut child, .. } = self;
        drop(pty);
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return code(status);
            }
            if begun.elapsed() > PATIENCE {
                child.kill().unwrap();
                panic!("the program did not end after its terminal closed");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn size(cells: u16) -> NonZeroU16 {
    NonZeroU16::new(cells).unwrap()
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or(-1)
}
