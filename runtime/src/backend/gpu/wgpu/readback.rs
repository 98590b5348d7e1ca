//! Staging memory mapped for the host.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use super::super::api::Gpu;
use super::super::target::lock;
use super::device::Device;
use crate::Error;

/// Whether a buffer was mapped, and the task that waits for it.
#[derive(Default)]
struct Mapping {
    result: Option<Result<(), wgpu::BufferAsyncError>>,
    waker: Option<Waker>,
}

/// See [`Gpu::read`].
pub(super) async fn read<T: bytemuck::Pod>(
    device: &Device,
    submission: wgpu::SubmissionIndex,
    staging: &[(wgpu::Buffer, u64)],
    mut take: impl FnMut(&[T]),
) -> Result<(), Error> {
    let mut mappings = Vec::new();
    for (buffer, bytes) in staging {
        let mapping = Arc::new(Mutex::new(Mapping::default()));
        let done = mapping.clone();
        buffer.map_async(wgpu::MapMode::Read, ..*bytes, move |result| {
            let mut mapping = lock(&done);
            mapping.result = Some(result);
            if let Some(waker) = mapping.waker.take() {
                waker.wake();
            }
        });
        mappings.push(mapping);
    }
    // In the browser callbacks come by themselves.
    if !cfg!(target_family = "wasm") {
        device.wait(Some(submission))?;
    }
    for ((buffer, bytes), mapping) in staging.iter().zip(mappings) {
        let mapped = poll_fn(|context| {
            let mut mapping = lock(&mapping);
            match mapping.result.take() {
                Some(result) => Poll::Ready(result),
                None => {
                    mapping.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        });
        mapped.await.map_err(|_| unmapped(device))?;
        let view = buffer.get_mapped_range(..*bytes).map_err(|_| unmapped(device))?;
        take(bytemuck::cast_slice(&view));
        drop(view);
        buffer.unmap();
    }
    Ok(())
}

/// The error for a buffer that can't be mapped: that of the device, if it has one.
fn unmapped(device: &Device) -> Error {
    let message = "results can't be read back";
    device.check().err().unwrap_or_else(|| {
        if cfg!(target_family = "wasm") {
            // A browser reports that the device is lost after the failure of what needs it.
            let (adapter, message) = (device.target.info.name.clone(), message.into());
            return Error::DeviceLost { adapter, message };
        }
        device.target.fault(message)
    })
}
