//! The default number of threads: the physical cores that the process may use.

use std::collections::BTreeSet;
use std::path::Path;

/// The number of physical cores, at most what [`std::thread::available_parallelism`] allows (which
/// respects affinity and container quotas). Two threads of one core share its vector units and its
/// path to memory.
pub(crate) fn default_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    physical_cores(Path::new("/sys/devices/system/cpu")).map_or(allowed, |cores| cores.min(allowed))
}

/// The number of distinct sets of sibling threads, as Linux lists them; `None` on other systems.
fn physical_cores(root: &Path) -> Option<usize> {
    let mut cores = BTreeSet::new();
    for entry in std::fs::read_dir(root).ok()?.flatten() {
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix("cpu"));
        if digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit())) {
            let list = entry.path().join("topology/thread_siblings_list");
            if let Ok(siblings) = std::fs::read_to_string(list) {
                cores.insert(siblings);
            }
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_at_least_one() {
        assert!(default_threads() >= 1);
        assert_eq!(physical_cores(Path::new("/nonexistent")), None);
    }
}
