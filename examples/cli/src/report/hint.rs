//! Suggestions for an invalid command line.

use std::path::Path;

use clap::Command;
use clap::error::{ContextKind, ContextValue};

/// Commands of similar programs, and what to use instead.
const ELSEWHERE: [(&[&str], &str); 12] = [
    (&["run", "talk", "repl", "interactive"], "to talk to a model: `kinglet chat`"),
    (
        &["complete", "completion", "infer", "predict", "sample"],
        "to continue a text: `kinglet generate`",
    ),
    (&["info", "show", "describe"], "to see a model's structure: `kinglet inspect`"),
    (&["perplexity", "ppl", "evaluate"], "to measure a model on a text: `kinglet eval`"),
    (&["benchmark", "perf", "speed"], "to measure speed: `kinglet bench`"),
    (&["encode", "decode", "tokens", "tokenizer"], "for text and token ids: `kinglet tokenize`"),
    (&["gpu", "gpus", "adapters", "device"], "to list devices: `kinglet devices`"),
    (
        &["convert", "import"],
        "checkpoints run as they come from the hub; `kinglet quantize` writes one in fewer bits",
    ),
    (
        &["pull", "download", "get", "login"],
        "download models with other tools, as with `hf download ORG/NAME --local-dir DIR`, then `kinglet chat --model DIR`",
    ),
    (
        &["list", "ls", "models", "ps", "rm"],
        "a model is any folder from the hub: `kinglet chat --model DIR`",
    ),
    (
        &["serve", "server", "api"],
        "there is no server; programs use `kinglet chat --json`, or the library from Rust, C or Python",
    ),
    (&["version"], "`kinglet --version`"),
];

/// The command that was called: from clap's usage, or else the first one on the command line.
pub(super) fn called(text: &str, command: &Command) -> Option<String> {
    let usage = text.lines().find_map(|line| line.strip_prefix("Usage: kinglet "));
    match usage {
        Some(usage) => {
            let name = usage.split_whitespace().next()?;
            name.starts_with(|c: char| c.is_ascii_lowercase()).then(|| name.to_string())
        }
        None => std::env::args().skip(1).find(|name| command.find_subcommand(name).is_some()),
    }
}

/// A suggestion, if there is one.
pub(super) fn hint(error: &clap::Error, command: &Command, called: Option<&str>) -> Option<String> {
    let named = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    match (named(ContextKind::InvalidSubcommand), named(ContextKind::InvalidArg)) {
        (Some(name), _) => {
            let lower = name.to_lowercase();
            let known = ELSEWHERE.iter().find(|(names, _)| names.contains(&lower.as_str()));
            match known {
                Some((_, hint)) => Some((*hint).to_string()),
                None if is_folder(name) => {
                    Some(format!("a model's folder: `kinglet chat --model {name}`"))
                }
                None if name.contains(char::is_whitespace) => {
                    Some(format!("to ask that: `kinglet chat --prompt {name:?}`"))
                }
                None => None,
            }
        }
        (None, Some(argument)) if error.kind() == clap::error::ErrorKind::UnknownArgument => {
            unknown_argument(argument, command, called)
        }
        _ => None,
    }
}

fn unknown_argument(argument: &str, command: &Command, called: Option<&str>) -> Option<String> {
    if !argument.starts_with('-') {
        return match called {
            Some(name) if is_folder(argument) && has(command, name, "--model") => {
                Some(format!("a model's folder: `kinglet {name} --model {argument}`"))
            }
            Some(name) if has(command, name, "--prompt") => {
                Some(format!("a text: `kinglet {name} --prompt {argument:?}`"))
            }
            Some(name) if has(command, name, "--model") => {
                Some(format!("a model's folder goes with --model: `kinglet {name} --model DIR`"))
            }
            _ => None,
        };
    }
    let option = argument.split('=').next().unwrap_or(argument);
    let others: Vec<&str> = command
        .get_subcommands()
        .map(Command::get_name)
        .filter(|name| has(command, name, option))
        .collect();
    match (called, others.as_slice()) {
        (_, []) => None,
        (None, [first, ..]) => {
            Some(format!("options come after the command, as in `kinglet {first} {option}`"))
        }
        (Some(_), [.., last]) if others.len() == 1 => Some(format!("only `kinglet {last}` has it")),
        (Some(_), [rest @ .., last]) => {
            Some(format!("it is an option of {} and {last}", rest.join(", ")))
        }
    }
}

fn is_folder(text: &str) -> bool {
    text.contains(['/', '\\']) || Path::new(text).is_dir()
}

/// Whether a command has an option, written as `--long` or `-s`.
fn has(command: &Command, name: &str, option: &str) -> bool {
    let Some(command) = command.find_subcommand(name) else { return false };
    command.get_arguments().any(|known| match option.strip_prefix("--") {
        Some(long) => known.get_long() == Some(long),
        None => known.get_short().is_some_and(|short| option.chars().nth(1) == Some(short)),
    })
}
