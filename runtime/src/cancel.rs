//! [`Cancel`]: a flag that stops a step from another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that any thread can set to stop the steps of a session. Clones share one flag.
///
/// Pass it to [`Session::set_cancel`](crate::Session::set_cancel). While it is set, every step that
/// the session takes part in fails with [`Error::Cancelled`](crate::Error::Cancelled). A step of
/// several tokens stops between two ops on the CPU, and at its end on other backends. The sessions
/// are then as they were before the call. The flag stays set until [`Cancel::clear`].
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Creates a flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Clears the flag: steps may run again.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Whether the flag is set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
