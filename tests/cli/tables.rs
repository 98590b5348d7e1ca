//! Output for people fits their terminal.

use kinglet_tests::target::wgpu_targets;

use crate::support::{command, run};

fn demo(name: &str) -> String {
    format!("{}/../models/demo/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The output of a command line with the given number of columns.
#[track_caller]
fn shown(line: &[&str], columns: &str, more: &[(&str, &str)]) -> String {
    let mut command = command(line);
    command.env("COLUMNS", columns).envs(more.iter().copied());
    run(command, b"").ok()
}

#[test]
fn every_table_fits_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "Once upon a time, there was a little dog named Spot. ".repeat(8))
        .unwrap();
    let text = text.to_str().unwrap();
    let mut lines: Vec<Vec<&str>> = vec![
        vec!["devices"],
        vec![
            "bench",
            "--backend",
            "cpu",
            "--rounds",
            "1",
            "--prefill",
            "8",
            "--decode",
            "2",
            "--sessions",
            "2",
            "--depth",
            "0,9",
        ],
        vec!["bench", "--backend", "cpu", "--rounds", "1", "--decode", "4", "--speculate", "ngram"],
        vec!["inspect"],
        vec!["inspect", "--plan"],
        vec!["inspect", "--tensors"],
        vec!["inspect", "--experts", "--text", text],
        vec!["fit", "--memory", "40MB", "--context", "65536"],
        vec!["quantize", "--dry-run", "--group-size", "32"],
        vec!["quantize", "--dry-run", "--group-size", "32", "--tensors"],
    ];
    if !wgpu_targets().is_empty() {
        lines.push(vec![
            "bench",
            "--backend",
            "wgpu",
            "--adapter",
            "0",
            "--profile",
            "--rounds",
            "1",
            "--prefill",
            "8",
            "--decode",
            "1",
        ]);
    }
    let model = demo("hybrid");
    lines.push(vec![
        "eval",
        "--backend",
        "cpu",
        "--text",
        text,
        "--context",
        "16",
        "--limit",
        "40",
        "--reference",
        &model,
    ]);
    for line in lines {
        let model = if line[0] == "devices" { &[][..] } else { &["--model", &model] };
        let line = [&line[..], model].concat();
        for columns in ["80", "50"] {
            let text = shown(&line, columns, &[]);
            assert!(!text.contains('\u{1b}'), "{line:?}: {text}");
            let most: usize = columns.parse().unwrap();
            // A path is not wrapped, so that it can be copied.
            for row in text.lines().filter(|row| !row.contains("models/demo/hybrid")) {
                assert!(row.chars().count() <= most, "{line:?} in {columns}: {row:?}");
            }
        }
    }
}

#[test]
fn inspect_prints_what_was_asked_for() {
    let model = demo("hybrid");
    let inspect =
        |more: &[&str]| shown(&[&["inspect", "--model", &model], more].concat(), "80", &[]);
    let parts = [
        ("recurrent state", &[][..]),
        ("mamba2_scan", &["--plan"]),
        ("layers.0.", &["--tensors"]),
        ("No NaN", &["--check"]),
    ];
    let all: Vec<String> = parts.iter().map(|(_, options)| inspect(options)).collect();
    for (text, (own, options)) in all.iter().zip(&parts) {
        for (other, _) in &parts {
            // Ops name matrices by their tensors.
            if (own, other) == (&"mamba2_scan", &"layers.0.") {
                continue;
            }
            assert_eq!(text.contains(other), own == other, "{options:?}: {other}: {text}");
        }
    }
    assert_eq!(inspect(&["--plan", "--tensors"]), format!("{}\n{}", all[2], all[1]));
}

#[test]
fn colors_are_for_those_who_want_them() {
    let model = demo("hybrid");
    let line = ["inspect", "--model", &model];
    let plain = shown(&line, "80", &[]);
    let colored = shown(&line, "80", &[("CLICOLOR_FORCE", "1")]);
    assert!(colored.contains("\u{1b}[1m"), "{colored:?}");
    assert_eq!(shown(&line, "80", &[("NO_COLOR", "1")]), plain);
    assert!(shown(&["--help"], "80", &[("CLICOLOR_FORCE", "1")]).contains('\u{1b}'));
}
