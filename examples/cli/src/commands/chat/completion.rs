//! Tab completion of commands, option names and paths, including `~`.

use std::borrow::Cow;
use std::path::{Path, is_separator};

use rustyline::completion::{Completer, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use super::commands::COMMANDS;
use super::settings;
use crate::paths;
use crate::terminal::PROMPT;

/// Helper of the line editor.
pub(super) struct Assistant;

impl Helper for Assistant {}
impl Validator for Assistant {}
impl Hinter for Assistant {
    type Hint = String;
}

impl Highlighter for Assistant {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(
        &'s self,
        prompt: &'p str,
        _default: bool,
    ) -> Cow<'b, str> {
        Cow::Owned(format!("{PROMPT}{prompt}{PROMPT:#}"))
    }
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        Ok(complete(line.get(..pos).unwrap_or_default()))
    }
}

/// The start of the completed word, and its completions.
fn complete(line: &str) -> (usize, Vec<Pair>) {
    let none = (line.len(), Vec::new());
    if !line.starts_with('/') || line.starts_with("//") {
        return none;
    }
    let Some((command, rest)) = line.split_once(char::is_whitespace) else {
        let names = COMMANDS.iter().map(|(name, rest, _)| (format!("/{name}"), !rest.is_empty()));
        return (0, beginning(line, names));
    };
    let rest = rest.trim_start();
    let begin = line.len() - rest.len();
    match command {
        "/set" if !rest.contains(char::is_whitespace) => {
            let names = settings::names().map(|name| (name.to_string(), true));
            // Accept both spellings.
            let typed = rest.trim_start_matches('-').replace('_', "-");
            (begin, beginning(&typed, names))
        }
        "/save" | "/save!" | "/load" => files(rest, begin, false),
        "/model" => files(rest, begin, true),
        _ => none,
    }
}

/// The names that begin with `typed`, followed by a space if an argument must follow.
fn beginning(typed: &str, names: impl Iterator<Item = (String, bool)>) -> Vec<Pair> {
    let names = names.filter(|(name, _)| name.starts_with(typed));
    names
        .map(|(name, more)| Pair {
            replacement: if more { format!("{name} ") } else { name.clone() },
            display: name,
        })
        .collect()
}

/// Completes the last part of the path `typed` from the entries of its folder.
fn files(typed: &str, begin: usize, only_folders: bool) -> (usize, Vec<Pair>) {
    if typed == "~" {
        return (begin, vec![Pair { display: "~/".into(), replacement: "~/".into() }]);
    }
    let at = typed.rfind(is_separator).map_or(0, |at| at + 1);
    let (folder, stem) = typed.split_at(at);
    let place = if folder.is_empty() { ".".into() } else { paths::expand(Path::new(folder)) };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Follows links to folders.
        let is_folder = entry.path().is_dir();
        let hidden = name.starts_with('.') && !stem.starts_with('.');
        if !name.starts_with(stem) || hidden || (only_folders && !is_folder) {
            continue;
        }
        let display = if is_folder { format!("{name}/") } else { name };
        found.push(Pair { replacement: display.clone(), display });
    }
    found.sort_by(|a, b| a.display.cmp(&b.display));
    (begin + at, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(line: &str) -> Vec<String> {
        let (begin, found) = complete(line);
        found.into_iter().map(|pair| format!("{}{}", &line[..begin], pair.replacement)).collect()
    }

    #[test]
    fn commands_and_options_are_completed() {
        assert_eq!(completed("/und"), ["/undo"]);
        assert_eq!(completed("/lo"), ["/load "]);
        assert_eq!(completed("/s"), ["/system ", "/set ", "/save ", "/stats"]);
        assert_eq!(completed("/set temp"), ["/set temperature ", "/set template-var "]);
        assert_eq!(completed("/set top_"), ["/set top-k ", "/set top-p "]);
        for line in ["", "und", "//und", "/set temperature ", "/system te", "/nonsense a"] {
            assert!(completed(line).is_empty(), "{line}");
        }
    }

    #[test]
    fn files_are_completed_with_their_spaces_and_models_are_folders() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("my models")).unwrap();
        for file in ["my talk.json", "your.json", ".my secret"] {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        let at = folder.path().display();
        let both = [format!("/load {at}/my models/"), format!("/load {at}/my talk.json")];
        assert_eq!(completed(&format!("/load {at}/my")), both);
        assert_eq!(completed(&format!("/load {at}/.m")), [format!("/load {at}/.my secret")]);
        assert_eq!(completed(&format!("/model {at}/m")), [format!("/model {at}/my models/")]);
        assert_eq!(completed("/save ~"), ["/save ~/"]);
        assert!(completed(&format!("/load {at}/none/x")).is_empty());
    }
}
