//! Devices that a model can run on.

use std::ffi::c_char;
use std::sync::Arc;

use crate::guard::call;
use crate::handle::{self, Object};
use crate::memory;
use crate::status::{Failure, kinglet_status};

/// A list of devices at the time it was created. Thread-safe.
pub struct kinglet_devices;

struct Device {
    backend: &'static str,
    name: String,
    /// Index among the adapters of its backend.
    adapter: Option<i64>,
}

pub(crate) struct Devices(Vec<Device>);

impl Object for Devices {
    type Handle = kinglet_devices;
    const NAME: &'static str = "list of devices";
}

impl Devices {
    fn find(&self, index: usize) -> Result<&Device, Failure> {
        let count = self.0.len();
        self.0
            .get(index)
            .ok_or_else(|| Failure::argument(format!("there is no device {index} of {count}")))
    }
}

/// Lists the devices that models can run on: first the CPU, which is always there, then the
/// adapters that Kinglet's kernels can run on (GPUs, and software that emulates one). This takes
/// some milliseconds.
///
/// Free the list with `kinglet_devices_delete`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_devices_create(devices: *mut *mut kinglet_devices) -> kinglet_status {
    call(|| {
        memory::check_out(devices, "devices")?;
        let name = format!("{}, {}", std::env::consts::ARCH, kinglet::Isa::detect().name());
        let mut list = Devices(vec![Device { backend: "cpu", name, adapter: None }]);
        list.0.extend(adapters());
        memory::write(devices, "devices", handle::insert(Arc::new(list))?)
    })
}

#[cfg(feature = "wgpu")]
fn adapters() -> Vec<Device> {
    // This never waits: it is asynchronous only in a browser.
    let mut found = std::pin::pin!(kinglet::adapters());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(found) = found.as_mut().poll(&mut context) else {
        return Vec::new();
    };
    let usable = found.into_iter().filter(|adapter| adapter.unusable.is_none());
    usable
        .map(|adapter| Device {
            backend: "wgpu",
            name: format!("{} ({}, {})", adapter.name, adapter.kind, adapter.api),
            adapter: i64::try_from(adapter.index).ok(),
        })
        .collect()
}

#[cfg(not(feature = "wgpu"))]
fn adapters() -> Vec<Device> {
    Vec::new()
}

/// Deletes a list of devices. Null is allowed.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_devices_delete(devices: *mut kinglet_devices) -> kinglet_status {
    call(|| handle::delete::<Devices>(devices))
}

/// Returns the number of devices in the list.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_devices_count(
    devices: *const kinglet_devices,
    count: *mut usize,
) -> kinglet_status {
    call(|| memory::write(count, "count", handle::get::<Devices>(devices)?.0.len()))
}

/// Returns the name of a device, for people. Free the text with `kinglet_free`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_devices_name(
    devices: *const kinglet_devices,
    index: usize,
    name: *mut *mut c_char,
) -> kinglet_status {
    call(|| {
        memory::check_out(name, "name")?;
        let devices = handle::get::<Devices>(devices)?;
        memory::lend_bytes(devices.find(index)?.name.clone().into(), name, std::ptr::null_mut())
    })
}

/// Returns the backend of a device, for `kinglet_model_options_set_backend`. Free the text with
/// `kinglet_free`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_devices_backend(
    devices: *const kinglet_devices,
    index: usize,
    backend: *mut *mut c_char,
) -> kinglet_status {
    call(|| {
        memory::check_out(backend, "backend")?;
        let devices = handle::get::<Devices>(devices)?;
        memory::lend_bytes(devices.find(index)?.backend.into(), backend, std::ptr::null_mut())
    })
}

/// Returns the index of a device among the adapters of its backend, for
/// `kinglet_model_options_set_adapter`; -1 for the CPU.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_devices_adapter(
    devices: *const kinglet_devices,
    index: usize,
    adapter: *mut i64,
) -> kinglet_status {
    call(|| {
        memory::check_out(adapter, "adapter")?;
        let devices = handle::get::<Devices>(devices)?;
        memory::write(adapter, "adapter", devices.find(index)?.adapter.unwrap_or(-1))
    })
}
