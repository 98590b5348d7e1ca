//! Logits of every quantized format, as those of the processor.

use std::sync::Arc;

use half::{bf16, f16};
use kinglet::backend::{BackendRun, Logits, compile};
use kinglet::models::{Activation, Matrix, Norm, Router, TensorSpec};
use kinglet::op::{self, BufferId, Op, Output, Prologue, Slice, UpMatrices};
use kinglet::plan::{Buffer, Plan};
use kinglet::{Activations, Backend, ModelOptions};
use kinglet_tests::random::Random;
use kinglet_tests::relative_l2;
use kinglet_tests::target::wgpu_targets;
use kinglet_tests::tensors::{Stored, Tensors};

/// A quantized format in a checkpoint's terms: bits per code, weights per group, and the type of
/// affine scales or the kind of other scales.
#[derive(Clone, Copy, Debug)]
struct Format {
    bits: usize,
    group: usize,
    scales: &'static str,
}

/// All bits, group sizes and scale types.
fn formats() -> Vec<Format> {
    let mut formats = Vec::new();
    for (turn, bits) in [2, 3, 4, 5, 6, 8].into_iter().enumerate() {
        for (place, group) in [32, 64, 128].into_iter().enumerate() {
            let scales = ["F16", "BF16", "F32"][(turn + place) % 3];
            formats.push(Format { bits, group, scales });
        }
    }
    formats.push(Format { bits: 4, group: 32, scales: "E8M0" });
    formats.push(Format { bits: 8, group: 32, scales: "E8M0" });
    formats.push(Format { bits: 4, group: 16, scales: "E4M3" });
    formats
}

/// Tensors of a random matrix stack `[leading.., rows, cols]` in `format`.
fn push(
    tensors: &mut Tensors,
    random: &mut Random,
    name: &str,
    shape: &[usize],
    format: Format,
) -> TensorSpec {
    let (cols, leading) = shape.split_last().unwrap();
    let rows: usize = leading.iter().product();
    let (words, groups) = (cols * format.bits / 32, cols / format.group);
    let with = |last: usize| [leading, &[last]].concat();
    let codes: Vec<u8> = (0..rows * words)
        .flat_map(|_| {
            let mut word = (random.bits() as u32).to_le_bytes();
            if format.scales == "E8M0" && format.bits == 8 {
                // E4M3 has two NaNs, which no checkpoint holds.
                word.iter_mut().for_each(|code| *code -= u8::from(*code & 127 == 127));
            }
            word
        })
        .collect();
    tensors.push_bytes(&format!("{name}.weight"), &with(words), "U32", &codes);
    // Weights of a size that preserves the magnitude of their input.
    let size = (*cols as f64).powf(-0.5);
    let largest = (1 << format.bits) as f64;
    let mut floats = |mean: f64, spread: f64| -> Vec<u8> {
        let count = rows * groups;
        let mut draw = |_| mean + spread * random.uniform(-1.0, 1.0);
        let values: Vec<f64> = (0..count).map(&mut draw).collect();
        match format.scales {
            "F16" => values.iter().flat_map(|&x| f16::from_f64(x).to_le_bytes()).collect(),
            "BF16" => values.iter().flat_map(|&x| bf16::from_f64(x).to_le_bytes()).collect(),
            "F32" => values.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect(),
            // Exponents around 2^-6; E4M3 from subnormal to about 1, of either sign.
            "E8M0" => values.iter().map(|&x| (120.0 + 2.0 * x / size) as u8).collect(),
            _ => (0..count).map(|i| ((i * 37) % 48 + 128 * (i % 2)) as u8).collect(),
        }
    };
    let affine = !format.scales.starts_with('E');
    let step = 2.0 * size / largest;
    let (mean, spread) = if affine { (step, 0.5 * step) } else { (0.0, size) };
    let scales = floats(mean, spread);
    let dtype = if affine { format.scales } else { "U8" };
    tensors.push_bytes(&format!("{name}.scales"), &with(groups), dtype, &scales);
    if affine {
        let biases = floats(-size, 0.1 * size);
        tensors.push_bytes(&format!("{name}.biases"), &with(groups), dtype, &biases);
    }
    TensorSpec::new(format!("{name}.weight"), shape)
}

/// A plan with an op of each kind that multiplies with weights, all of them in `format`, except for
/// a shared expert that does not fit it. Rows are `extra` longer than a multiple of 128.
fn quantized(format: Format, extra: usize, random: &mut Random) -> (Plan, Tensors) {
    let (hidden, inner, experts, top_k, vocab) = (384 + extra, 1152 + extra, 3, 2, 37);
    let own = 128 + extra;
    let mut tensors = Tensors::default();
    let mut matrix = |random: &mut Random, name: &str, rows: usize, cols: usize, format| {
        let tensor = push(&mut tensors, random, name, &[rows, cols], format);
        Matrix { tensor, row_offset: 0, rows, cols }
    };
    let table = matrix(random, "table", vocab, hidden, format);
    let parts = [("a", 50), ("b", hidden - 50)].map(|(name, rows)| {
        let linear: kinglet::models::Linear = matrix(random, name, rows, hidden, format).into();
        linear
    });
    let gate = matrix(random, "gate", inner, hidden, format);
    let up = matrix(random, "up", inner, hidden, format);
    let down = matrix(random, "down", hidden, inner, format);
    let other = if extra == 0 { Format { bits: 8, group: 64, scales: "F16" } } else { format };
    let shared_gate = matrix(random, "shared_gate", 64, hidden, other);
    let shared_up = matrix(random, "shared_up", 64, hidden, other);
    let shared_down = matrix(random, "shared_down", hidden, 64, other);
    let head = matrix(random, "head", vocab, hidden, format);
    // Experts are stacks; each expert is a range of rows.
    let up_stack = push(&mut tensors, random, "ups", &[experts, 2 * own, hidden], format);
    let down_stack = push(&mut tensors, random, "downs", &[experts, hidden, own], format);
    let stacked = |tensor: &TensorSpec, row_offset: usize, rows: usize, cols: usize| Matrix {
        tensor: tensor.clone(),
        row_offset,
        rows,
        cols,
    };
    tensors.push("norm", &[hidden], Stored::F32, &vec![1.0; hidden]);
    let router: Vec<f64> = (0..experts * hidden).map(|_| 0.05 * random.normal()).collect();
    tensors.push("router", &[experts, hidden], Stored::F32, &router);
    let gate_of_shared: Vec<f64> = (0..hidden).map(|_| 0.05 * random.normal()).collect();
    tensors.push("gate_of_shared", &[1, hidden], Stored::F32, &gate_of_shared);
    let norm = Norm { weight: TensorSpec::new("norm", [hidden]), ..Norm::new("", hidden, 1e-5) };
    let buffer = |name, width, slot| Buffer { name, width, slot };
    let [x, mixed, gated, routes, chosen] = [0, 1, 2, 3, 4].map(BufferId);
    let whole = |buffer: BufferId, width: usize| Slice { buffer, offset: 0, width };
    let add = Output::Add { scale: 0.5 };
    let activation = Activation::Silu;
    let ops = vec![
        Op::Embed(op::Embed { table: Some(table), scale: 1.0, output: x }),
        Op::Linear(op::Linear {
            input: whole(x, hidden),
            prologue: Prologue::Norm(norm.clone()),
            parts: parts.to_vec(),
            output: whole(mixed, hidden),
            mode: Output::Store,
        }),
        Op::GatedLinear(op::GatedLinear {
            input: mixed,
            norm: Some(norm.clone()),
            gate: gate.into(),
            up: up.into(),
            added: None,
            activation,
            output: gated,
        }),
        Op::Linear(op::Linear {
            input: whole(gated, inner),
            // A gate for each eight elements.
            prologue: Prologue::SigmoidGate { gate: whole(mixed, inner / 8) },
            parts: vec![down.into()],
            output: whole(x, hidden),
            mode: add,
        }),
        Op::MoeRoute(op::MoeRoute {
            input: x,
            norm: Some(norm.clone()),
            router: Router::softmax(Matrix::whole("router", experts, hidden).into(), top_k, true),
            shared_gate: Some(Matrix::whole("gate_of_shared", 1, hidden).into()),
            output: routes,
        }),
        Op::MoeUp(op::MoeUp {
            own_inputs: false,
            input: x,
            norm: Some(norm.clone()),
            routes,
            top_k,
            experts: (0..experts)
                .map(|e| {
                    let part = |first| stacked(&up_stack, 2 * e * own + first, own, hidden);
                    UpMatrices { gate: Some(part(0)), up: part(own) }
                })
                .collect(),
            shared: Some(UpMatrices { gate: Some(shared_gate), up: shared_up }),
            activation,
            output: chosen,
        }),
        Op::MoeDown(op::MoeDown {
            input: chosen,
            routes,
            top_k,
            experts: (0..experts).map(|e| stacked(&down_stack, e * hidden, hidden, own)).collect(),
            shared: Some(shared_down),
            shared_gated: true,
            scale: 0.7,
            store: false,
            output: x,
        }),
        Op::Head(op::Head {
            input: x,
            norm: Some(norm),
            linear: head.into(),
            scale: 1.0,
            soft_cap: None,
        }),
    ];
    let widths = [hidden, hidden, inner, 2 * top_k + 1, top_k * own + 64];
    let names = ["x", "mixed", "gated", "routes", "chosen"];
    let buffers = (0..5).map(|i| buffer(names[i], widths[i], i)).collect();
    let plan = Plan { hidden, vocab, ops, buffers, slots: widths.to_vec(), states: Vec::new() };
    (plan, tensors)
}

#[test]
fn every_quantized_format_gives_the_processors_logits() {
    let targets = wgpu_targets();
    // Rows with groups of 16 may end within the 32 elements that are rounded together.
    let nvfp4 = *formats().last().unwrap();
    let rows = formats().into_iter().map(|format| (format, 0)).chain([(nvfp4, 16); 2]);
    for (turn, (format, extra)) in rows.enumerate() {
        let mut random = Random::named(&format!("{format:?}"));
        let (plan, tensors) = quantized(format, extra, &mut random);
        let (plan, weights) = (Arc::new(plan), tensors.weights());
        let tokens: Vec<u32> = (0..41).map(|_| random.between(0, plan.vocab - 1) as u32).collect();
        let logits = |options: &ModelOptions, cuts: &[usize]| {
            let executable = compile(plan.clone(), &weights, options)
                .unwrap_or_else(|e| panic!("{format:?}: {e}"));
            let mut state = executable.new_state().unwrap();
            let (mut all, mut done) = (Vec::new(), 0);
            for &cut in cuts {
                let run = BackendRun {
                    tokens: &tokens[done..done + cut],
                    vectors: None,
                    state: &mut *state,
                    wanted: Logits::All,
                    logits: &mut all,
                    stream: None,
                };
                pollster::block_on(executable.step(vec![run])).unwrap();
                done += cut;
            }
            assert_eq!(done, tokens.len());
            all
        };
        let exact = ModelOptions::new().backend(Backend::Cpu).activations(Activations::F32);
        let expected = logits(&exact.threads(1), &[41]);
        // Each format in both forms, and each reduction with some of the formats.
        let Some(target) = targets.get(turn % targets.len().max(1)) else { return };
        let exact = target.options.clone().activations(Activations::F32);
        for (options, cuts, bound) in [
            // With tiles, some of them small.
            (&exact, &[41][..], 3e-5),
            (&exact, &[1, 3, 19, 18], 3e-5),
            // 8-bit activations for few tokens, and f16 with small tiles.
            (&target.options, &[1, 3, 4, 11, 22], 0.04),
            // f16 with tiles.
            (&target.options, &[41], 0.01),
        ] {
            // Rounding may send a token to another expert, whose logits then differ: nine out of
            // ten must be close.
            let logits = logits(options, cuts);
            let pairs = logits.chunks(plan.vocab).zip(expected.chunks(plan.vocab));
            let mut errors: Vec<f64> = pairs.map(|(a, b)| relative_l2(a, b)).collect();
            errors.sort_by(f64::total_cmp);
            let most = if bound > 1e-3 { errors.len() * 9 / 10 } else { errors.len() - 1 };
            let error = errors[most];
            assert!(error <= bound, "{format:?} on {} by {cuts:?}: {error:.2e}", target.name);
        }
    }
}
