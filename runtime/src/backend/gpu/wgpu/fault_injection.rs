//! Faults on purpose, for tests of what is done about them.

use std::time::Duration;

/// Kernels whose names hold one of the words of this variable do nothing, as if the driver got them wrong.
const BREAK: &str = "KINGLET_WGPU_BREAK";
/// Kernels whose names hold one of the words of this variable are refused, as if the driver could not compile them.
const REFUSE: &str = "KINGLET_WGPU_REFUSE";
/// Milliseconds after which a device counts as stuck.
const TIMEOUT: &str = "KINGLET_WGPU_TIMEOUT_MS";

/// Whether there are faults in kernels.
pub(super) fn is_on() -> bool {
    [BREAK, REFUSE].iter().any(|name| std::env::var_os(name).is_some_and(|words| !words.is_empty()))
}

fn names(variable: &str, kernel: &str) -> bool {
    let words = std::env::var(variable).unwrap_or_default();
    let mut words = words.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.any(|word| kernel.contains(word))
}

/// The source of a kernel, or what the environment asks for in its place.
pub(super) fn source(kernel: &str, source: String) -> String {
    if names(REFUSE, kernel) {
        return "refused".into();
    }
    if !names(BREAK, kernel) {
        return source;
    }
    let Some(main) = source.find("fn main(") else { return source };
    let Some(body) = source[main..].find('{') else { return source };
    let (before, after) = source.split_at(main + body + 1);
    format!("{before} if true {{ return; }}{after}")
}

/// How long the device may take, if the environment says.
pub(super) fn timeout() -> Option<Duration> {
    std::env::var(TIMEOUT).ok()?.parse().ok().map(Duration::from_millis)
}
