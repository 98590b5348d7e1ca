//! What a model can run on.

use std::ffi::c_char;
use std::sync::Arc;

use crate::guard::call;
use crate::handle::{self, Object};
use crate::memory;
use crate::status::{Failure, kinglet_status};

/// A list of devices, as they were when it was made.
pub struct kinglet_devices;

struct Device {
    backend: &'static str,
    name: String,
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

/// Lists what models can run on; the processor is always there, and first.
///
/// The list is the program's: `kinglet_devices_delete`. Any thread may use it.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_devices_create(devices: *mut *mut kinglet_devices) -> kinglet_status {
    call(|| {
        memory::check_out(devices, "devices")?;
        let name = format!("{}, {}", std::env::consts::ARCH, kinglet::Isa::detect().name());
        let list = Devices(vec![Device { backend: "cpu", name }]);
        memory::write(devices, "devices", handle::insert(Arc::new(list))?)
    })
}

/// Deletes a list of devices. Null is fine.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_devices_delete(devices: *mut kinglet_devices) -> kinglet_status {
    call(|| handle::delete::<Devices>(devices))
}

/// How many devices the list has.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_devices_count(
    devices: *const kinglet_devices,
    count: *mut usize,
) -> kinglet_status {
    call(|| memory::write(count, "count", handle::get::<Devices>(devices)?.0.len()))
}

/// The name of a device for people. The text is the program's: `kinglet_free`.
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

/// The backend of a device, for `kinglet_model_options_set_backend`. The text is the program's: `kinglet_free`.
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
