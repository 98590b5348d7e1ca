//! `kinglet bench`: what it measures, not how fast it is.

use kinglet_tests::target::wgpu_targets;
use serde_json::Value;

use crate::support::{Running, command, fixture, run};

fn bench(model: &str, more: &[&str]) -> Vec<Value> {
    let sizes = &["--prefill", "20", "--decode", "3"];
    plain_bench(model, &[&sizes[..], more].concat())
}

fn plain_bench(model: &str, more: &[&str]) -> Vec<Value> {
    let model = fixture(model);
    let options = ["bench", "--model", &model, "--rounds", "1", "--json"];
    run(command(&[&options[..], more].concat()), b"").events()
}

/// Checks common to all rows.
fn check(rows: &[Value]) {
    let tests: Vec<_> = rows.iter().map(|row| (&row["test"], &row["depth"])).collect();
    assert_eq!(tests, [(&"prefill".into(), &0.into()), (&"decode".into(), &7.into())], "{rows:?}");
    for row in rows {
        assert!(row["tokens_per_second"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["bandwidth_gb_per_second"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert!(rows[1]["bytes_per_token"].as_u64().unwrap() > 0, "{rows:?}");
    assert!(rows[1]["bandwidth_fraction"].as_f64().unwrap() > 0.0, "{rows:?}");
}

#[test]
fn each_test_is_a_row_with_its_share_of_the_bandwidth() {
    check(&bench("mamba2/plain", &["--depth", "7", "--backend", "cpu"]));
    if !wgpu_targets().is_empty() {
        check(&bench("mamba2/plain", &["--depth", "7", "--backend", "wgpu"]));
    }
}

#[test]
fn a_row_is_there_when_it_is_measured_and_the_rest_can_be_stopped() {
    let model = fixture("mamba2/plain");
    let line = [
        "bench",
        "--model",
        &model,
        "--json",
        "--rounds",
        "1",
        "--prefill",
        "9",
        "--decode",
        "1000000000",
        "--backend",
        "cpu",
    ];
    let mut running = Running::start(command(&line));
    assert_eq!(running.event()["test"], "prefill");
    running.interrupt();
    let (status, rest, errors) = running.finish();
    assert_eq!((status.code(), rest.as_str(), errors.as_str()), (Some(130), "", ""));
}

#[test]
fn a_share_above_one_has_a_note_and_agrees_with_the_figures() {
    // So small that it fits any cache.
    for row in bench("mamba2/plain", &["--backend", "cpu", "--depth", "0,7"]) {
        let number = |name: &str| row[name].as_f64();
        let Some(share) = number("bandwidth_fraction") else {
            assert!(row["note"].is_null() && row["gb_per_second"].is_null(), "{row}");
            continue;
        };
        let moved = number("gb_per_second").unwrap();
        assert!((share - moved / number("bandwidth_gb_per_second").unwrap()).abs() < 1e-9, "{row}");
        let bytes = number("bytes_per_token").unwrap() * number("tokens_per_second").unwrap();
        assert!((moved - bytes / 1e9).abs() < 1e-9 * moved, "{row}");
        assert_eq!(share > 1.0, row["note"].is_string(), "{row}");
    }
}

#[test]
fn sizes_that_no_memory_holds_are_refused() {
    let model = fixture("llama/plain");
    for sizes in [["--depth", "1000000000"], ["--prefill", "1073741824"]] {
        let line = [&["bench", "--model", &model, "--backend", "cpu"][..], &sizes].concat();
        let message = run(command(&line), b"").error(2);
        assert!(message.contains("would take") && message.contains("free"), "{message}");
    }
}

#[test]
fn sessions_that_decode_together_are_counted_together() {
    let rows = plain_bench(
        "mamba2/plain",
        &["--sessions", "1,3", "--prefill", "0", "--decode", "3", "--backend", "cpu"],
    );
    let seen: Vec<_> = rows.iter().map(|row| (&row["test"], &row["sessions"])).collect();
    let together = || "together".into();
    assert_eq!(
        seen,
        [(&"decode".into(), &1.into()), (&together(), &1.into()), (&together(), &3.into())]
    );
    let moved = |row: &Value| row["bytes_per_token"].as_u64().unwrap();
    assert!(moved(&rows[2]) < moved(&rows[1]), "weights are read once for all: {rows:?}");
    for row in rows {
        assert!(row["tokens_per_second"].as_f64().unwrap() > 0.0, "{row}");
    }
}

#[test]
fn guesses_are_weighed_against_the_same_answer_without_them() {
    let draft = fixture("mamba2/plain");
    for with in ["ngram", &draft] {
        let rows = plain_bench(
            "mamba2/plain",
            &["--speculate", with, "--decode", "40", "--backend", "cpu"],
        );
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((&row["test"], &row["same_answer"]), (&"speculation".into(), &true.into()));
        let (with, without) = (&row["tokens_per_second"], &row["tokens_per_second_without"]);
        assert!(with.as_f64().unwrap() > 0.0 && without.as_f64().unwrap() > 0.0, "{row}");
        let number = |name: &str| row[name].as_u64().unwrap();
        assert!(number("steps") <= 40 && number("accepted") <= number("drafted"), "{row}");
    }
    // A model that drafts for itself is always right.
    let rows =
        plain_bench("mamba2/plain", &["--speculate", &draft, "--decode", "40", "--backend", "cpu"]);
    assert!(rows[0]["steps"].as_u64().unwrap() < 20, "{rows:?}");
}

#[test]
fn a_profile_names_every_kernel_with_its_time_and_launches() {
    let mut cases = vec![("cpu", [("prefill", "moe_up"), ("decode", "mamba2_scan")])];
    if !wgpu_targets().is_empty() {
        cases.push(("wgpu", [("prefill", "moe_group"), ("decode", "moe_down.rows.f32")]));
    }
    for (backend, expected) in cases {
        let rows = bench("granitemoehybrid/plain", &["--profile", "--backend", backend]);
        for (test, launched) in expected {
            let own: Vec<_> = rows.iter().filter(|row| row["test"] == test).collect();
            let named = |row: &&&Value| row["kernel"].as_str().unwrap().starts_with(launched);
            assert!(own.iter().any(|row| named(&row)), "{test}: {own:?}");
            let shares: f64 = own.iter().map(|row| row["share"].as_f64().unwrap()).sum();
            assert!((shares - 1.0).abs() < 1e-6, "{test}: {shares}");
            for row in own {
                assert!(row["launches"].as_u64().unwrap() > 0, "{row}");
                assert!(row["microseconds"].as_f64().unwrap() > 0.0, "{row}");
            }
        }
    }
}
