//! Signals. Ctrl-C stops the current task if it can be stopped, otherwise the program. SIGTERM and
//! closing the terminal end the program, after time to save.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use kinglet::Cancel;

use crate::error::CliError;
use crate::terminal;

/// POSIX numbers, which exit codes contain.
const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
#[cfg(unix)]
const SIGTERM: i32 = 15;

/// How long a step may take to notice that the program is ending; after that it exits anyway.
const GRACE: Duration = Duration::from_secs(2);

/// Number of guards: whether anything checks [`HIT`].
static GUARDS: AtomicUsize = AtomicUsize::new(0);
/// Number of [`Keeper`]s.
static KEEPERS: AtomicUsize = AtomicUsize::new(0);
static HIT: AtomicBool = AtomicBool::new(false);
/// The signal that is ending the program, or 0.
static ENDING: AtomicI32 = AtomicI32::new(0);
/// Whether the code that saves has noticed that the program is ending.
static NOTICED: AtomicBool = AtomicBool::new(false);
/// Wakes the thread that waits for input.
static WAKE: Mutex<Option<Box<dyn Fn() + Send>>> = Mutex::new(None);

/// Installs the handlers. Unless a [`guard`] is held, each signal ends the program.
///
/// # Errors
/// If the system refuses.
pub(crate) fn install() -> Result<(), CliError> {
    system::install().map_err(CliError::Signals)
}

/// Makes closing the terminal (SIGHUP) end the program like SIGTERM, with time to save. Programs
/// that may outlive their terminal must not call this. Under `nohup` the signal stays ignored.
///
/// # Errors
/// If the system refuses.
pub(crate) fn watch_hangup() -> Result<(), CliError> {
    system::watch_hangup().map_err(CliError::Signals)
}

/// Takes Ctrl-C back from a line editor, which installs a handler for as long as it lives. Call it
/// at most once.
///
/// # Errors
/// If the system refuses.
pub(crate) fn reclaim() -> Result<(), CliError> {
    system::reclaim().map_err(CliError::Signals)
}

/// Delivers terminal resizes to the calling thread only, which interrupts what it waits for.
pub(crate) fn hear_of_resizes() {
    system::hear_of_resizes();
}

/// While held, Ctrl-C only sets [`hit`]; a second Ctrl-C still ends the program.
pub(crate) struct Guard(());

/// Starts watching for Ctrl-C. Guards nest (a conversation holds one, and each of its answers);
/// only the outermost clears earlier signals.
pub(crate) fn guard() -> Guard {
    if GUARDS.load(Ordering::SeqCst) == 0 {
        forget();
    }
    GUARDS.fetch_add(1, Ordering::SeqCst);
    Guard(())
}

impl Drop for Guard {
    fn drop(&mut self) {
        GUARDS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// While held, a second Ctrl-C also leaves time to save: see [`ending`].
pub(crate) struct Keeper(());

/// Announces that there is something to save before the program ends.
pub(crate) fn keep() -> Keeper {
    KEEPERS.fetch_add(1, Ordering::SeqCst);
    Keeper(())
}

impl Drop for Keeper {
    fn drop(&mut self) {
        KEEPERS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Calls `wake` on a separate thread for each signal that does not end the program at once.
pub(crate) fn on_signal(wake: impl Fn() + Send + 'static) {
    *WAKE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(wake));
}

/// Clears [`hit`], unless the program is ending.
pub(crate) fn forget() {
    if ENDING.load(Ordering::SeqCst) == 0 {
        HIT.store(false, Ordering::SeqCst);
        cancel().clear();
    }
}

/// Whether Ctrl-C was pressed since [`guard`] or [`forget`], or the program is ending.
pub(crate) fn hit() -> bool {
    HIT.load(Ordering::SeqCst)
}

/// Cancellation that is set while [`hit`] is true, for steps that can be cancelled.
pub(crate) fn cancel() -> &'static Cancel {
    static CANCEL: OnceLock<Cancel> = OnceLock::new();
    CANCEL.get_or_init(Cancel::new)
}

/// Whether a signal is ending the program. A caller that gets true must save and return.
pub(crate) fn ending() -> bool {
    let ending = ENDING.load(Ordering::SeqCst) != 0;
    if ending {
        NOTICED.store(true, Ordering::SeqCst);
    }
    ending
}

/// Reports that the terminal is gone, which output errors show before the signal arrives. Returns
/// false if there is nothing to save.
pub(crate) fn hang_up() -> bool {
    let keeps = KEEPERS.load(Ordering::SeqCst) > 0;
    if keeps && ENDING.swap(SIGHUP, Ordering::SeqCst) == 0 {
        HIT.store(true, Ordering::SeqCst);
        cancel().set();
    }
    keeps
}

/// Exit code of a program ended by a signal.
pub(crate) fn exit_code() -> u8 {
    match ENDING.load(Ordering::SeqCst) {
        0 => code(SIGINT),
        signal => code(signal),
    }
}

fn code(signal: i32) -> u8 {
    128 + u8::try_from(signal).unwrap_or(0)
}

/// Handles a signal, on the thread that waits for signals.
fn received(signal: i32) {
    if signal == SIGQUIT {
        terminal::restore();
        return system::default_action(signal);
    }
    // A closing terminal sends several signals; further ones must not interrupt saving.
    if ENDING.load(Ordering::SeqCst) != 0 {
        return;
    }
    if GUARDS.load(Ordering::SeqCst) == 0 {
        leave(signal);
    }
    cancel().set();
    // A second Ctrl-C before the first was handled ends the program.
    if !HIT.swap(true, Ordering::SeqCst) && signal == SIGINT {
        return wake();
    }
    if signal == SIGINT && KEEPERS.load(Ordering::SeqCst) == 0 {
        leave(signal);
    }
    ENDING.store(signal, Ordering::SeqCst);
    wake();
    let late = std::thread::Builder::new().name("grace".into()).spawn(move || {
        std::thread::sleep(GRACE);
        if !NOTICED.load(Ordering::SeqCst) {
            leave(signal);
        }
    });
    if late.is_err() {
        leave(signal);
    }
}

fn wake() {
    if let Some(wake) = &*WAKE.lock().unwrap_or_else(PoisonError::into_inner) {
        wake();
    }
}

/// Ends the program immediately.
fn leave(signal: i32) -> ! {
    terminal::restore();
    std::process::exit(i32::from(code(signal)))
}

#[cfg(unix)]
mod system {
    use std::io;
    use std::sync::OnceLock;

    use nix::sys::signal::{SigSet, Signal};
    use signal_hook::iterator::{Handle, Signals};

    use super::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, received};

    static HANDLE: OnceLock<Handle> = OnceLock::new();

    pub(super) fn install() -> io::Result<()> {
        // Blocked on this thread and on all threads that it starts.
        resizes().thread_block()?;
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGQUIT])?;
        let _ = HANDLE.set(signals.handle());
        let wait = move || signals.forever().for_each(received);
        std::thread::Builder::new().name("signals".into()).spawn(wait)?;
        Ok(())
    }

    fn resizes() -> SigSet {
        let mut set = SigSet::empty();
        set.add(Signal::SIGWINCH);
        set
    }

    pub(super) fn hear_of_resizes() {
        let _ = resizes().thread_unblock();
    }

    pub(super) fn reclaim() -> io::Result<()> {
        ctrlc::set_handler(|| received(SIGINT)).map_err(io::Error::other)
    }

    pub(super) fn watch_hangup() -> io::Result<()> {
        match HANDLE.get() {
            Some(handle) if !hangup_is_ignored() => handle.add_signal(SIGHUP),
            _ => Ok(()),
        }
    }

    /// Whether the program was started with SIGHUP ignored, if the system tells (Linux).
    fn hangup_is_ignored() -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask & 1 << (SIGHUP - 1) != 0)
    }

    pub(super) fn default_action(signal: i32) {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
}

#[cfg(not(unix))]
mod system {
    use std::io;

    use super::{SIGINT, received};

    pub(super) fn install() -> io::Result<()> {
        ctrlc::set_handler(|| received(SIGINT)).map_err(io::Error::other)
    }

    /// The editor reads keys, not signals, so the handler stays.
    pub(super) fn reclaim() -> io::Result<()> {
        Ok(())
    }

    pub(super) fn hear_of_resizes() {}

    pub(super) fn watch_hangup() -> io::Result<()> {
        Ok(())
    }

    pub(super) fn default_action(_signal: i32) {}
}
