//! Logits, tokens and states on their way to the host.

use std::sync::Mutex;

use super::api::Gpu;
use super::target::lock;
use crate::Error;

/// Staging memory, kept from step to step.
pub(super) struct Pool<A: Gpu> {
    free: Mutex<Vec<A::Staging>>,
    /// How many are kept.
    most: usize,
}

impl<A: Gpu> Pool<A> {
    pub(super) fn new(most: usize) -> Self {
        Self { free: Mutex::default(), most }
    }

    /// Staging memory of at least `bytes`.
    ///
    /// # Errors
    /// When there is no memory.
    pub(super) fn take(&self, device: &A, bytes: u64) -> Result<A::Staging, Error> {
        let mut free = lock(&self.free);
        if let Some(place) = free.iter().position(|staging| A::staging_size(staging) >= bytes) {
            return Ok(free.swap_remove(place));
        }
        drop(free);
        device.staging(bytes.next_multiple_of(16))
    }

    pub(super) fn give(&self, staging: A::Staging) {
        let mut free = lock(&self.free);
        if free.len() >= self.most {
            free.remove(0);
        }
        free.push(staging);
    }
}

/// What a submission leaves in staging memory, in order, with the bytes that count.
pub(super) struct Readback<A: Gpu> {
    submission: A::Submission,
    staging: Vec<(A::Staging, u64)>,
}

impl<A: Gpu> Readback<A> {
    pub(super) fn new(submission: A::Submission, staging: Vec<(A::Staging, u64)>) -> Self {
        Self { submission, staging }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.staging.is_empty()
    }

    /// Waits for the submission, gives the values to `take` and the memory back to `pool`.
    ///
    /// # Errors
    /// When the device is lost or doesn't answer.
    pub(super) async fn read<T: bytemuck::Pod>(
        self,
        device: &A,
        pool: &Pool<A>,
        take: impl FnMut(&[T]),
    ) -> Result<(), Error> {
        device.read(self.submission, &self.staging, take).await?;
        self.staging.into_iter().for_each(|(staging, _)| pool.give(staging));
        device.check()
    }
}
