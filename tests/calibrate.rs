//! Calibration comes closer to the model than a search without it, also on other text, and uses no
//! more memory than allowed.

use std::path::{Path, PathBuf};

use kinglet::calibrate::{Calibration, CalibrationOptions};
use kinglet::eval::{EvalOptions, TextTokens, evaluate};
use kinglet::quantize::{Format, Job, JobOptions, Method, Search, WriteOptions};
use kinglet::sampling::{Sampler, SamplingOptions};
use kinglet::{Activations, Model, ModelOptions};
use kinglet_tests::fixtures;
use safetensors::SafeTensors;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/xlstm")
}

/// `text` interleaved with the model's continuation after every 32 tokens of it.
fn spoken(model: &Model, text: &[u32]) -> Vec<u32> {
    let mut sampler =
        Sampler::new(SamplingOptions { temperature: 0.8, ..Default::default() }, 7).unwrap();
    let mut all = text.to_vec();
    for begin in text.chunks(32) {
        let mut session = model.session().unwrap();
        session.feed(begin).unwrap();
        all.extend(begin);
        for _ in 0..96 {
            let next = sampler.sample(session.last_logits().unwrap()).unwrap();
            sampler.accept(next);
            all.push(next);
            session.feed(&[next]).unwrap();
        }
    }
    all
}

/// Text written for the tests.
fn held_out() -> TextTokens {
    let bytes = std::fs::read(fixtures().join("demo/xlstm.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids = file.tensor("text_tokens").unwrap().data().as_chunks::<8>().0.iter();
    TextTokens { tokens: ids.map(|id| i64::from_le_bytes(*id) as u32).collect(), begin: None }
}

#[test]
fn feedback_lessens_the_divergence_and_more_passes_change_nothing() {
    let model = Model::open(demo(), &ModelOptions::new().threads(2)).unwrap();
    let job = Job::open(&demo(), &JobOptions::new(Format::affine(3, 64).unwrap())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, method: &dyn Method| {
        let out = folder.path().join(name);
        job.write(&out, method, &WriteOptions::new(), &mut |_, _| true).unwrap();
        out
    };
    // The model's own continuations of text similar to the held-out text.
    let mut held_out = held_out();
    let half = held_out.tokens.len() / 2;
    let text = TextTokens { tokens: spoken(&model, &held_out.tokens[..half]), begin: None };
    held_out.tokens.drain(..half);
    let calibrated = |name: &str, memory| {
        let options = CalibrationOptions { context: 256, memory, ..Default::default() };
        let progress = Box::new(|_, _| true);
        let method = Calibration::new(&model, &job, &text, options, progress).unwrap();
        method.gather().unwrap();
        (write(name, &method), method.passes())
    };
    let (at_once, passes) = calibrated("at once", 1 << 30);
    assert_eq!(passes, 1);
    let (in_parts, passes) = calibrated("in parts", 1 << 20);
    assert!(passes > 2, "{passes}");
    let bytes = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(bytes(&at_once) == bytes(&in_parts), "the order of the passes shows");

    let searched = write("searched", &Search);
    let options = EvalOptions { context: held_out.tokens.len().min(256), ..Default::default() };
    let divergence = |folder: &Path| {
        let quantized =
            Model::open(folder, &ModelOptions::new().threads(2).activations(Activations::F32))
                .unwrap();
        let result = evaluate(&quantized, Some(&model), &held_out, &options, &mut |_, _| true);
        result.unwrap().comparison.unwrap().divergence.mean
    };
    let (searched, calibrated) = (divergence(&searched), divergence(&at_once));
    assert!(calibrated < 0.8 * searched, "{searched} became {calibrated}");
}

#[test]
fn a_text_that_is_too_short_and_a_stop_are_told() {
    let model = Model::open(demo(), &ModelOptions::new().threads(2)).unwrap();
    let job = Job::open(&demo(), &JobOptions::new(Format::affine(4, 64).unwrap())).unwrap();
    let text = TextTokens { tokens: vec![5; 600], begin: None };
    let make = |options, go| {
        let progress = Box::new(move |_, _| go);
        Calibration::new(&model, &job, &text, options, progress)
    };
    let short = CalibrationOptions { tokens: 500, ..Default::default() };
    let error = make(short, true).err().unwrap().to_string();
    assert!(error.contains("500 tokens") && error.contains("512"), "{error}");
    let stopped = make(CalibrationOptions::default(), false).unwrap().gather().unwrap_err();
    assert_eq!(stopped.to_string(), "cancelled");
}
