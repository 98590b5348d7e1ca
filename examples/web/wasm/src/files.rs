//! The files of a model from the page: small ones as a whole, weights through a function that reads
//! ranges, so that they need never be in memory together.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use js_sys::{Function, Uint8Array};
use kinglet::{ModelFiles, ReadAt};
use wasm_bindgen::prelude::*;

use crate::error::message;

thread_local! {
    /// The readers of files, by number: the engine's readers must be `Send`, which JavaScript
    /// objects can't be.
    static READERS: RefCell<Vec<Option<Function>>> = const { RefCell::new(Vec::new()) };
}

/// The files of a model.
#[wasm_bindgen]
#[derive(Default)]
pub struct Files {
    whole: Vec<(String, Vec<u8>)>,
    ranged: Vec<Ranged>,
}

/// A file read in ranges.
pub(crate) struct Ranged {
    name: String,
    bytes: u64,
    /// `(offset, length) => Uint8Array`, synchronous.
    read: Function,
}

#[wasm_bindgen]
impl Files {
    /// Creates an empty list.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a small file.
    pub fn add(&mut self, name: String, contents: Vec<u8>) {
        self.whole.push((name, contents));
    }

    /// Adds a file of `bytes` bytes; `read(offset, length)` returns a part of it.
    #[wasm_bindgen(js_name = addRanged)]
    pub fn add_ranged(&mut self, name: String, bytes: f64, read: Function) {
        // A wrong length is detected when the file is read.
        self.ranged.push(Ranged { name, bytes: bytes as u64, read });
    }
}

impl Files {
    /// Total size of the weights, in bytes.
    pub(crate) fn ranged_bytes(&self) -> u64 {
        self.ranged.iter().map(|file| file.bytes).sum()
    }

    /// The files in the engine's form.
    pub(crate) fn into_model(self) -> ModelFiles {
        let mut files = ModelFiles::new();
        self.whole.into_iter().for_each(|(name, contents)| files.add_bytes(name, contents));
        for Ranged { name, bytes, read } in self.ranged {
            let number = READERS.with_borrow_mut(|readers| {
                readers.push(Some(read));
                readers.len() - 1
            });
            files.add_reader(name, Arc::new(Reader { number }), bytes);
        }
        files
    }
}

/// A file that the page reads.
#[derive(Debug)]
struct Reader {
    number: usize,
}

impl Drop for Reader {
    fn drop(&mut self) {
        READERS.with_borrow_mut(|readers| {
            if let Some(reader) = readers.get_mut(self.number) {
                *reader = None;
            }
        });
    }
}

impl ReadAt for Reader {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let failed = |cause: JsValue| io::Error::other(message(&cause));
        let read = READERS.with_borrow(|readers| readers.get(self.number).cloned().flatten());
        let read = read.ok_or_else(|| io::Error::other("the file is closed"))?;
        // Offsets in files are below 2^53, where numbers are exact.
        let (offset, length) = (JsValue::from(offset as f64), JsValue::from(out.len() as f64));
        let read = read.call2(&JsValue::NULL, &offset, &length).map_err(failed)?;
        let read: Uint8Array = read.dyn_into().map_err(failed)?;
        if read.length() as usize != out.len() {
            let why = format!("{} bytes were read instead of {}", read.length(), out.len());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        read.copy_to(out);
        Ok(())
    }
}
