//! `fit`, and what `inspect` writes and counts.

use serde_json::Value;

use crate::support::{fixture, kinglet};

fn demo() -> String {
    format!("{}/../models/demo/hybrid", env!("CARGO_MANIFEST_DIR"))
}

fn json(line: &[&str]) -> Value {
    let mut events = kinglet(line).events();
    assert_eq!(events.len(), 1);
    events.remove(0)
}

#[test]
fn fit_lists_what_fits() {
    let demo = demo();
    let fit = |memory: &str| {
        json(&["fit", "--model", &demo, "--memory", memory, "--context", "65536", "--json"])
    };
    let all = fit("1GiB");
    assert_eq!(all["memory"], 1u64 << 30);
    assert_eq!(all["choices"].as_array().unwrap().len(), 7);
    assert!(all["choices"][0]["bits"].is_null() && all["choices"][0]["attention_window"].is_null());
    assert_eq!(
        (&all["choices"][0]["kv_bits"], &all["choices"][1]["bits"]),
        (&32.into(), &8.into())
    );
    let some = fit("60MB");
    for choice in some["choices"].as_array().unwrap() {
        let sum: u64 =
            ["weights", "state", "buffers"].map(|part| choice[part].as_u64().unwrap()).iter().sum();
        assert_eq!(choice["total"], sum);
        assert!(sum <= 60_000_000);
    }
    // The model's own context is the default.
    let own = json(&["fit", "--model", &demo, "--memory", "1GiB", "--json"]);
    assert_eq!(own["context"], 2048);
    let text = kinglet(&["fit", "--model", &demo, "--memory", "60 MB"]).ok();
    assert!(text.contains("as stored") && text.contains("best first"), "{text}");
}

#[test]
fn fit_says_what_would_be_enough() {
    let demo = demo();
    let message = kinglet(&["fit", "--model", &demo, "--memory", "2MB"]).error(1);
    for part in ["nothing fits 2.00 MB", "2,048 tokens", "the least is", "2 bits", "--kv-bits 4"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let message = kinglet(&["fit", "--model", &demo, "--memory", "6"]).error(2);
    assert!(message.contains("6GiB"), "{message}");
}

#[test]
fn inspect_counts_work_and_memory() {
    let value = json(&["inspect", "--model", &fixture("mamba2/bf16"), "--json"]);
    let work = &value["work"];
    // As in tests/analysis.rs: Mamba-2's projections and scans, and the head.
    assert_eq!(work["projections"], 2 * 2 * (230 * 48 + 48 * 96) + 2 * 112 * 48);
    assert_eq!((&work["scans"], &work["attention"]), (&17_792.into(), &0.into()));
    let contexts: Vec<_> = value["memory_by_context"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["context"].as_u64().unwrap())
        .collect();
    assert_eq!(contexts, [1024, 4096, 8192, 32_768, 131_072]);
}

#[test]
fn inspect_counts_experts() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "Once upon a time, there was a little dog named Spot. ".repeat(9))
        .unwrap();
    let text = text.to_str().unwrap();
    let demo = demo();
    let value = json(&["inspect", "--model", &demo, "--experts", "--text", text, "--json"]);
    let layers = value["experts"].as_array().unwrap();
    assert_eq!(layers.len(), 10);
    let sum = |layer: &Value| {
        layer["tokens"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>()
    };
    assert!(sum(&layers[0]) > 2 * 90 && layers.iter().all(|layer| sum(layer) == sum(&layers[0])));
    let shown = kinglet(&["inspect", "--model", &demo, "--experts", "--text", text]).ok();
    assert!(shown.contains("imbalance") && !shown.contains("recurrent"), "{shown}");
    let without = format!("{}/../models/demo/xlstm", env!("CARGO_MANIFEST_DIR"));
    let message = kinglet(&["inspect", "--model", &without, "--experts", "--text", text]).error(1);
    assert!(message.contains("the model has none"), "{message}");
    assert!(kinglet(&["inspect", "--experts"]).error(2).contains("--text"));
}

#[test]
fn a_report_replaces_a_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    std::fs::write(&path, "old").unwrap();
    let name = path.to_str().unwrap();
    assert_eq!(kinglet(&["inspect", "--model", &demo(), "--report", name]).ok(), "");
    let page = std::fs::read_to_string(&path).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert!(page.contains("What 50 GB/s allow"));
    kinglet(&["inspect", "--model", &demo(), "--report", name, "--bandwidth", "120"]).ok();
    assert!(std::fs::read_to_string(&path).unwrap().contains("What 120 GB/s allow"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let missing = folder.path().join("no/report.html");
    let message =
        kinglet(&["inspect", "--model", &demo(), "--report", missing.to_str().unwrap()]).error(1);
    assert!(message.contains("report.html"), "{message}");
    assert!(kinglet(&["inspect", "--report", name, "--bandwidth", "0"]).error(2).contains("GB/s"));
}
