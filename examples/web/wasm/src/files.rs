//! The files of a model as the page hands them over: small ones whole, weights as something that can be asked for ranges.

use js_sys::{Function, Uint8Array};
use kinglet::ModelFiles;
use wasm_bindgen::prelude::*;

use crate::error::Failure;

/// Bytes of weights that are asked for at once.
const PIECE: usize = 4 << 20;

/// The files of a model.
#[wasm_bindgen]
#[derive(Default)]
pub struct Files {
    whole: Vec<(String, Vec<u8>)>,
    ranged: Vec<Ranged>,
}

/// A file that is read in ranges.
pub(crate) struct Ranged {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// `(offset, length) => Uint8Array`, which is done when it returns.
    pub(crate) read: Function,
}

#[wasm_bindgen]
impl Files {
    /// No files.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a small file.
    pub fn add(&mut self, name: String, contents: Vec<u8>) {
        self.whole.push((name, contents));
    }

    /// Adds a file of `bytes` bytes of which `read(offset, length)` gives a part.
    #[wasm_bindgen(js_name = addRanged)]
    pub fn add_ranged(&mut self, name: String, bytes: f64, read: Function) {
        // A length that no file has is found out when it is read.
        self.ranged.push(Ranged { name, bytes: bytes as u64, read });
    }
}

impl Files {
    /// Bytes of all weights.
    pub(crate) fn ranged_bytes(&self) -> u64 {
        self.ranged.iter().map(|file| file.bytes).sum()
    }

    /// All of it in memory.
    pub(crate) fn into_memory(self) -> Result<ModelFiles, Failure> {
        let mut files = ModelFiles::new();
        self.whole.into_iter().for_each(|(name, contents)| files.add_bytes(name, contents));
        for file in self.ranged {
            let contents = file.read_whole()?;
            files.add_bytes(file.name, contents);
        }
        Ok(files)
    }
}

impl Ranged {
    fn read_whole(&self) -> Result<Vec<u8>, Failure> {
        let no_memory = |bytes: u64| {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            Failure::Engine(kinglet::Error::OutOfMemory { what: "the weights", bytes })
        };
        let bytes = usize::try_from(self.bytes).map_err(|_| no_memory(self.bytes))?;
        let mut contents = Vec::new();
        contents.try_reserve_exact(bytes).map_err(|_| no_memory(self.bytes))?;
        contents.resize(bytes, 0);
        let mut at = 0;
        for piece in contents.chunks_mut(PIECE) {
            self.read_into(at, piece)?;
            at += piece.len() as u64;
        }
        Ok(contents)
    }

    /// Fills `out` with the bytes from `offset` on.
    pub(crate) fn read_into(&self, offset: u64, out: &mut [u8]) -> Result<(), Failure> {
        let failed = |cause| Failure::Read { file: self.name.clone(), cause };
        // File offsets are below 2^53, where numbers are exact.
        let (offset, length) = (JsValue::from(offset as f64), JsValue::from(out.len() as f64));
        let read = self.read.call2(&JsValue::NULL, &offset, &length).map_err(failed)?;
        let read: Uint8Array = read.dyn_into().map_err(failed)?;
        if read.length() as usize != out.len() {
            let message = format!("{} bytes came instead of {}", read.length(), out.len());
            return Err(failed(JsValue::from(message)));
        }
        read.copy_to(out);
        Ok(())
    }
}
