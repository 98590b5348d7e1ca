//! Paths as people type them, and explanations of paths that don't exist.

use std::io;
use std::path::{Path, PathBuf};

/// Expands a leading `~` to the home folder, for paths that no shell has expanded
/// (`--save=~/talk.json`, commands in a chat).
pub(crate) fn expand(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), dirs::home_dir()) {
        (Ok(rest), Some(home)) if rest.as_os_str().is_empty() => home,
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.into(),
    }
}

/// A path typed after a chat command, without quotes around the whole.
pub(crate) fn typed(text: &str) -> PathBuf {
    let text = text.trim();
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    expand(Path::new(inner('"').or_else(|| inner('\'')).unwrap_or(text)))
}

/// Explains why a file can't be read or written, and names the folder that is the cause.
pub(crate) fn why(path: &Path, source: &io::Error) -> String {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    match source.kind() {
        io::ErrorKind::NotFound if !parent.exists() => {
            // Name the topmost missing folder too: it says more.
            let first = parent.ancestors().take_while(|folder| !folder.exists()).last();
            match first.filter(|first| *first != parent && !first.as_os_str().is_empty()) {
                Some(first) => format!(
                    "the folder {} does not exist (nor does {}): create it, or use another",
                    parent.display(),
                    first.display()
                ),
                None => {
                    format!(
                        "the folder {} does not exist: create it, or use another",
                        parent.display()
                    )
                }
            }
        }
        io::ErrorKind::NotFound => "the file does not exist".into(),
        io::ErrorKind::NotADirectory => match parent.ancestors().find(|folder| folder.is_file()) {
            Some(file) => format!("{} is a file, not a folder", file.display()),
            None => source.to_string(),
        },
        _ => source.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tilde_is_the_home_folder_only_at_the_beginning() {
        let home = dirs::home_dir().unwrap();
        assert_eq!(expand(Path::new("~")), home);
        assert_eq!(expand(Path::new("~/a b/c.json")), home.join("a b/c.json"));
        for path in ["a/~/b", "~other/b", "./~", "", "/~"] {
            assert_eq!(expand(Path::new(path)), Path::new(path));
        }
        assert_eq!(typed(" \"~/my talk.json\" "), home.join("my talk.json"));
        assert_eq!(typed("'a\"b'"), Path::new("a\"b"));
        assert_eq!(typed("it's"), Path::new("it's"));
    }

    #[test]
    fn the_folder_that_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        let read = |path: &Path| why(path, &std::fs::read(path).unwrap_err());
        let missing = read(&at("a/talk.json"));
        assert!(
            missing.contains(&format!("the folder {} does not exist:", at("a").display())),
            "{missing}"
        );
        let missing = read(&at("a/b/talk.json"));
        let both = format!(
            "the folder {} does not exist (nor does {})",
            at("a/b").display(),
            at("a").display()
        );
        assert!(missing.contains(&both), "{missing}");
        assert_eq!(read(&at("talk.json")), "the file does not exist");
        let inside = read(&at("file/talk.json"));
        assert!(inside.contains(&format!("{} is a file", at("file").display())), "{inside}");
    }
}
