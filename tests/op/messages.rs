//! The library's errors name no command-line options, since C, Python and JavaScript programs show
//! them too. The command line adds its own hints.

use std::path::{Path, PathBuf};

/// The command-line option that a line of code names, outside comments.
fn option(line: &str) -> Option<&str> {
    if line.trim_start().starts_with("//") {
        return None;
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    line.match_indices("--").map(|(at, _)| (&line[..at], &line[at..])).find_map(
        |(before, after)| {
            let begins = !before.ends_with(is_word)
                && after[2..].starts_with(|c: char| c.is_ascii_lowercase());
            begins.then(|| after.split(|c: char| !is_word(c)).next().unwrap_or(after))
        },
    )
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_library_names_no_options_of_the_command_line() {
    assert_eq!(option("    \"take --backend cpu\""), Some("--backend"));
    assert_eq!(option("    (--force)"), Some("--force"));
    assert_eq!(option("    take less, or --kv-bits 8\","), Some("--kv-bits"));
    assert_eq!(option("    // as --force does"), None);
    assert_eq!(option("    \"models--org--name\" \"-- a\" \"---\""), None);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for part in ["runtime", "models", "quant", "shaders", "ffi"] {
        sources(&root.join(part).join("src"), &mut files);
    }
    assert!(files.len() > 100, "{files:?}");
    let mut named = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().zip(1..);
        named.extend(lines.filter_map(|(line, number)| {
            Some(format!("{}:{number}: {}", path.display(), option(line)?))
        }));
    }
    assert!(named.is_empty(), "{named:#?}");
}
