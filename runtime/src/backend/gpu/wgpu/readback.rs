//! Logits, tokens and states on their way back.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use super::device::Device;
use crate::Error;

/// Buffers that the host can map, kept from step to step.
pub(super) struct Spare {
    buffers: Mutex<Vec<wgpu::Buffer>>,
    /// Those beyond are let go.
    most: usize,
}

impl Spare {
    pub(super) fn new(most: usize) -> Self {
        Self { buffers: Mutex::default(), most }
    }

    /// A buffer of at least `bytes`.
    pub(super) fn take(&self, device: &Device, bytes: u64) -> Result<wgpu::Buffer, Error> {
        let mut spare = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = spare.iter().position(|buffer| buffer.size() >= bytes) {
            return Ok(spare.swap_remove(place));
        }
        drop(spare);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        device.unbound_buffer("logits", bytes.next_multiple_of(16), usage)
    }

    pub(super) fn give(&self, buffer: wgpu::Buffer) {
        let mut spare = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() >= self.most {
            spare.remove(0);
        }
        spare.push(buffer);
    }
}

/// What a submission leaves in mappable buffers, in order, with the bytes that count.
pub(super) struct Readback {
    submission: wgpu::SubmissionIndex,
    staging: Vec<(wgpu::Buffer, u64)>,
}

/// Whether a buffer was mapped, and who waits for it.
#[derive(Default)]
struct Mapping {
    result: Option<Result<(), wgpu::BufferAsyncError>>,
    waker: Option<Waker>,
}

impl Readback {
    pub(super) fn new(
        submission: wgpu::SubmissionIndex,
        staging: Vec<(wgpu::Buffer, u64)>,
    ) -> Self {
        Self { submission, staging }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.staging.is_empty()
    }

    /// Waits for the submission and gives each buffer's values to `take`.
    ///
    /// # Errors
    /// When the device is lost or doesn't answer.
    pub(super) async fn read<T: bytemuck::Pod>(
        self,
        device: &Device,
        spare: &Spare,
        mut take: impl FnMut(&[T]),
    ) -> Result<(), Error> {
        let mut mappings = Vec::new();
        for (buffer, bytes) in &self.staging {
            let mapping = Arc::new(Mutex::new(Mapping::default()));
            let done = mapping.clone();
            buffer.map_async(wgpu::MapMode::Read, ..*bytes, move |result| {
                let mut mapping = done.lock().unwrap_or_else(PoisonError::into_inner);
                mapping.result = Some(result);
                if let Some(waker) = mapping.waker.take() {
                    waker.wake();
                }
            });
            mappings.push(mapping);
        }
        // In the browser callbacks come by themselves.
        if !cfg!(target_family = "wasm") {
            device.wait(Some(self.submission))?;
        }
        for ((buffer, bytes), mapping) in self.staging.into_iter().zip(mappings) {
            let mapped = poll_fn(|context| {
                let mut mapping = mapping.lock().unwrap_or_else(PoisonError::into_inner);
                match mapping.result.take() {
                    Some(result) => Poll::Ready(result),
                    None => {
                        mapping.waker = Some(context.waker().clone());
                        Poll::Pending
                    }
                }
            });
            mapped.await.map_err(|_| unmapped(device))?;
            let view = buffer.get_mapped_range(..bytes).map_err(|_| unmapped(device))?;
            take(bytemuck::cast_slice(&view));
            drop(view);
            buffer.unmap();
            spare.give(buffer);
        }
        device.check()
    }
}

/// Why a buffer can't be read: what the device has to say, if anything.
fn unmapped(device: &Device) -> Error {
    let message = "results can't be read back";
    device.check().err().unwrap_or_else(|| {
        if cfg!(target_family = "wasm") {
            // Whether a device is lost is told later there than what can't be had because of that.
            let (adapter, message) = (device.info.name.clone(), message.into());
            return Error::DeviceLost { adapter, message };
        }
        device.fault(message)
    })
}
