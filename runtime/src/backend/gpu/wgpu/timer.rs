//! [`Timer`]: time stamps around each launch.

use super::super::api::Gpu;
use super::device::Device;
use super::readback;
use crate::Error;

/// Stamps that one query set can hold on every device.
const MOST: u32 = 4096;

/// Two time stamps for each launch.
pub(crate) struct Timer {
    set: wgpu::QuerySet,
    /// Where the device writes them.
    resolved: wgpu::Buffer,
    staging: wgpu::Buffer,
    /// Launches that have stamps.
    launches: u32,
    /// Nanoseconds of a tick.
    period: f32,
}

impl Timer {
    /// See [`Gpu::timer`].
    pub(super) fn new(device: &Device) -> Result<Self, Error> {
        if !device.target.capabilities.timestamps {
            return Err(Error::Unsupported {
                what: "measuring kernels: the adapter has no time stamps",
            });
        }
        let set = device.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("time stamps"),
            ty: wgpu::QueryType::Timestamp,
            count: MOST,
        });
        let bytes = 8 * u64::from(MOST);
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = device.create_buffer("time stamps", bytes, usage)?;
        let staging = device.staging(bytes)?;
        let period = device.queue.get_timestamp_period();
        Ok(Self { set, resolved, staging, launches: 0, period })
    }

    /// Where the next launch's stamps go; `None` where there is no room.
    pub(super) fn next(&mut self) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        let first = 2 * self.launches;
        if first + 2 > MOST {
            return None;
        }
        self.launches += 1;
        Some(wgpu::ComputePassTimestampWrites {
            query_set: &self.set,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        })
    }

    /// Has the stamps copied to where the host can read them.
    pub(super) fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        let count = 2 * self.launches;
        encoder.resolve_query_set(&self.set, 0..count, &self.resolved, 0);
        let bytes = 8 * u64::from(count);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.staging, 0, Some(bytes));
    }

    /// See [`Gpu::read_timer`].
    pub(super) async fn read(self, device: &Device) -> Result<Vec<f64>, Error> {
        let submission = device.queue.submit([]);
        let staging = [(self.staging, 16 * u64::from(self.launches))];
        let mut times = Vec::new();
        readback::read(device, submission, &staging, |ticks: &[u64]| {
            let spans = ticks.as_chunks().0.iter().map(|[start, end]| end.saturating_sub(*start));
            times.extend(spans.map(|ticks| ticks as f64 * f64::from(self.period)));
        })
        .await?;
        Ok(times)
    }
}
