//! Help, version, and errors of the command line.

use crate::support::{command, kinglet, run};

const COMMANDS: [&str; 12] = [
    "chat",
    "generate",
    "logits",
    "tokenize",
    "inspect",
    "fit",
    "eval",
    "init",
    "quantize",
    "bench",
    "devices",
    "completions",
];

/// Each option of a help text with its description.
fn options(help: &str) -> Vec<(String, String)> {
    let mut options: Vec<(String, String)> = Vec::new();
    for line in help.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        // `      --long <VALUE>  Words`, or with `-s, ` before it.
        if text.starts_with('-') && (indent == 2 || indent == 6) {
            let (option, about) = text.split_once("  ").unwrap_or((text, ""));
            options.push((option.into(), about.trim().into()));
        } else if let Some((_, about)) = options.last_mut().filter(|_| indent >= 8) {
            about.push(' ');
            about.push_str(text);
        }
    }
    options
}

#[test]
fn every_default_is_stated_and_the_short_help_is_short() {
    for name in COMMANDS {
        let [short, long] = ["-h", "--help"].map(|option| {
            let mut line = command(&[name, option]);
            line.env("COLUMNS", "80");
            run(line, b"").ok()
        });
        let usage = long.lines().find(|line| line.starts_with("Usage:")).unwrap();
        for help in [&short, &long] {
            let options = options(help);
            assert!(options.len() > 1, "{name}: {help}");
            for (option, about) in options.iter().filter(|(option, _)| option.contains('<')) {
                let flag = option.split_whitespace().find(|part| part.starts_with("--")).unwrap();
                // Required options have no default.
                let required = usage.contains(flag);
                assert!(required || about.contains("[default: "), "{name} {option}: {about}");
            }
        }
        for line in short.lines().chain(long.lines()) {
            assert!(line.chars().count() <= 80, "{name}: {line:?}");
        }
        assert!(long.len() > short.len() || name == "devices", "{name}");
        assert!(!short.contains("Examples:"), "{name}: {short}");
    }
    let short = kinglet(&["chat", "-h"]).ok();
    let long = kinglet(&["chat", "--help"]).ok();
    assert!(!short.contains("--dry-base") && long.contains("--dry-base"), "{short}");
    assert!(2 * short.lines().count() < long.lines().count(), "{short}");
}

#[test]
fn shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = kinglet(&["completions", shell]).ok();
        for part in COMMANDS.iter().chain(&["kv-bits", "tensors"]) {
            assert!(script.contains(part), "{shell}: {part}");
        }
    }
    let message = kinglet(&["completions", "tcsh"]).error(2);
    assert!(message.contains("tcsh") && message.contains("bash, "), "{message}");
}

#[test]
fn what_was_meant_is_guessed() {
    let demo = format!("{}/../models/demo/hybrid", env!("CARGO_MANIFEST_DIR"));
    for (line, part) in [
        (&["run"][..], "kinglet chat"),
        (&["serve"], "no server"),
        (&["pull", "org/name"], "--model DIR"),
        (&["convert"], "kinglet quantize"),
        (&[&demo], "kinglet chat --model"),
        (&["What is a fjord?"], "--prompt"),
        (&["chat", "What is a fjord?"], "kinglet chat --prompt"),
        (&["chat", &demo], "kinglet chat --model"),
        (&["inspect", &demo], "kinglet inspect --model"),
        (&["bench", "x"], "--model DIR"),
        (&["--model", "DIR", "chat"], "options come after the command"),
        (&["inspect", "--backend", "cpu"], "it is an option of chat, generate"),
        (&["inspect", "--calibrate", "x"], "only `kinglet quantize` has it"),
        (&["chatt"], "'chat'"),
    ] {
        let message = kinglet(line).error(2);
        assert!(message.contains(part), "{line:?}: {message}");
    }
}

#[test]
fn counts_begin_with_one() {
    for line in [
        &["bench", "--rounds", "0"][..],
        &["bench", "--sessions", "0"],
        &["eval", "--text", "x", "--context", "0"],
        &["eval", "--text", "x", "--stride", "0"],
        &["eval", "--text", "x", "--limit", "0"],
        &["generate", "--prompt", "x", "--max-tokens", "0"],
        &["generate", "--prompt", "x", "--attention-window", "0"],
        &["generate", "--prompt", "x", "--threads", "0"],
        &["inspect", "--context", "0"],
        &["fit", "--memory", "1GB", "--context", "0"],
        &["quantize", "--calibrate", "x", "--calibrate-tokens", "0", "--dry-run"],
        &["bench", "--prefill", "99999999999"],
        &["bench", "--depth", "0,99999999999"],
    ] {
        let message = kinglet(line).error(2);
        assert!(
            message.contains(line[line.len() - 2]) || line.contains(&"--dry-run"),
            "{line:?}: {message}"
        );
        assert!(message.contains(" is not in "), "{line:?}: {message}");
    }
}

#[test]
fn the_program_is_small() {
    let program = std::path::PathBuf::from(command::<&str>(&[]).get_program());
    // Other profiles keep their symbols.
    if program.parent().unwrap().ends_with("release") {
        let bytes = std::fs::metadata(&program).unwrap().len();
        assert!(bytes < 30_000_000, "{bytes}");
    }
}

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let help = kinglet(&["--help"]).ok();
    for part in
        ["chat", "generate", "logits", "tokenize", "Exit codes", "KINGLET_MODEL", "Examples"]
    {
        assert!(help.contains(part), "{part}: {help}");
    }
    // Each option exists only where it has an effect.
    let runs = ["chat", "generate", "logits", "eval", "bench"];
    for (option, commands) in [
        ("--model", &["tokenize", "inspect", "fit", "quantize"][..]),
        ("--threads", &["quantize"]),
        ("--backend", &[]),
        ("--kv-bits", &[]),
        ("--no-self-test", &[]),
    ] {
        for name in COMMANDS {
            let help = kinglet(&[name, "--help"]).ok();
            let expected = runs.contains(&name) || commands.contains(&name);
            let listed = options(&help).iter().any(|(line, _)| {
                line.split_whitespace().any(|word| word.trim_end_matches(',') == option)
            });
            assert_eq!(listed, expected, "{name}: {option}: {help}");
            assert!(help.contains("Examples:") || name == "completions", "{name}: {help}");
        }
    }
    assert!(kinglet(&["--version"]).ok().starts_with("kinglet 0."));
}

#[test]
fn without_a_command_the_help_is_shown_and_it_is_an_error() {
    let done = kinglet(&[]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("Usage: kinglet"), "{done:?}");
}

#[test]
fn an_invalid_command_line_gives_one_line() {
    for (line, parts) in [
        (&["chatt"][..], &["chatt", "'chat'"][..]),
        (&["generate"], &["--prompt"]),
        (&["generate", "--prompt", "a", "--tokens", "1"], &["--tokens", "--prompt"]),
        (&["generate", "--prompt", "a", "--bakend", "cpu"], &["--bakend", "--backend"]),
        (&["generate", "--prompt", "a", "--backend", "tpu"], &["tpu", "auto, cpu"]),
        (&["generate", "--prompt", "a", "--threads", "0"], &["--threads", "1..=512"]),
        (&["generate", "--prompt", "a", "--max-tokens", "x"], &["--max-tokens", "'x'"]),
        (&["generate", "--prompt", "a", "--logit-bias", "x"], &["--logit-bias", "42=-5"]),
        (&["generate", "--tokens", "1,two"], &["--tokens", "two", "number 2"]),
        (&["logits", "--tokens", "1"], &["--out"]),
        (&["logits", "--tokens", "1", "--out", "f", "--chunk", "0"], &["--chunk"]),
        (&["tokenize", "--decode", "1", "text"], &["--decode"]),
        (&["chat", "--prompt", "a", "--interactive"], &["--interactive"]),
        (&["chat", "--prompt", "a", "--template-var", "x"], &["NAME=VALUE"]),
    ] {
        let message = kinglet(line).error(2);
        for part in parts {
            assert!(message.contains(part), "{line:?}: {part}: {message}");
        }
        assert!(message.contains("--help"), "{line:?}: {message}");
    }
}

#[test]
fn the_log_goes_to_standard_error_only() {
    let model = crate::support::TextModel::new();
    let mut line = model.command("generate", &["--prompt", "a", "-n", "2", "--greedy", "-v"]);
    let verbose = run(line, b"");
    line = model.command("generate", &["--prompt", "a", "-n", "2", "--greedy"]);
    let quiet = run(line, b"");
    assert!(verbose.stderr.contains("granitemoehybrid"), "{verbose:?}");
    assert_eq!(verbose.stdout, quiet.ok());
}
