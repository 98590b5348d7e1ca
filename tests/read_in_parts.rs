//! Checkpoints whose files are neither mapped nor in memory but read in parts, as in a browser: the
//! same numbers on every backend, and errors if a part can't be read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kinglet::weights::Source;
use kinglet::{Backend, Error, Model, ModelFiles, ModelOptions, ReadAt};
use kinglet_tests::target::wgpu_targets;
use kinglet_tests::{Case, cases, quantized_cases};

/// A file in memory that counts the bytes read, and fails from a given byte on.
#[derive(Debug)]
struct Counted {
    bytes: Vec<u8>,
    fails_from: u64,
    largest: AtomicU64,
}

impl ReadAt for Counted {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.largest.fetch_max(out.len() as u64, Ordering::Relaxed);
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        if offset + out.len() as u64 > self.fails_from {
            return Err(io::Error::other("the network is gone"));
        }
        let bytes = self.bytes.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn counted(case: &Case, fails_from: u64) -> Arc<Counted> {
    let bytes = std::fs::read(case.folder.join("model.safetensors")).unwrap();
    Arc::new(Counted { bytes, fails_from, largest: AtomicU64::new(0) })
}

/// Opens the case with its weights behind `reader`.
fn open(case: &Case, reader: &Arc<Counted>, options: &ModelOptions) -> Result<Model, Error> {
    let mut files = ModelFiles::new();
    files.add_bytes("config.json", std::fs::read(case.folder.join("config.json")).unwrap());
    files.add_reader("model.safetensors", reader.clone(), reader.bytes.len() as u64);
    Model::open(files.mount().path(), options)
}

/// The first case of each family, dense and quantized, with weights in a single file.
fn few() -> Vec<Case> {
    let mut chosen: Vec<Case> = Vec::new();
    for case in cases().into_iter().chain(quantized_cases()) {
        let family =
            |case: &Case| case.name.split(['/', '-']).next().unwrap_or_default().to_string();
        let same = chosen.last().is_some_and(|last| family(last) == family(&case));
        if !same && case.folder.join("model.safetensors").exists() {
            chosen.push(case);
        }
    }
    chosen
}

#[test]
fn parts_give_the_same_logits_as_a_mapped_file() {
    let mut targets = vec![ModelOptions::new().backend(Backend::Cpu).threads(1)];
    targets.extend(wgpu_targets().into_iter().take(1).map(|target| target.options));
    for case in few() {
        for options in &targets {
            let reader = counted(&case, u64::MAX);
            let parts =
                open(&case, &reader, options).unwrap_or_else(|e| panic!("{}: {e}", case.name));
            let mapped = Model::open(&case.folder, options).unwrap();
            let tokens = [1, 2, 3, 4, 5];
            let (mut a, mut b) = (parts.session().unwrap(), mapped.session().unwrap());
            assert_eq!(a.feed(&tokens).unwrap(), b.feed(&tokens).unwrap(), "{}", case.name);
            let fingerprints =
                [&parts, &mapped].map(|model| model.weights().fingerprint().unwrap());
            assert_eq!(fingerprints[0], fingerprints[1], "{}", case.name);
        }
    }
}

#[test]
fn what_goes_to_a_device_is_never_held_as_a_whole() {
    let Some(options) = wgpu_targets().into_iter().next().map(|target| target.options) else {
        return;
    };
    // Its file is larger than what is read at once.
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/xlstm");
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let len = bytes.len() as u64;
    let reader = Arc::new(Counted { bytes, fails_from: u64::MAX, largest: AtomicU64::new(0) });
    let mut files = ModelFiles::new();
    files.add_bytes("config.json", std::fs::read(folder.join("config.json")).unwrap());
    files.add_reader("model.safetensors", reader.clone(), len);
    Model::open(files.mount().path(), &options).unwrap();
    let largest = reader.largest.load(Ordering::Relaxed);
    assert!(largest <= 4 << 20 && len > 2 * largest, "{largest} of {len} bytes at once");
}

#[test]
fn a_part_that_cannot_be_had_is_an_error() {
    let case = few().remove(0);
    let len = counted(&case, 0).bytes.len() as u64;
    let mut targets = vec![ModelOptions::new().backend(Backend::Cpu).threads(1)];
    targets.extend(wgpu_targets().into_iter().take(1).map(|target| target.options));
    for options in &targets {
        for fails_from in [0, 4, 100, len / 2, len - 1] {
            let Err(error) = open(&case, &counted(&case, fails_from), options) else {
                panic!("opened without what is behind {fails_from}");
            };
            assert!(error.to_string().contains("the network is gone"), "{fails_from}: {error}");
        }
    }
    // Truncated or modified files are detected by the header's rules.
    for bytes in [
        vec![],
        vec![0xff; 7],
        vec![0xff; 64],
        b"version https://git-lfs.github.com/spec/v1 and so on".to_vec(),
    ] {
        let len = bytes.len() as u64;
        let reader = Counted { bytes, fails_from: u64::MAX, largest: AtomicU64::new(0) };
        let source = Source::reader("x", Arc::new(reader), len);
        assert!(kinglet::weights::Weights::from_sources(vec![source]).is_err());
    }
}
