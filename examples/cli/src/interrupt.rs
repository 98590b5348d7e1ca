//! Signals. Ctrl-C stops what is going on where that can be stopped, else the program. SIGTERM and a terminal that is closed
//! end the program; whoever has something to save is given the time for it.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use kinglet::Cancel;

use crate::error::CliError;
use crate::terminal;

/// As POSIX numbers them; they stand in exit codes.
const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
#[cfg(unix)]
const SIGTERM: i32 = 15;

/// How long a step may take to notice that the program ends, before it ends without.
const GRACE: Duration = Duration::from_secs(2);

/// How many guards are held: whether somebody watches [`HIT`].
static GUARDS: AtomicUsize = AtomicUsize::new(0);
/// How many [`Keeper`]s are held.
static KEEPERS: AtomicUsize = AtomicUsize::new(0);
static HIT: AtomicBool = AtomicBool::new(false);
/// The signal that ends the program; 0 is none.
static ENDING: AtomicI32 = AtomicI32::new(0);
/// Whether the one who saves knows that the program ends.
static NOTICED: AtomicBool = AtomicBool::new(false);
/// Wakes who waits for input.
static WAKE: Mutex<Option<Box<dyn Fn() + Send>>> = Mutex::new(None);

/// Installs the handlers. Until [`guard`] is held, each of the signals ends the program.
///
/// # Errors
/// When the system refuses.
pub(crate) fn install() -> Result<(), CliError> {
    system::install().map_err(CliError::Signals)
}

/// Has the end of the terminal (SIGHUP) end the program as SIGTERM does, with time to save. Not for programs that are
/// meant to outlive their terminal: under `nohup` the signal stays ignored.
///
/// # Errors
/// When the system refuses.
pub(crate) fn watch_hangup() -> Result<(), CliError> {
    system::watch_hangup().map_err(CliError::Signals)
}

/// Takes Ctrl-C back from a line editor, which has just installed a handler of its own for as long as it lives. Once in
/// a program.
///
/// # Errors
/// When the system refuses.
pub(crate) fn reclaim() -> Result<(), CliError> {
    system::reclaim().map_err(CliError::Signals)
}

/// Has the calling thread be told when the terminal's size changes, as the only one: whatever it waits for is interrupted then.
pub(crate) fn hear_of_resizes() {
    system::hear_of_resizes();
}

/// While it is held, Ctrl-C only makes [`hit`] true; a second one ends the program all the same.
pub(crate) struct Guard(());

/// Begins to watch for Ctrl-C. A guard for a conversation can hold others for its answers: only the outermost forgets what
/// came before.
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

/// While it is held, a second Ctrl-C also leaves a moment to save: see [`ending`].
pub(crate) struct Keeper(());

/// Announces that there is something to save when the program ends.
pub(crate) fn keep() -> Keeper {
    KEEPERS.fetch_add(1, Ordering::SeqCst);
    Keeper(())
}

impl Drop for Keeper {
    fn drop(&mut self) {
        KEEPERS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Calls `wake` on a thread of its own at every signal that doesn't end the program at once.
pub(crate) fn on_signal(wake: impl Fn() + Send + 'static) {
    *WAKE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(wake));
}

/// Makes [`hit`] false, unless the program ends.
pub(crate) fn forget() {
    if ENDING.load(Ordering::SeqCst) == 0 {
        HIT.store(false, Ordering::SeqCst);
        cancel().clear();
    }
}

/// Whether Ctrl-C was pressed since [`guard`] or [`forget`], or the program ends.
pub(crate) fn hit() -> bool {
    HIT.load(Ordering::SeqCst)
}

/// Is set while [`hit`] is true: for steps that can be stopped on their way.
pub(crate) fn cancel() -> &'static Cancel {
    static CANCEL: OnceLock<Cancel> = OnceLock::new();
    CANCEL.get_or_init(Cancel::new)
}

/// Whether a signal ends the program. Who asks is expected to save what is to be saved and to return.
pub(crate) fn ending() -> bool {
    let ending = ENDING.load(Ordering::SeqCst) != 0;
    if ending {
        NOTICED.store(true, Ordering::SeqCst);
    }
    ending
}

/// Says that the terminal is gone, which shows before its signal comes. False where nobody has anything to save.
pub(crate) fn hang_up() -> bool {
    let keeps = KEEPERS.load(Ordering::SeqCst) > 0;
    if keeps && ENDING.swap(SIGHUP, Ordering::SeqCst) == 0 {
        HIT.store(true, Ordering::SeqCst);
        cancel().set();
    }
    keeps
}

/// The exit code of a program that a signal ended.
pub(crate) fn exit_code() -> u8 {
    match ENDING.load(Ordering::SeqCst) {
        0 => code(SIGINT),
        signal => code(signal),
    }
}

fn code(signal: i32) -> u8 {
    128 + u8::try_from(signal).unwrap_or(0)
}

/// What a signal does, on the thread that waits for signals.
fn received(signal: i32) {
    if signal == SIGQUIT {
        terminal::restore();
        return system::default_action(signal);
    }
    // A terminal that closes sends more than one signal, and impatience must not cost what is being saved.
    if ENDING.load(Ordering::SeqCst) != 0 {
        return;
    }
    if GUARDS.load(Ordering::SeqCst) == 0 {
        leave(signal);
    }
    cancel().set();
    // A second Ctrl-C before the first was noticed means it.
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

/// Ends the program here and now.
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
        // Here, and in all threads that are started from here.
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

    /// Whether the program was started with SIGHUP ignored, where the system tells (Linux).
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

    /// Keys are read, not signals, and the handler is kept.
    pub(super) fn reclaim() -> io::Result<()> {
        Ok(())
    }

    pub(super) fn hear_of_resizes() {}

    pub(super) fn watch_hangup() -> io::Result<()> {
        Ok(())
    }

    pub(super) fn default_action(_signal: i32) {}
}
