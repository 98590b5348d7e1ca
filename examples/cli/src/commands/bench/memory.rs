//! Measures the host's memory bandwidth, and this process's peak memory.

use std::time::Instant;

use super::median;

/// Peak resident memory of this process, including the benchmark's own, if the system tells.
pub(super) fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// A buffer far larger than any cache, read by as many threads as the model uses.
pub(super) struct Memory {
    words: Vec<u64>,
    threads: usize,
}

impl Memory {
    pub(super) fn new(threads: usize) -> Self {
        // Filled, so that every page is resident.
        Self { words: (0..(512usize << 20) / 8).map(|i| i as u64).collect(), threads }
    }

    /// Size in bytes. The buffer stays resident throughout and is not part of what the model needs.
    pub(super) fn bytes(&self) -> u64 {
        8 * self.words.len() as u64
    }

    /// Read bandwidth in bytes per second, the median of three passes.
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

/// Total size of all last-level caches in bytes, if the system tells (Linux).
pub(super) fn last_level_cache() -> Option<u64> {
    let mut seen = std::collections::BTreeMap::new();
    for processor in std::fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        let name = processor.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("cpu"));
        if number.is_none_or(|number| number.parse::<u32>().is_err()) {
            continue;
        }
        let Ok(caches) = std::fs::read_dir(processor.path().join("cache")) else { continue };
        let read = |folder: &std::path::Path, what: &str| {
            std::fs::read_to_string(folder.join(what)).ok().map(|text| text.trim().to_string())
        };
        let last = caches.flatten().filter_map(|cache| {
            let folder = cache.path();
            let level = read(&folder, "level")?.parse::<u32>().ok()?;
            let kib = read(&folder, "size")?.strip_suffix('K')?.parse::<u64>().ok()?;
            Some((level, kib, read(&folder, "shared_cpu_list")?))
        });
        if let Some((_, kib, shared)) = last.max() {
            seen.insert(shared, kib << 10);
        }
    }
    (!seen.is_empty()).then(|| seen.values().sum())
}
