//! [`Cancel`]: a flag by which another thread stops a step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that any thread can set. Clones are the same flag.
///
/// Given to a session ([`Session::set_cancel`](crate::Session::set_cancel)), it stops the steps that the session takes part
/// in with [`Error::Cancelled`](crate::Error::Cancelled): a step of several tokens between two ops, where the backend can (the CPU), otherwise at its
/// end. The sessions are then what they were before the call. The flag stays set until it is cleared.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets it.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Makes steps possible again.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
