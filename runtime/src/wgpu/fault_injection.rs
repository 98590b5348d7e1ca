//! Faults on purpose, for tests of what is done about them.

/// Kernels whose names hold one of the words of this variable do nothing.
const VARIABLE: &str = "KINGLET_WGPU_BREAK";

/// Whether there are any.
pub(super) fn is_on() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|words| !words.is_empty())
}

/// The source of a kernel, or one that does nothing where the environment says that its driver gets it wrong.
pub(super) fn broken(name: &str, source: String) -> String {
    let Ok(words) = std::env::var(VARIABLE) else { return source };
    let mut words = words.split(',').map(str::trim).filter(|word| !word.is_empty());
    if !words.any(|word| name.contains(word)) {
        return source;
    }
    let Some(main) = source.find("fn main(") else { return source };
    let Some(body) = source[main..].find('{') else { return source };
    let (before, after) = source.split_at(main + body + 1);
    format!("{before} if true {{ return; }}{after}")
}
