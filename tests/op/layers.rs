//! Layers that no fixture has yet, as whole models: the lowering to ops, the states between steps, and every backend against the reference
//! of the plan.

use kinglet::models::{
    Block, CellGating, Embedding, ForgetGate, Head, HybridAttention, Input, KernelAttention, MLstm,
    MLstmSizes, Matrix, Mixer, ModelSpec, MultiLevelAttention, Norm, Residual, Rope, SLstm, Target,
    TensorSpec, Tiers,
};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Bench;
use kinglet_tests::tensors::{Stored, Tensors};

const HIDDEN: usize = 24;
const VOCAB: usize = 37;

/// A model of these layers, one in each block.
fn model(mixers: Vec<Mixer>) -> ModelSpec {
    let blocks = mixers.into_iter().enumerate().map(|(layer, mixer)| Block {
        layer,
        input: Input::Stream,
        norm: Some(Norm::new(&format!("{layer}.norm"), HIDDEN, 1e-5)),
        branches: vec![mixer.into()],
        post_norm: None,
        stream_norm: None,
        residual: Residual::Stream,
        residual_scale: 1.0,
        target: Target::Stream,
    });
    let table = Matrix::whole("embed.weight", VOCAB, HIDDEN);
    ModelSpec {
        model_type: "made".into(),
        hidden: HIDDEN,
        vocab: VOCAB,
        max_positions: None,
        blocks: blocks.collect(),
        head: Head {
            norm: Norm::new("norm", HIDDEN, 1e-5),
            linear: table.clone().into(),
            scale: 1.0,
            soft_cap: None,
            untied: None,
        },
        embedding: Embedding { table, scale: 1.0, positions: None },
        ignored: Vec::new(),
    }
}

/// How its elements are drawn, by what a tensor is.
fn draw(tensor: &TensorSpec, random: &mut Random) -> f64 {
    let (name, normal) = (&tensor.name, random.normal());
    if name.ends_with(".bias") {
        0.3 * normal
    } else if name.contains("norm") {
        1.0 + 0.3 * normal
    } else if name.contains("embed") {
        normal
    } else {
        let inputs = tensor.shape.last().copied().unwrap_or(1);
        normal / (inputs as f64).sqrt()
    }
}

fn check(name: &str, mixers: Vec<Mixer>, stored: Stored, lengths: &[usize], bound: f64) {
    let spec = model(mixers);
    let (mut tensors, mut random) = (Tensors::default(), Random::named(name));
    for tensor in spec.tensors() {
        let elements: usize = tensor.shape.iter().product();
        let values: Vec<f64> =
            (0..elements).map(|_| stored.round(draw(tensor, &mut random))).collect();
        tensors.push(&tensor.name, &tensor.shape, stored, &values);
    }
    Bench::of_model(name, &spec, tensors.weights(), lengths, bound).check();
}

fn slstm(prefix: &str, sizes: [usize; 2], gating: CellGating, mixes: bool) -> Mixer {
    Mixer::SLstm(SLstm::new(prefix, HIDDEN, sizes, gating, mixes, 1e-5))
}

fn mlstm(prefix: &str, conv_kernel: usize, forget: ForgetGate, normed: bool) -> Mixer {
    let sizes =
        MLstmSizes { hidden: HIDDEN, heads: 3, qk_head_dim: 10, v_head_dim: 16, conv_kernel };
    Mixer::MLstm(MLstm::with_inner(prefix, sizes, forget, normed, 1e-5))
}

fn attention(prefix: &str, sizes: [usize; 3], bias: bool, prepared: bool) -> Mixer {
    let rope = Rope::exact(1e4, sizes[2]);
    let (norm, rope) = (prepared.then_some(1e-5), prepared.then_some(rope));
    Mixer::KernelAttention(KernelAttention::new(prefix, HIDDEN, sizes, bias, norm, rope))
}

const LENGTHS: [&[usize]; 4] = [&[20], &[100], &[70, 3, 9], &[2, 1, 4]];

#[test]
fn slstm_layers() {
    let exponential = CellGating::Exponential;
    let mixers = || {
        vec![
            slstm("0", [3, 8], exponential(ForgetGate::Sigmoid), true),
            slstm("1", [2, 24], exponential(ForgetGate::Exponential), true),
            slstm("2", [1, 20], CellGating::Sigmoid, true),
            slstm("3", [4, 5], exponential(ForgetGate::Sigmoid), false),
        ]
    };
    for (lengths, stored) in LENGTHS.into_iter().zip(Stored::ALL.into_iter().cycle()) {
        check("slstm layers", mixers(), stored, lengths, 5.0);
    }
}

#[test]
fn kernel_attention_layers() {
    let mixers = || {
        vec![
            attention("0", [4, 2, 6], true, true),
            attention("1", [3, 3, 10], false, false),
            attention("2", [4, 1, 8], false, true),
        ]
    };
    for (lengths, stored) in LENGTHS.into_iter().zip(Stored::ALL.into_iter().cycle()) {
        check("kernel attention layers", mixers(), stored, lengths, 5.0);
    }
}

#[test]
fn mlstm_layers_with_a_width_of_their_own() {
    let mixers = || {
        vec![
            mlstm("0", 4, ForgetGate::Sigmoid, true),
            mlstm("1", 0, ForgetGate::Exponential, true),
            mlstm("2", 2, ForgetGate::Exponential, true),
        ]
    };
    for (lengths, stored) in LENGTHS.into_iter().zip(Stored::ALL.into_iter().cycle()) {
        check("mlstm layers", mixers(), stored, lengths, 5.0);
    }
}

#[test]
fn hybrid_attention_layers() {
    let tiers = Tiers {
        window: 6,
        full_until: 10,
        dilated_until: 30,
        linear_until: 45,
        levels: 2,
        global_first: 2,
        global_top: 3,
        hierarchy_block: 4,
        hierarchy_levels: 2,
        hierarchy_width: 2,
    };
    let hybrid = |prefix, sizes: [usize; 3], prepared: bool, tiers| {
        let rope = prepared.then(|| Rope::exact(1e4, sizes[2]));
        let norm = prepared.then_some(1e-5);
        Mixer::HybridAttention(HybridAttention::new(
            prefix, HIDDEN, sizes, prepared, norm, rope, prepared, tiers,
        ))
    };
    let early = Tiers { window: 3, full_until: 3, dilated_until: 3, linear_until: 3, ..tiers };
    let mixers = || {
        vec![
            hybrid("0", [4, 2, 6], true, tiers),
            hybrid("1", [3, 3, 10], false, tiers),
            hybrid("2", [4, 1, 8], true, early),
        ]
    };
    for (lengths, stored) in LENGTHS.into_iter().zip(Stored::ALL.into_iter().cycle()) {
        check("hybrid attention layers", mixers(), stored, lengths, 5.0);
    }
}

#[test]
fn multi_level_attention_layers() {
    let levels = |prefix, sizes: [usize; 3], prepared: bool, windows| {
        let rope = prepared.then(|| Rope::exact(1e4, sizes[2]));
        let norm = prepared.then_some(1e-5);
        Mixer::MultiLevelAttention(MultiLevelAttention::new(
            prefix, HIDDEN, sizes, prepared, norm, rope, windows,
        ))
    };
    let mixers = || {
        vec![
            levels("0", [4, 2, 6], true, vec![None; 3]),
            levels("1", [3, 3, 10], false, vec![Some(9), Some(20)]),
            levels("2", [4, 1, 8], true, vec![Some(5), None, None, Some(64)]),
        ]
    };
    for (lengths, stored) in LENGTHS.into_iter().zip(Stored::ALL.into_iter().cycle()) {
        check("multi-level attention layers", mixers(), stored, lengths, 5.0);
    }
}
