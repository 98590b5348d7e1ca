//! What the host's memory gives, and what this process takes of it.

use std::time::Instant;

use super::median;

/// Peak resident memory of this process, the measurement's own included, where the system tells.
pub(super) fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Memory far larger than any cache, read by as many threads as the model uses.
pub(super) struct Memory {
    words: Vec<u64>,
    threads: usize,
}

impl Memory {
    pub(super) fn new(threads: usize) -> Self {
        // Written, so that every page is there.
        Self { words: (0..(512usize << 20) / 8).map(|i| i as u64).collect(), threads }
    }

    /// Its size, resident from beginning to end: no part of what the model needs.
    pub(super) fn bytes(&self) -> u64 {
        8 * self.words.len() as u64
    }

    /// Bytes per second of reading all of it: the median of three passes.
    pub(super) fn read(&self) -> f64 {
        let share = self.words.len().div_ceil(self.threads);
        let pass = || {
            let start = Instant::now();
            std::thread::scope(|scope| {
                for part in self.words.chunks(share) {
                    scope.spawn(move || std::hint::black_box(sum(part)));
                }
            });
            (8 * self.words.len()) as f64 / start.elapsed().as_secs_f64()
        };
        median(&[pass(), pass(), pass()])
    }
}

fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 32];
    let (blocks, rest) = words.as_chunks::<32>();
    for block in blocks {
        for (sum, word) in sums.iter_mut().zip(block) {
            *sum = sum.wrapping_add(*word);
        }
    }
    rest.iter().chain(&sums).fold(0, |a, b| a.wrapping_add(*b))
}
