//! Help, version, and what clap says about a wrong command line.

use crate::support::{kinglet, run};

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let help = kinglet(&["--help"]).ok();
    for part in
        ["chat", "generate", "logits", "tokenize", "Exit codes", "KINGLET_MODEL", "Examples"]
    {
        assert!(help.contains(part), "{part}: {help}");
    }
    for name in ["chat", "generate", "logits", "tokenize"] {
        let help = kinglet(&[name, "--help"]).ok();
        for part in ["Examples:", "--model", "--threads", "--backend"] {
            assert!(help.contains(part), "{name}: {part}: {help}");
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
fn a_wrong_command_line_is_told_in_one_line() {
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
