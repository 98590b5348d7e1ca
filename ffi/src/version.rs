//! Versions of the library and of its interface.

use std::ffi::{CString, c_char};
use std::sync::OnceLock;

use crate::guard::call;
use crate::status::{Failure, kinglet_status};

/// The version of this interface. It grows when a program that was compiled before no longer works; what is only added doesn't
/// change it.
pub const KINGLET_ABI_VERSION: u32 = 1;

/// The version of the interface that the library was built with, to be compared with `KINGLET_ABI_VERSION`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_abi_version() -> u32 {
    KINGLET_ABI_VERSION
}

/// Call it first, as `kinglet_check_abi(KINGLET_ABI_VERSION)`: anything but `KINGLET_OK` says that the program was compiled for another library
/// than it runs with, and must not call anything else but `kinglet_last_error`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_check_abi(version: u32) -> kinglet_status {
    call(|| {
        if version == KINGLET_ABI_VERSION {
            return Ok(());
        }
        let message = format!(
            "the program was compiled for version {version} of the interface; this library has version {KINGLET_ABI_VERSION}"
        );
        Err(Failure::new(kinglet_status::KINGLET_ABI_MISMATCH, message))
    })
}

/// The version of the library, as `"0.1.0"`: a text that stays for ever.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_version() -> *const c_char {
    static VERSION: OnceLock<CString> = OnceLock::new();
    VERSION.get_or_init(|| CString::new(env!("CARGO_PKG_VERSION")).unwrap_or_default()).as_ptr()
}
