//! Evaluation against a plain computation from logits, the reference implementation's and the
//! engine's own.

use std::path::{Path, PathBuf};

use kinglet::eval::{EvalError, EvalOptions, TextTokens, evaluate};
use kinglet::text::Tokenizer;
use kinglet::{Model, ModelOptions};
use kinglet_tests::fixtures;
use safetensors::SafeTensors;

fn demo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo").join(name)
}

fn open(name: &str) -> Model {
    Model::open(demo(name), &ModelOptions::new().backend(kinglet::Backend::Cpu)).unwrap()
}

/// `ln p` of every token.
fn log_softmax(row: &[f32]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = row.iter().map(|x| f64::from(x - largest).exp()).sum();
    row.iter().map(|x| f64::from(x - largest) - total.ln()).collect()
}

#[test]
fn perplexity_is_that_of_the_reference_implementations_logits() {
    for name in ["hybrid", "xlstm"] {
        // The prompt, and the logits after its last eight tokens.
        let bytes = std::fs::read(fixtures().join(format!("demo/{name}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let bytes = |tensor| file.tensor(tensor).unwrap().data();
        let ids = bytes("tokens").as_chunks::<8>().0.iter();
        let tokens: Vec<u32> = ids.map(|id| i64::from_le_bytes(*id) as u32).collect();
        let logits = bytes("logits").as_chunks::<4>().0.iter();
        let logits: Vec<f32> = logits.map(|x| f32::from_le_bytes(*x)).collect();
        let model = open(name);
        let rows = logits.chunks(model.vocab()).zip(&tokens[tokens.len() - 7..]);
        let expected = rows.map(|(row, &next)| -log_softmax(row)[next as usize]).sum::<f64>() / 7.0;
        // A stride of seven counts the last seven predictions of the one window.
        let options =
            EvalOptions { context: tokens.len(), stride: Some(7), limit: Some(tokens.len()) };
        let text = TextTokens { tokens, begin: None };
        let result = evaluate(&model, None, &text, &options, &mut |_, _| true).unwrap();
        assert_eq!((result.predictions, result.windows), (7, 1));
        assert!((result.nll - expected).abs() < 1e-4, "{name}: {} for {expected}", result.nll);
    }
}

#[test]
fn divergence_is_that_of_the_two_models_logits() {
    let (model, reference) = (open("xlstm"), open("hybrid"));
    let tokenizer = Tokenizer::from_folder(model.folder()).unwrap();
    let story = "Once upon a time, there was a little dog named Spot. Spot loved to play in the sand. One day he found a boat.";
    let mut text = TextTokens::new(&tokenizer, story).unwrap();
    // A begin token replaces the first token of a window.
    text.begin = Some(4);
    let (context, stride) = (16, 5);
    let (mut divergences, mut differences, mut same) = (Vec::new(), Vec::new(), 0);
    let mut start = 0;
    while start + context <= text.tokens.len() {
        let mut window = text.tokens[start..start + context].to_vec();
        window[0] = 4;
        let rows = |model: &Model| {
            let mut session = model.session().unwrap();
            let all = session.feed_all(&window).unwrap();
            all.chunks(model.vocab()).map(log_softmax).collect::<Vec<_>>()
        };
        let (model, reference) = (rows(&model), rows(&reference));
        for at in context - 1 - 5..context - 1 {
            let (m, r) = (&model[at], &reference[at]);
            divergences.push(r.iter().zip(m).map(|(r, m)| r.exp() * (r - m)).sum::<f64>());
            let next = window[at + 1] as usize;
            differences.push(m[next] - r[next]);
            let top = |row: &[f64]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
            same += usize::from(top(m) == top(r));
        }
        start += stride;
    }
    let count = divergences.len();
    assert!(count >= 10, "{count}");
    let options = EvalOptions { context, stride: Some(stride), limit: None };
    let mut seen = (0, 0);
    let result = evaluate(&model, Some(&reference), &text, &options, &mut |done, total| {
        seen = (done, total);
        true
    });
    let result = result.unwrap();
    let found = result.comparison.unwrap();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / count as f64;
    assert_eq!(result.predictions, count);
    assert_eq!(seen.0, seen.1);
    // The engine splits windows differently here, so its logits differ in their last bits.
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-4 * b.abs();
    assert!(near(found.divergence.mean, mean(&divergences)), "{found:?}");
    assert!(near(found.divergence.max, divergences.iter().copied().fold(0.0, f64::max)));
    assert!(near(found.log_prob_difference, mean(&differences)));
    assert!((found.same_top - same as f64 / count as f64).abs() < 1e-12);
    // A model has no divergence from itself.
    let result = evaluate(&model, Some(&model), &text, &options, &mut |_, _| true).unwrap();
    let found = result.comparison.unwrap();
    assert_eq!((found.divergence.max, found.same_top), (0.0, 1.0));
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let model = open("xlstm");
    let text = TextTokens { tokens: vec![5; 20], begin: None };
    let options = EvalOptions { context: 16, ..EvalOptions::default() };
    let tiny = Model::open(
        fixtures().join("xlstm/plain"),
        &ModelOptions::new().backend(kinglet::Backend::Cpu),
    )
    .unwrap();
    let run = |reference, progress: bool| {
        evaluate(&model, reference, &text, &options, &mut |_, _| progress).unwrap_err()
    };
    let error = run(Some(&tiny), true);
    assert!(matches!(error, EvalError::Vocabulary { model: 8192, .. }), "{error}");
    assert!(matches!(run(None, false), EvalError::Cancelled));
    let tokenizer = Tokenizer::from_folder(model.folder()).unwrap();
    assert!(matches!(TextTokens::new(&tokenizer, ""), Err(EvalError::EmptyText)));
}
