//! Versions of the library and its interface.

use std::ffi::{CString, c_char};
use std::sync::OnceLock;

use crate::guard::call;
use crate::status::{Failure, kinglet_status};

/// Version of this interface. It increases when programs compiled for an earlier one no longer
/// work; additions do not change it.
pub const KINGLET_ABI_VERSION: u32 = 1;

/// Returns the interface version that the library was built with. Compare it with
/// `KINGLET_ABI_VERSION`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_abi_version() -> u32 {
    KINGLET_ABI_VERSION
}

/// Checks the interface version; call it first, as `kinglet_check_abi(KINGLET_ABI_VERSION)`. If it
/// does not return `KINGLET_OK`, the program was compiled for a different library and must call
/// nothing else but `kinglet_last_error`.
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

/// Returns the version of the library, such as `"0.1.0"`. The text is static.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_version() -> *const c_char {
    static VERSION: OnceLock<CString> = OnceLock::new();
    VERSION.get_or_init(|| CString::new(env!("CARGO_PKG_VERSION")).unwrap_or_default()).as_ptr()
}
