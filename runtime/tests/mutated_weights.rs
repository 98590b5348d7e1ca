//! Valid checkpoints with a few random changes: opening them gives weights or an error, never a
//! panic. Which of the two, and the weights, are compared with the `safetensors` crate.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use kinglet::weights::{HeaderError, Weights, WeightsError};
use kinglet_models::TensorSpec;

#[path = "safetensors_files/counting.rs"]
mod counting;
mod safetensors_files;
use counting::peak;
use safetensors_files::{TempDir, in_memory, index, small};

/// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators", 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

/// Makes a few changes to `valid`: bytes anywhere, or characters that matter in the header.
fn mutate(random: &mut Random, valid: &[u8]) -> Vec<u8> {
    let mut file = valid.to_vec();
    for _ in 0..1 + random.below(3) {
        let at = random.below(file.len());
        let telling = b"0123456789{}[],:\"\\ -.eFUIB_x";
        match random.below(6) {
            0 => file[at] = random.below(256) as u8,
            1 => file[at] ^= 1 << random.below(8),
            2 | 3 => file[at] = telling[random.below(telling.len())],
            // A longer or shorter header, with its length corrected.
            grow => {
                let header = u64::from_le_bytes(file[..8].try_into().unwrap());
                let at = 8 + random.below((header as usize).clamp(1, file.len() - 9));
                if grow == 4 {
                    file.insert(at, telling[random.below(telling.len())]);
                    file[..8].copy_from_slice(&header.wrapping_add(1).to_le_bytes());
                } else {
                    file.remove(at);
                    file[..8].copy_from_slice(&header.wrapping_sub(1).to_le_bytes());
                }
            }
        }
    }
    file
}

#[test]
fn mutated_files_give_weights_or_an_error_and_agree_with_the_reference() {
    let valid = small();
    let mut random = Random(0x6b69_6e67_6c65_7401);
    let mut accepted = 0;
    for round in 0..20_000 {
        let content = mutate(&mut random, &valid);
        // The reference overflows on some offsets, which panics in debug builds.
        let reference = catch_unwind(AssertUnwindSafe(|| {
            let tensors = safetensors::SafeTensors::deserialize(&content).ok()?;
            let mut tensors: Vec<_> = tensors
                .iter()
                .map(|(n, t)| (n.to_string(), t.shape().to_vec(), t.data()))
                .collect();
            tensors.sort();
            Some(tensors)
        }));
        let (found, peak) = peak(|| in_memory(content.clone()));
        assert!(peak <= 4 * content.len() + (32 << 10), "{round}: {peak}");
        match (found, reference.ok().flatten()) {
            (Ok(weights), Some(expected)) => {
                accepted += 1;
                walk(&weights);
                assert_eq!(weights.names().count(), expected.len());
                for (info, (name, shape, data)) in weights.tensors().zip(expected) {
                    assert_eq!((info.name, info.shape), (name.as_str(), shape.as_slice()));
                    assert_eq!(info.bytes, data.len() as u64);
                    if let Ok(tensor) = weights.get(&name) {
                        assert_eq!(tensor.bytes().unwrap(), data, "{round}: {name}");
                    }
                }
            }
            (Err(_), None) => {}
            // Stricter than the reference.
            (Err(WeightsError::Header { error: HeaderError::DuplicateName(_), .. }), Some(_)) => {}
            (found, expected) => {
                let text = String::from_utf8_lossy(&content);
                panic!("{round}: {found:?}, the reference says {expected:?}: {text}")
            }
        }
    }
    assert!(accepted > 500, "{accepted}: the mutations are too rough to test much");
}

/// Calls everything that weights offer.
fn walk(weights: &Weights) {
    let mut bytes = 0;
    for name in weights.names() {
        match weights.get(name) {
            Ok(tensor) => {
                bytes += tensor.bytes().unwrap().len();
                let _ = (tensor.to_f32(), tensor.rows(0..1), tensor.rows(1..usize::MAX));
                let _ = format!("{tensor:?}");
                let spec = TensorSpec::new(name, tensor.shape());
                let _ = weights.vector(&spec);
            }
            Err(error) => assert!(matches!(error, WeightsError::UnsupportedDtype { .. })),
        }
    }
    assert!(bytes as u64 <= weights.total_bytes());
    weights.fingerprint().unwrap();
    weights.touch(&mut |_, _| true).unwrap();
    assert_eq!(weights.bytes_by_dtype().values().sum::<u64>(), weights.total_bytes());
}

#[test]
fn mutated_indexes_give_weights_or_an_error() {
    let dir = TempDir::new();
    dir.write("s", small());
    let valid = index(&[("a.weight", "s"), ("b", "s"), ("c.d.e", "s"), ("zero", "s")]);
    let mut random = Random(99);
    let mut accepted = 0;
    for _ in 0..3000 {
        let mut content = valid.clone().into_bytes();
        for _ in 0..1 + random.below(3) {
            let at = random.below(content.len());
            content[at] = random.below(128) as u8;
        }
        // Write a new file each time: some file systems wait for the disk when one is truncated and
        // rewritten.
        let path = dir.write("model.safetensors.index.json", &content);
        if let Ok(weights) = dir.open() {
            accepted += 1;
            walk(&weights);
        }
        fs::remove_file(path).unwrap();
    }
    assert!(accepted > 50, "{accepted}");
}
