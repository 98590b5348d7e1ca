//! Ctrl-C: it stops what is going on where that can be stopped, else the program.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::error::CliError;

/// How many guards are held: whether somebody watches [`HIT`].
static GUARDS: AtomicUsize = AtomicUsize::new(0);
static HIT: AtomicBool = AtomicBool::new(false);

/// Installs the handler. Until [`guard`] is held, Ctrl-C ends the program.
///
/// # Errors
/// When the system refuses.
pub(crate) fn install() -> Result<(), CliError> {
    ctrlc::set_handler(|| {
        // A second Ctrl-C before the first was noticed means it.
        if GUARDS.load(Ordering::SeqCst) == 0 || HIT.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    })
    .map_err(CliError::Signals)
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

/// Makes [`hit`] false.
pub(crate) fn forget() {
    HIT.store(false, Ordering::SeqCst);
}

/// Whether Ctrl-C was pressed since [`guard`] or [`forget`].
pub(crate) fn hit() -> bool {
    HIT.load(Ordering::SeqCst)
}
