//! Drivers with wrong kernels, simulated by breaking kernels on purpose.

use std::fs;

use kinglet_tests::target::wgpu_targets;

use crate::support::{Done, TextModel, run};

/// The answer on wgpu if kernels with `broken` in their names do nothing.
fn answer(model: &TextModel, broken: &str, more: &[&str]) -> Done {
    let options = ["--prompt", "Hi", "-n", "6", "--temperature", "0", "--backend", "wgpu"];
    let mut line = model.command("generate", &[&options[..], more].concat());
    line.env("KINGLET_WGPU_BREAK", broken).env("KINGLET_CACHE_DIR", "");
    run(line, b"")
}

#[test]
fn kernels_do_without_what_a_driver_gets_wrong() {
    if wgpu_targets().is_empty() {
        return;
    }
    let model = TextModel::new();
    let options = ["--prompt", "Hi", "-n", "6", "--temperature", "0", "--backend", "cpu"];
    let expected = model.run("generate", &options).ok();
    let found = answer(&model, "linear.rows.f32.subgroup", &[]);
    assert_eq!((found.code, &found.stdout), (0, &expected), "{found:?}");
    assert!(found.stderr.contains("without: linear f32 subgroups\n"), "{found:?}");
    // All of them, in every kind of layer.
    let found = answer(&model, "subgroup", &[]);
    assert_eq!((found.code, &found.stdout), (0, &expected), "{found:?}");
    for kernels in ["linear f32", "mamba2_scan f32", "attention -", "moe_route f32"] {
        assert!(found.stderr.contains(&format!("{kernels} subgroups")), "{kernels}: {found:?}");
    }
}

#[test]
fn the_host_chooses_tokens_if_the_driver_does_it_wrong() {
    if wgpu_targets().is_empty() {
        return;
    }
    let model = TextModel::new();
    let options = ["--prompt", "Hi", "-n", "6", "--temperature", "0", "--backend"];
    let expected = model.run("generate", &[&options[..], &["cpu"]].concat()).ok();
    for (variable, kernel) in [
        ("KINGLET_WGPU_BREAK", "sample.greedy"),
        ("KINGLET_WGPU_BREAK", "sample.drawn"),
        ("KINGLET_WGPU_BREAK", "sample.sorted"),
        ("KINGLET_WGPU_REFUSE", "sample.masses"),
    ] {
        let mut line = model.command("generate", &[&options[..], &["wgpu"]].concat());
        line.env(variable, kernel).env("KINGLET_CACHE_DIR", "");
        let found = run(line, b"");
        assert_eq!((found.code, &found.stdout), (0, &expected), "{kernel}: {found:?}");
        assert!(found.stderr.contains("without: sample - sampling\n"), "{kernel}: {found:?}");
    }
}

#[test]
fn a_kernel_that_a_driver_refuses_is_replaced() {
    if wgpu_targets().is_empty() {
        return;
    }
    let model = TextModel::new();
    let options = ["--prompt", "Hi", "-n", "6", "--temperature", "0", "--backend"];
    let expected = model.run("generate", &[&options[..], &["cpu"]].concat()).ok();
    let with = |variable: &str, value: &str| {
        let mut line = model.command("generate", &[&options[..], &["wgpu"]].concat());
        line.env(variable, value).env("KINGLET_CACHE_DIR", "");
        run(line, b"")
    };
    let found = with("KINGLET_WGPU_REFUSE", "head.rows.f32.subgroup");
    assert_eq!((found.code, &found.stdout), (0, &expected), "{found:?}");
    assert!(found.stderr.contains("head f32 subgroups"), "{found:?}");
    let message = with("KINGLET_WGPU_REFUSE", "head.rows").error(1);
    assert!(message.contains("head.rows") && message.contains("refused"), "{message}");
    // A device that doesn't answer is an error too.
    let message = with("KINGLET_WGPU_TIMEOUT_MS", "0").error(1);
    assert!(message.contains("did not answer"), "{message}");
}

#[test]
fn an_adapter_that_gets_every_form_wrong_is_refused() {
    if wgpu_targets().is_empty() {
        return;
    }
    let model = TextModel::new();
    for broken in ["mamba2_scan.step", "mamba2_scan.pass", "linear.small_tiles"] {
        // The default adapter is refused, with advice.
        let message = answer(&model, broken, &[]).error(1);
        assert!(message.contains("self-test"), "{broken}: {message}");
        assert!(message.contains("another adapter or the processor"), "{broken}: {message}");
    }
    // The wrong results can be seen on request.
    let found = answer(&model, "linear", &["--no-self-test"]);
    assert_eq!((found.code, &*found.stderr), (0, ""), "{found:?}");
}

#[test]
fn how_a_test_ended_is_kept_and_what_is_damaged_is_not_believed() {
    if wgpu_targets().is_empty() {
        return;
    }
    let model = TextModel::new();
    let folder = tempfile::tempdir().unwrap();
    let answer = || {
        let options =
            ["--prompt", "Hi", "-n", "6", "--temperature", "0", "--backend", "wgpu", "-vv"];
        let mut line = model.command("generate", &options);
        line.env("KINGLET_CACHE_DIR", folder.path().join("new"));
        let done = run(line, b"");
        assert_eq!(done.code, 0, "{done:?}");
        (done.stdout, done.stderr.matches("self-test of ").count())
    };
    let (text, tested) = answer();
    assert!(tested > 0, "nothing was tested");
    assert_eq!(answer(), (text.clone(), 0), "tested again");
    let kept = fs::read_dir(folder.path().join("new")).unwrap();
    let kept: Vec<_> = kept.map(|entry| entry.unwrap().path()).collect();
    assert!(kept.iter().any(|path| path.to_string_lossy().contains("self-test-")), "{kept:?}");
    for path in &kept {
        fs::write(path, b"damaged").unwrap();
    }
    assert_eq!(answer(), (text, tested), "a damaged file was believed");
}
