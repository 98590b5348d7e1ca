use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::plan::op::{InputPart, Op};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// The moments of every input of a fixture over `tokens`.
fn observe(name: &str, tokens: &[u32], chunk: usize) -> (Model, BTreeMap<Site, Moments>) {
    let options = ModelOptions::new().chunk(chunk).threads(2);
    let model = Model::open(fixture(name), &options).unwrap();
    let plan = Arc::new(model.plan().clone());
    let executable = CpuExecutable::new(plan, model.weights(), &options).unwrap();
    let sites = sites::reads(model.plan());
    let all = sites.values().flat_map(|reads| reads.all.into_iter().chain([reads.site]));
    let mut observer = Observer::new(model.plan(), model.weights(), all).unwrap();
    executable.observe(tokens, &mut observer).unwrap();
    (model, observer.into_moments())
}

#[test]
fn the_first_projections_input_is_the_normed_embedding() {
    let tokens: Vec<u32> = (0..23).map(|i| i * 7 % 50).collect();
    let (model, moments) = observe("llama/plain", &tokens, 512);
    let spec = model.spec();
    let width = spec.hidden;
    let before = spec.blocks[0].norm.as_ref().unwrap();
    let norm = model.weights().vector(&before.weight).unwrap();
    let table = model.weights().matrix(&spec.embedding.table).unwrap();
    let mut expected = vec![0.0f64; width * width];
    for &token in &tokens {
        let mut row = vec![0.0; width];
        table.decode_row(token as usize, &mut row).unwrap();
        let square: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let scale = 1.0 / (square / width as f64 + f64::from(before.eps)).sqrt();
        let x: Vec<f64> =
            row.iter().zip(&norm).map(|(x, w)| f64::from(*x) * scale * f64::from(*w)).collect();
        for i in 0..width {
            for j in 0..width {
                expected[i * width + j] += x[i] * x[j];
            }
        }
    }
    let first = moments.iter().next().unwrap();
    assert!(matches!(model.plan().ops[first.0.op], Op::Linear(_)));
    assert_eq!((first.1.tokens, first.1.width), (23, width));
    for (found, expected) in first.1.sum.iter().zip(&expected) {
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= 1e-4 * (1.0 + expected.abs()), "{found} for {expected}");
    }
}

#[test]
fn matrices_that_layers_share_see_the_inputs_of_all() {
    let tokens: Vec<u32> = (0..23).map(|i| i * 7 % 40).collect();
    let (model, moments) = observe("zamba2/adapters", &tokens, 512);
    let seen = |name: &str| {
        let reads = sites::reads(model.plan());
        moments[&reads[&(name.to_string(), 0)].site].tokens
    };
    let shared = "model.layers.0.shared_transformer";
    // The first of two shared blocks is that of the first and of the third hybrid layer.
    assert_eq!(seen(&format!("{shared}.self_attn.q_proj.weight")), 46);
    assert_eq!(seen(&format!("{shared}.feed_forward.down_proj.weight")), 46);
    assert_eq!(seen("model.layers.0.linear.weight"), 23);
}

#[test]
fn every_token_reaches_its_experts_and_steps_do_not_matter() {
    let tokens: Vec<u32> = (0..40).map(|i| i * 11 % 50).collect();
    for name in ["mixtral/bf16", "granitemoehybrid/plain"] {
        let (model, whole) = observe(name, &tokens, 512);
        let (_, pieces) = observe(name, &tokens, 7);
        for (site, moments) in &whole {
            assert_eq!(moments.tokens, pieces[site].tokens, "{name} {site:?}");
            let largest = moments.sum.iter().fold(0f32, |most, x| most.max(x.abs()));
            for (a, b) in moments.sum.iter().zip(&pieces[site].sum) {
                assert!((a - b).abs() <= 1e-4 * largest, "{name} {site:?}: {a} and {b}");
            }
        }
        for (index, op) in model.plan().ops.iter().enumerate() {
            let Op::MoeUp(op) = op else { continue };
            let experts = whole
                .iter()
                .filter(|(site, _)| site.op == index && matches!(site.part, InputPart::Expert(_)));
            let seen: u64 = experts.map(|(_, moments)| moments.tokens).sum();
            assert_eq!(seen, (tokens.len() * op.top_k) as u64, "{name}");
        }
    }
}

#[test]
fn an_expert_that_saw_nothing_reads_what_all_do() {
    let moments = |tokens, sum: [f32; 4]| Moments { width: 2, tokens, sum: sum.to_vec() };
    let all = moments(8, [3.0, 1.0, 1.0, 1.0]);
    let share = |own: Option<&Moments>| {
        let hessian = blend(2, own, Some(&all)).unwrap();
        let importance = hessian.importance();
        importance[0] / importance[1]
    };
    let own = moments(2, [1.0, 0.0, 0.0, 3.0]);
    assert!((share(None) - 3.0).abs() < 1e-5);
    // Two tokens for two inputs: half of each.
    assert!((share(Some(&own)) - 1.0).abs() < 1e-5);
    assert!(share(Some(&moments(1 << 20, [1.0, 0.0, 0.0, 3.0]))) < 0.34);
    assert!(blend(2, None, None).is_ok());
}
