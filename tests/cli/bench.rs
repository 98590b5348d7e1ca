//! `kinglet bench`: what it measures, not how fast it is.

use kinglet_tests::target::wgpu_targets;
use serde_json::Value;

use crate::support::{command, fixture, run};

fn bench(model: &str, more: &[&str]) -> Vec<Value> {
    let model = fixture(model);
    let options = ["bench", "--model", &model, "--prefill", "20", "--decode", "3", "--rounds", "1"];
    run(command(&[&options[..], &["--json"], more].concat()), b"").events()
}

/// What all rows have.
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
fn a_profile_names_every_kernel_with_its_time_and_launches() {
    if wgpu_targets().is_empty() {
        return;
    }
    let rows = bench("granitemoehybrid/plain", &["--profile", "--backend", "wgpu"]);
    for (test, launched) in [("prefill", "moe_group"), ("decode", "moe_down.rows.f32")] {
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
    let model = fixture("mamba2/plain");
    let line = command(&["bench", "--model", &model, "--profile", "--backend", "cpu"]);
    let message = run(line, b"").error(1);
    assert!(message.contains("measuring kernels"), "{message}");
}
