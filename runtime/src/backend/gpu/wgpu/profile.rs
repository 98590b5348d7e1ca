//! Time stamps around each dispatch of a step.

use std::collections::BTreeMap;

use super::device::Device;
use super::readback::{Readback, Spare};
use crate::Error;
use crate::backend::executable::KernelTime;

/// Stamps that one query set may hold on every device.
const MOST: u32 = 4096;

/// Time stamps in the making: two for each dispatch.
pub(super) struct Stamps {
    set: wgpu::QuerySet,
    /// Where the device leaves them.
    resolved: wgpu::Buffer,
    staging: wgpu::Buffer,
    names: Vec<String>,
    /// Nanoseconds of a tick.
    period: f32,
    /// Dispatches that there was no room for.
    left_out: usize,
}

impl Stamps {
    /// Room for the dispatches of a step.
    ///
    /// # Errors
    /// When the device has no time stamps, or there is no memory.
    pub(super) fn new(device: &Device) -> Result<Self, Error> {
        if !device.capabilities.timestamps {
            return Err(Error::Unsupported { what: "measuring kernels, for want of time stamps," });
        }
        let set = device.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("time stamps"),
            ty: wgpu::QueryType::Timestamp,
            count: MOST,
        });
        let bytes = 8 * u64::from(MOST);
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = device.unbound_buffer("time stamps", bytes, usage)?;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = device.unbound_buffer("time stamps", bytes, usage)?;
        let period = device.queue.get_timestamp_period();
        Ok(Self { set, resolved, staging, names: Vec::new(), period, left_out: 0 })
    }

    /// Where the next dispatch's stamps go.
    pub(super) fn next(&mut self, name: &str) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        let first = 2 * self.names.len() as u32;
        if first + 2 > MOST {
            self.left_out += 1;
            return None;
        }
        self.names.push(name.into());
        Some(wgpu::ComputePassTimestampWrites {
            query_set: &self.set,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        })
    }

    /// Records that the stamps are brought where the host can read them.
    pub(super) fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        let count = 2 * self.names.len() as u32;
        encoder.resolve_query_set(&self.set, 0..count, &self.resolved, 0);
        let bytes = 8 * u64::from(count);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.staging, 0, Some(bytes));
    }

    /// Waits for the device; the time of each kernel, the longest first.
    ///
    /// # Errors
    /// When the device is lost or doesn't answer.
    pub(super) async fn read(self, device: &Device) -> Result<Vec<KernelTime>, Error> {
        if self.left_out > 0 {
            log::warn!("{} dispatches of the step were not measured", self.left_out);
        }
        let submission = device.queue.submit([]);
        let bytes = 16 * self.names.len() as u64;
        let readback = Readback::new(submission, vec![(self.staging, bytes)]);
        let mut ticks: Vec<u64> = Vec::new();
        readback.read(device, &Spare::new(1), |values: &[u64]| ticks.extend(values)).await?;
        let mut sums: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
        for (name, pair) in self.names.iter().zip(ticks.chunks_exact(2)) {
            let (count, time) = sums.entry(name).or_default();
            *count += 1;
            *time += pair[1].saturating_sub(pair[0]) as f64 * f64::from(self.period);
        }
        let mut times: Vec<KernelTime> = sums
            .into_iter()
            .map(|(name, (count, nanoseconds))| KernelTime {
                name: name.into(),
                count,
                nanoseconds,
            })
            .collect();
        times.sort_by(|a, b| b.nanoseconds.total_cmp(&a.nanoseconds));
        Ok(times)
    }
}
