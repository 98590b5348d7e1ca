//! Checkpoints with random weights.

use std::collections::HashMap;
use std::path::Path;

use kinglet::init::{InitOptions, init};
use kinglet::quant::DType;
use kinglet::quantize::QuantizeError;
use kinglet::weights::CheckOptions;
use kinglet::{Backend, Checkpoint, Error, Model, ModelOptions};
use kinglet_tests::fixtures;
use safetensors::SafeTensors;

fn config(case: &str) -> String {
    std::fs::read_to_string(fixtures().join(case).join("config.json")).unwrap()
}

/// All tensors of a checkpoint in f32.
fn tensors(folder: &Path) -> HashMap<String, Vec<f32>> {
    let mut all = HashMap::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().extension().is_none_or(|end| end != "safetensors") {
            continue;
        }
        let bytes = std::fs::read(entry.path()).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let (floats, _) = view.data().as_chunks::<4>();
            all.insert(name, floats.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect());
        }
    }
    all
}

fn made(case: &str, options: &InitOptions) -> HashMap<String, Vec<f32>> {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    init(&config(case), &out, &options.clone().dtype(DType::F32), &mut |_, _| true).unwrap();
    tensors(&out)
}

fn deviation(values: &[f32]) -> f64 {
    let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / values.len() as f64;
    (values.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / values.len() as f64)
        .sqrt()
}

fn near(got: f64, expected: f64, within: f64) {
    assert!((got - expected).abs() <= within * expected.abs(), "{got}, not {expected}");
}

#[test]
fn a_tensor_begins_as_its_role_says() {
    let all = made("mamba/bf16", &InitOptions::new());
    let of = |name: &str| &all[&format!("backbone.layers.1.{name}")][..];
    let rates: Vec<f32> = (1..=16).map(|n| (n as f32).ln()).collect();
    for row in of("mixer.A_log").chunks(16) {
        assert!(row.iter().zip(&rates).all(|(got, rate)| (got - rate).abs() < 1e-6));
    }
    assert!(of("mixer.D").iter().chain(of("norm.weight")).all(|x| *x == 1.0));
    assert!(of("mixer.conv1d.bias").iter().all(|x| *x == 0.0));
    assert!(
        of("mixer.conv1d.weight").iter().all(|x| x.abs() <= 0.5)
            && deviation(of("mixer.conv1d.weight")) > 0.25
    );
    // The steps that softplus makes of the biases.
    let steps: Vec<f64> =
        of("mixer.dt_proj.bias").iter().map(|x| f64::from(*x).exp().ln_1p()).collect();
    assert!(steps.iter().all(|step| (0.99e-3..=0.101).contains(step)), "{steps:?}");
    assert!(steps.iter().any(|step| *step < 5e-3) && steps.iter().any(|step| *step > 2e-2));
    // The rank is 3.
    assert!(of("mixer.dt_proj.weight").iter().all(|x| x.abs() <= 0.578));
    near(deviation(of("mixer.in_proj.weight")), 0.02, 0.05);
    near(deviation(&all["backbone.embeddings.weight"]), 0.02, 0.05);
    // Two branches write to the residual stream.
    near(deviation(of("mixer.out_proj.weight")), 0.02 / 2f64.sqrt(), 0.05);

    let all = made("mamba2/bf16", &InitOptions::new());
    let rates = all["backbone.layers.0.mixer.A_log"].iter().map(|x| x.exp());
    assert!(rates.clone().all(|rate| (1.0..=16.0).contains(&rate)));
    assert!(all["backbone.layers.0.mixer.dt_bias"].iter().all(|x| (-7.0..-2.2).contains(x)));

    let all = made("xlstm/bf16", &InitOptions::new());
    let bias = |gate: &str| &all[&format!("backbone.blocks.0.mlstm_layer.{gate}.bias")];
    assert_eq!(bias("igate_preact"), &[-10.0; 3]);
    assert_eq!(bias("fgate_preact"), &[3.0, 4.5, 6.0]);
}

#[test]
fn numbers_depend_on_the_seed_and_the_name_alone() {
    let options = InitOptions::new();
    let all = made("granitemoehybrid/plain", &options);
    let again = made("granitemoehybrid/plain", &options.clone().max_shard_bytes(10_000));
    assert_eq!(all, again);
    let other = made("granitemoehybrid/plain", &options.seed(1));
    let differ = all.iter().filter(|(name, values)| other[*name] != **values).count();
    assert!(differ > all.len() / 2, "{differ} of {}", all.len());
    // No two tensors have the same random numbers.
    let mut begins: Vec<_> = all
        .values()
        .filter(|v| v.len() > 4 && v[0] != v[1])
        .map(|v| [v[0].to_bits(), v[2].to_bits()])
        .collect();
    let count = begins.len();
    begins.sort_unstable();
    begins.dedup();
    assert_eq!(begins.len(), count);
}

#[test]
fn every_family_gets_a_checkpoint_that_opens_and_runs() {
    let mut count = 0;
    for family in std::fs::read_dir(fixtures()).unwrap().flatten() {
        let Ok(cases) = std::fs::read_dir(family.path()) else { continue };
        let mut cases: Vec<_> = cases.flatten().map(|case| case.path()).collect();
        cases.sort();
        let Some(case) = cases.into_iter().find(|case| case.join("config.json").is_file()) else {
            continue;
        };
        let text = std::fs::read_to_string(case.join("config.json")).unwrap();
        if text.contains("\"quantization") {
            continue;
        }
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let options = InitOptions::new().max_shard_bytes(20_000);
        let Ok(report) = init(&text, &out, &options, &mut |_, _| true) else { continue };
        let opened = Checkpoint::open(&out, CheckOptions { strict: true });
        let opened = opened.unwrap_or_else(|error| panic!("{}: {error}", case.display()));
        let elements: u64 =
            opened.spec.tensors().iter().map(|tensor| tensor.elements() as u64).sum();
        assert_eq!(elements, report.parameters);
        assert!(report.files.len() > 1);
        let model =
            Model::open(&out, &ModelOptions::new().backend(Backend::Cpu).threads(1)).unwrap();
        let mut session = model.session().unwrap();
        let logits = session.feed(&[1, 2, 3]).unwrap();
        assert!(logits.iter().all(|x| x.is_finite()), "{}", case.display());
        assert!(logits.iter().any(|x| *x != logits[0]), "{}", case.display());
        count += 1;
    }
    assert!(count > 25, "{count}");
}

#[test]
fn a_run_that_is_stopped_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let mut calls = 0;
    let stopped = init(&config("mamba/bf16"), &out, &InitOptions::new(), &mut |_, _| {
        calls += 1;
        calls < 3
    });
    assert!(matches!(stopped, Err(Error::Quantize(QuantizeError::Cancelled))), "{stopped:?}");
    assert_eq!((calls, std::fs::read_dir(root.path()).unwrap().count()), (3, 0));
    let mut last = (0, 0);
    init(&config("mamba/bf16"), &out, &InitOptions::new(), &mut |done, total| {
        assert!(done > last.0 && done <= total);
        last = (done, total);
        true
    })
    .unwrap();
    assert_eq!(last.0, last.1);
}
