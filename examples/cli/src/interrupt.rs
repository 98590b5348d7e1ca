//! Ctrl-C: it stops what is going on where that can be stopped, else the program.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::CliError;

/// Whether somebody watches [`HIT`].
static ARMED: AtomicBool = AtomicBool::new(false);
static HIT: AtomicBool = AtomicBool::new(false);

/// Installs the handler. Until [`guard`] is held, Ctrl-C ends the program.
///
/// # Errors
/// When the system refuses.
pub(crate) fn install() -> Result<(), CliError> {
    ctrlc::set_handler(|| {
        // A second Ctrl-C before the first was noticed means it.
        if !ARMED.load(Ordering::SeqCst) || HIT.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    })
    .map_err(CliError::Signals)
}

/// While it is held, Ctrl-C only makes [`hit`] true.
pub(crate) struct Guard(());

/// Begins to watch for Ctrl-C.
pub(crate) fn guard() -> Guard {
    HIT.store(false, Ordering::SeqCst);
    ARMED.store(true, Ordering::SeqCst);
    Guard(())
}

impl Drop for Guard {
    fn drop(&mut self) {
        ARMED.store(false, Ordering::SeqCst);
    }
}

/// Whether Ctrl-C was pressed since [`guard`].
pub(crate) fn hit() -> bool {
    HIT.load(Ordering::SeqCst)
}
