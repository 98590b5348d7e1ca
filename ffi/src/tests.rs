//! Tests of what no C program can cause: panics within a call, and the state after them.

use std::ffi::CStr;
use std::path::Path;
use std::sync::Arc;

use crate::guard::{call, kinglet_last_error, kinglet_last_error_copy};
use crate::handle::{self, Object};
use crate::memory::{self, kinglet_free};
use crate::model::{kinglet_model, kinglet_model_delete, kinglet_model_open};
use crate::session::{
    SessionObject, kinglet_session, kinglet_session_create, kinglet_session_delete,
    kinglet_session_feed, kinglet_session_position, kinglet_session_reset,
};
use crate::state::{kinglet_session_restore, kinglet_snapshot_create, kinglet_snapshot_delete};
use crate::status::kinglet_status::*;

fn last_error() -> String {
    // SAFETY: never null, and no other call is made on this thread meanwhile.
    unsafe { CStr::from_ptr(kinglet_last_error()) }.to_string_lossy().into_owned()
}

#[test]
fn a_panic_becomes_a_status_with_its_words() {
    assert_eq!(call(|| panic!("number {}", 7)), KINGLET_INTERNAL);
    assert!(last_error().contains("number 7"), "{}", last_error());
    assert_eq!(call(|| std::panic::panic_any(7)), KINGLET_INTERNAL);
    // The message stays until the next failure, and is the thread's own.
    assert_eq!(call(|| Ok(())), KINGLET_OK);
    assert!(last_error().contains("internal error"));
    assert_eq!(std::thread::spawn(last_error).join().unwrap(), "");
}

#[test]
fn the_last_error_can_be_copied() {
    let words = "\u{e9}t\u{e9} is not a folder";
    let failure = || crate::status::Failure::argument(words);
    assert_eq!(call(|| Err(failure())), KINGLET_INVALID_ARGUMENT);
    let copy = |size: usize| {
        let mut buffer = [1u8; 40];
        assert_eq!(kinglet_last_error_copy(buffer.as_mut_ptr().cast(), size), words.len());
        // Nothing is written past `size`.
        assert!(buffer[size..].iter().all(|&byte| byte == 1));
        let text = CStr::from_bytes_until_nul(&buffer).ok().map(CStr::to_str);
        text.map(|text| text.unwrap().to_string())
    };
    assert_eq!(copy(40).as_deref(), Some(words));
    assert_eq!(copy(words.len() + 1).as_deref(), Some(words));
    assert_eq!(copy(words.len()).as_deref(), words.get(..words.len() - 1));
    // Never part of a character.
    assert_eq!(copy(5).as_deref(), Some("\u{e9}t"));
    assert_eq!(copy(2).as_deref(), Some(""));
    assert_eq!(copy(1).as_deref(), Some(""));
    assert_eq!(copy(0), None);
    assert_eq!(kinglet_last_error_copy(std::ptr::null_mut(), 0), words.len());
    assert_eq!(kinglet_last_error_copy(std::ptr::null_mut(), 9), words.len());
    // The copy does not change when the next call fails.
    let mut kept = [0u8; 40];
    kinglet_last_error_copy(kept.as_mut_ptr().cast(), kept.len());
    assert_eq!(call(|| Err(crate::status::Failure::argument("another"))), KINGLET_INVALID_ARGUMENT);
    assert_eq!(CStr::from_bytes_until_nul(&kept).unwrap().to_str(), Ok(words));
    assert_eq!(last_error(), "another");
}

#[test]
fn a_panic_poisons_its_session_until_it_is_made_sound() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/xlstm");
    let path = std::ffi::CString::new(folder.to_str().unwrap()).unwrap();
    let (mut model, mut session) =
        (std::ptr::null_mut::<kinglet_model>(), std::ptr::null_mut::<kinglet_session>());
    assert_eq!(kinglet_model_open(path.as_ptr(), std::ptr::null(), &mut model), KINGLET_OK);
    assert_eq!(kinglet_session_create(model, &mut session), KINGLET_OK);
    let feed = || kinglet_session_feed(session, [1, 2, 3].as_ptr(), 3);
    assert_eq!(feed(), KINGLET_OK);
    let mut snapshot = std::ptr::null_mut();
    assert_eq!(kinglet_snapshot_create(session, &mut snapshot), KINGLET_OK);
    let break_it = || {
        call(|| {
            let object = handle::get::<SessionObject>(session)?;
            object.cancellable(|_| -> Result<(), crate::status::Failure> { panic!("half-way") })
        })
    };
    let mut position = 0;
    for restore in [false, true] {
        assert_eq!(break_it(), KINGLET_INTERNAL);
        assert_eq!(feed(), KINGLET_POISONED);
        assert_eq!(kinglet_session_position(session, &mut position), KINGLET_POISONED);
        let repaired = match restore {
            true => kinglet_session_restore(session, snapshot),
            false => kinglet_session_reset(session),
        };
        assert_eq!(repaired, KINGLET_OK);
        assert_eq!(kinglet_session_position(session, &mut position), KINGLET_OK);
        assert_eq!(position, if restore { 3 } else { 0 });
        assert_eq!(feed(), KINGLET_OK);
    }
    assert_eq!(kinglet_snapshot_delete(snapshot), KINGLET_OK);
    assert_eq!(kinglet_session_delete(session), KINGLET_OK);
    assert_eq!(kinglet_model_delete(model), KINGLET_OK);
}

struct Thing;

impl Object for Thing {
    type Handle = u8;
    const NAME: &'static str = "thing";
}

#[test]
fn handles_are_given_out_once() {
    let first = handle::insert(Arc::new(Thing)).unwrap();
    handle::delete::<Thing>(first).unwrap();
    let second = handle::insert(Arc::new(Thing)).unwrap();
    assert_ne!(first, second);
    assert_eq!(handle::delete::<Thing>(first).unwrap_err().status, KINGLET_INVALID_HANDLE);
    assert_eq!(
        handle::get::<SessionObject>(second.cast()).err().unwrap().status,
        KINGLET_INVALID_HANDLE
    );
    let near = second.wrapping_add(1);
    assert_eq!(handle::get::<Thing>(near).err().unwrap().status, KINGLET_INVALID_HANDLE);
    handle::delete::<Thing>(second).unwrap();
    assert_eq!(kinglet_free(first.cast()), KINGLET_INVALID_HANDLE);
}

#[test]
fn memory_is_read_written_and_given_out_within_its_bounds() {
    let numbers = [1u32, 2, 3];
    let slice = |count, limit| memory::slice(numbers.as_ptr(), count, limit, "numbers");
    assert_eq!(slice(3, 3).ok(), Some(&numbers[..]));
    assert_eq!(slice(2, 3).ok(), Some(&numbers[..2]));
    assert_eq!(slice(3, 2).unwrap_err().status, KINGLET_TOO_LARGE);
    let odd = numbers.as_ptr().wrapping_byte_add(1);
    assert_eq!(memory::slice(odd, 1, 3, "numbers").unwrap_err().status, KINGLET_INVALID_ARGUMENT);
    assert!(memory::slice::<u32>(std::ptr::null(), 0, 3, "none").unwrap().is_empty());

    let mut out = [9u32; 4];
    memory::copy_out(out.as_mut_ptr(), 4, &numbers, "out").unwrap();
    assert_eq!(out, [1, 2, 3, 9]);
    assert!(memory::copy_out(out.as_mut_ptr(), 2, &numbers, "out").is_err());
    memory::write(&raw mut out[3], "out", 7).unwrap();
    memory::write_optional(std::ptr::null_mut(), "out", 8u32).unwrap();
    assert_eq!(out, [1, 2, 3, 7]);

    assert_eq!(memory::string(c"caf\u{e9}".as_ptr(), "text").ok(), Some("caf\u{e9}"));
    assert_eq!(memory::text(c"abc".as_ptr(), 2, "text").ok(), Some("ab"));
    assert_eq!(memory::path(c"a/b".as_ptr(), "path").unwrap(), Path::new("a/b"));

    let (mut text, mut len) = (std::ptr::null_mut(), 0);
    memory::lend_bytes(b"hello".to_vec(), &mut text, &mut len).unwrap();
    assert_eq!((memory::string(text, "text").unwrap(), len), ("hello", 5));
    let (mut tokens, mut count) = (std::ptr::null_mut(), 9);
    memory::lend_tokens(Vec::new(), &mut tokens, &mut count).unwrap();
    assert_eq!((tokens.is_null(), count), (false, 0));
    assert_eq!(kinglet_free(text.cast()), KINGLET_OK);
    assert_eq!(kinglet_free(text.cast()), KINGLET_INVALID_HANDLE);
    assert_eq!(kinglet_free(tokens.cast()), KINGLET_OK);
    assert_eq!(kinglet_free(std::ptr::null_mut()), KINGLET_OK);
}
