//! The wgpu backend beyond the numbers of its ops: kernels per step, weights larger than a binding,
//! quantized weights, sessions, errors.

use std::sync::Arc;

use half::{bf16, f16};
use kinglet::backend::{BackendRun, Logits, compile};
use kinglet::models::{
    Activation, Block, DeltaInputs, DeltaProjection, Input, LatentQueries, Matrix, Mixer, Norm,
    Residual, Router, Target, TensorSpec,
};
use kinglet::op::{self, BufferId, Op, Output, Prologue, Slice, UpMatrices};
use kinglet::plan::{Buffer, Plan};
use kinglet::testing::DeviceLimits;
use kinglet::{Activations, Backend, Error, Model, ModelOptions, Run, Session};
use kinglet_tests::random::Random;
use kinglet_tests::target::wgpu_targets;
use kinglet_tests::tensors::{Stored, Tensors};
use kinglet_tests::{Case, cases, quantized_cases, relative_l2};

/// See `tests/conformance.rs`.
const BOUND: f64 = 1e-4;

/// The model with exact activations.
fn open(case: &Case, options: &ModelOptions) -> Model {
    Model::open(&case.folder, &options.clone().activations(Activations::F32))
        .unwrap_or_else(|e| panic!("{}: {e}", case.name))
}

/// The options of `target` with a binding limit of `bytes`; without subgroups if the target has
/// none.
fn bounded(options: &ModelOptions, bytes: u64) -> ModelOptions {
    let limits = DeviceLimits { max_binding: Some(bytes), ..options.limits_of_device() };
    options.clone().device_limits(limits)
}

fn named(name: &str) -> Case {
    cases().into_iter().find(|case| case.name == name).unwrap_or_else(|| panic!("no case {name}"))
}

/// A case of each family.
fn families() -> Vec<Case> {
    let mut chosen: Vec<Case> = Vec::new();
    for case in cases() {
        let family = case.name.split_once('/').unwrap().0;
        if chosen.last().is_none_or(|last| !last.name.starts_with(&format!("{family}/"))) {
            chosen.push(case);
        }
    }
    chosen
}

#[test]
fn a_decode_step_launches_no_more_kernels_than_the_design_allows() {
    let Some(target) = wgpu_targets().into_iter().next() else { return };
    for case in families() {
        let model = open(&case, &target.options);
        let mixers: Vec<_> = model.spec().blocks.iter().flat_map(|block| &block.branches).collect();
        let allowed: usize = mixers
            .iter()
            .map(|branch| match &branch.mixer {
                Mixer::Mamba2(_)
                | Mixer::MLstm(_)
                | Mixer::ShortConv(_)
                | Mixer::LinearAttention(_) => 3,
                // Around experts of a narrower stream are two projections, and beside them another network.
                Mixer::Moe(moe) => {
                    let latent = moe.latent.is_some();
                    3 + if latent { 2 + 2 * usize::from(moe.shared.is_some()) } else { 0 }
                }
                // Adapters: one for the narrow side of all, one for each wide side.
                Mixer::Attention(attention) => 4 + 4 * usize::from(attention.adapters.is_some()),
                // One more where queries have low rank.
                Mixer::LatentAttention(latent) => match &latent.q {
                    LatentQueries::Full(_) => 6,
                    LatentQueries::LowRank { .. } => 7,
                },
                // Decay and gate take one more each where their projections have low rank.
                Mixer::GatedDelta(delta) => match &delta.inputs {
                    DeltaInputs::ByKeyHead(_) => 4,
                    DeltaInputs::Separate(all) => {
                        let low =
                            |p: &DeltaProjection| matches!(p, DeltaProjection::LowRank { .. });
                        4 + usize::from(low(&all.decay)) + usize::from(low(&all.gate))
                    }
                },
                Mixer::Dense(dense) => {
                    2 + 2 * usize::from(dense.adapter.is_some()) + usize::from(dense.out.is_some())
                }
                Mixer::Mamba(_) => 6,
            })
            .sum();
        // A stream that is normed itself takes one more, and so does a norm after the branches.
        let norms = |block: &Block| {
            usize::from(matches!(block.residual, Residual::Normed { .. }))
                + usize::from(block.post_norm.is_some())
        };
        // Two streams side by side are two copies, and a stream that must stay as it is takes one.
        let copies = |block: &Block| {
            2 * usize::from(block.input == Input::WithEmbeddings)
                + usize::from(block.target == Target::Aside && block.residual == Residual::Stream)
        };
        let blocks = &model.spec().blocks;
        let kept = blocks.iter().any(|block| block.input == Input::WithEmbeddings);
        let around: usize = blocks.iter().map(|block| norms(block) + copies(block)).sum();
        let allowed = allowed + around + usize::from(kept);
        // The embedding and the head are one dispatch each.
        assert_eq!(model.dispatches(1), allowed + 2, "{}", case.name);
        // In prefill each projection needs a dispatch that prepares its input, and chunked scans
        // take at most five.
        let in_chunks = |mixer: &Mixer| {
            matches!(
                mixer,
                Mixer::Mamba2(_)
                    | Mixer::MLstm(_)
                    | Mixer::GatedDelta(_)
                    | Mixer::LinearAttention(_)
            )
        };
        let scans = mixers.iter().filter(|branch| in_chunks(&branch.mixer)).count();
        assert!(model.dispatches(100) <= 2 * (allowed + 2) + 3 * scans, "{}", case.name);
    }
}

#[test]
fn sessions_that_decode_together_share_the_launches_on_their_tensors() {
    let Some(target) = wgpu_targets().into_iter().next() else { return };
    for case in families() {
        let model = open(&case, &target.options);
        let mixers = model.spec().blocks.iter().flat_map(|block| &block.branches);
        let caches = |m: &Mixer| matches!(m, Mixer::Attention(_) | Mixer::LatentAttention(_));
        let attention = mixers.filter(|branch| caches(&branch.mixer)).count();
        // Attention takes two launches for each session.
        let of_one = model.dispatches(1);
        assert_eq!(model.dispatches_together(&[1; 4]), of_one + 6 * attention, "{}", case.name);
        // From five tokens on, projections are multiplied in tiles.
        let [of_five, of_eight] =
            [&[1; 5][..], &[1; 8]].map(|runs| model.dispatches_together(runs));
        assert_eq!(of_eight, of_five + 6 * attention, "{}", case.name);
    }
}

/// Sessions join and leave steps at random; what is allocated and what they compute is checked.
#[test]
fn sessions_that_step_together_take_little_more_memory_than_they_use() {
    // Mamba-2 has tensors of both kinds. The second binding limit allows few sessions in a buffer.
    for (name, bound) in [("mamba2/plain", None), ("mamba2/plain", Some(5)), ("xlstm/plain", None)]
    {
        let case = named(name);
        for target in wgpu_targets() {
            let whole = open(&case, &target.options);
            let one = whole.session().unwrap().state_bytes();
            let bounded = |sessions| bounded(&target.options, sessions * one as u64);
            let model = bound.map_or(whole, |sessions| open(&case, &bounded(sessions)));
            let mut random = Random::new(7);
            let mut sessions = vec![(model.session().unwrap(), Vec::new())];
            let step = |sessions: &mut [(Session, Vec<u32>)], random: &mut Random| {
                let token = |random: &mut Random| random.between(0, model.vocab() - 1) as u32;
                let fed: Vec<Vec<u32>> = sessions
                    .iter()
                    .map(|_| vec![token(random); 1 + random.between(0, 1)])
                    .collect();
                let mut runs: Vec<Run<'_>> = Vec::new();
                for ((session, held), tokens) in sessions.iter_mut().zip(&fed) {
                    held.extend(tokens);
                    runs.push(Run { session, tokens, logits: Logits::Last });
                }
                model.step(&mut runs).unwrap();
            };
            step(&mut sessions, &mut random);
            assert_eq!(model.tensor_bytes(), one, "{name}: one session");
            sessions.resize_with(8, || (model.session().unwrap(), Vec::new()));
            step(&mut sessions, &mut random);
            assert!(model.tensor_bytes() * 4 <= 8 * one * 5, "{name}: eight sessions");
            for _ in 0..40 {
                match random.between(0, 2) {
                    0 if sessions.len() > 1 => {
                        sessions.swap_remove(random.between(0, sessions.len() - 1));
                    }
                    1 if sessions.len() < 20 => {
                        let new = random.between(0, 3);
                        sessions.extend((0..new).map(|_| (model.session().unwrap(), Vec::new())));
                    }
                    _ => {
                        // Some of them, in another order.
                        let first = random.between(0, sessions.len() - 1);
                        sessions.rotate_left(first);
                        let count = 1 + random.between(0, sessions.len() - 1);
                        step(&mut sessions[..count], &mut random);
                    }
                }
                assert!(sessions.iter().all(|(session, _)| session.state_bytes() == one));
            }
            step(&mut sessions, &mut random);
            let used = sessions.len();
            let most = (used + 1).max(used * 5 / 4);
            // A buffer of one session is kept for the next.
            let held = model.tensor_bytes() / one;
            assert!((used..=most + 1).contains(&held), "{name}: {held} for {used} sessions");
            for (session, held) in &sessions {
                let mut alone = model.session().unwrap();
                let error = relative_l2(session.logits(), alone.feed(held).unwrap());
                assert!(error <= BOUND, "{name} on {}: {error:.2e}", target.name);
            }
        }
    }
}

#[test]
fn weights_larger_than_a_binding_are_split() {
    for name in ["llama/plain", "llama/tied", "mixtral/plain", "mamba2/plain", "xlstm/plain"] {
        let case = named(name);
        for target in wgpu_targets() {
            let whole = open(&case, &target.options);
            let most = whole.weights().tensors().map(|tensor| tensor.bytes).max().unwrap();
            // The smallest limit that states and other buffers allow.
            let mut tried = Vec::new();
            let split = [4, 3, 2].into_iter().find(|parts| {
                match split_logits(
                    &case,
                    &target.options,
                    whole.dispatches(1),
                    most.div_ceil(*parts),
                ) {
                    Ok(logits) => {
                        let error = relative_l2(&logits, &case.logits);
                        assert!(error <= BOUND, "{name} on {}: {error:.2e}", target.name);
                        true
                    }
                    Err(error @ Error::DeviceLimit { .. }) => {
                        tried.push(error.to_string());
                        false
                    }
                    Err(error) => panic!("{name}: {error}"),
                }
            });
            assert!(split.is_some(), "{name} can't be split: {tried:#?}");
        }
    }
}

/// Logits with a binding limit of `bound` bytes, which must give more than `dispatches` dispatches.
fn split_logits(
    case: &Case,
    options: &ModelOptions,
    dispatches: usize,
    bound: u64,
) -> Result<Vec<f32>, Error> {
    let model = Model::open(&case.folder, &bounded(options, bound))?;
    assert!(model.dispatches(1) > dispatches, "{}: nothing was split", case.name);
    let mut session = model.session()?;
    let mut logits = session.feed_all(&case.tokens[..9])?.to_vec();
    for chunk in case.tokens[9..].chunks(33) {
        logits.extend_from_slice(session.feed_all(chunk)?);
    }
    Ok(logits)
}

#[test]
fn sessions_share_steps_and_forks_go_their_own_ways() {
    for case in families() {
        for target in wgpu_targets() {
            let model = open(&case, &target.options);
            let vocab = model.vocab();
            let (first, second) = case.tokens.split_at(case.tokens.len() / 2);
            let alone = |tokens: &[u32]| model.session().unwrap().feed(tokens).unwrap().to_vec();
            let mut a = model.session().unwrap();
            let mut b = model.session().unwrap();
            a.feed(&first[..3]).unwrap();
            let mut runs = [
                Run { session: &mut a, tokens: &first[3..], logits: Logits::Last },
                Run { session: &mut b, tokens: second, logits: Logits::All },
            ];
            model.step(&mut runs).unwrap();
            assert!(relative_l2(a.logits(), &alone(first)) <= BOUND, "{}", case.name);
            let last = &b.logits()[(second.len() - 1) * vocab..];
            assert!(relative_l2(last, &alone(second)) <= BOUND, "{}", case.name);
            // The fork continues like the original would; the original, fed other tokens, doesn't
            // disturb it.
            let mut fork = a.fork().unwrap();
            a.feed(&first[..5]).unwrap();
            fork.feed(second).unwrap();
            let expected = &case.logits[(case.tokens.len() - 1) * vocab..];
            let error = relative_l2(fork.logits(), expected);
            assert!(error <= BOUND, "{} fork: {error:.2e}", case.name);
            a.reset().unwrap();
            assert!(relative_l2(a.feed(first).unwrap(), &alone(first)) <= BOUND, "{}", case.name);
        }
    }
}

#[test]
fn steps_without_logits_and_with_many_of_them() {
    let case = named("llama/plain");
    for target in wgpu_targets() {
        // A limit that allows a few rows of logits at a time.
        let vocab = open(&case, &target.options).vocab() as u64;
        let bound = (4 * vocab * 5).max(20 << 10);
        let model = open(&case, &bounded(&target.options, bound));
        let mut session = model.session().unwrap();
        let (first, second) = case.tokens.split_at(11);
        let mut runs = [Run { session: &mut session, tokens: first, logits: Logits::None }];
        model.step(&mut runs).unwrap();
        assert!(session.logits().is_empty());
        let error = relative_l2(
            session.feed_all(second).unwrap(),
            &case.logits[first.len() * vocab as usize..],
        );
        assert!(error <= BOUND, "{error:.2e}");
    }
}

#[test]
fn missing_or_too_large_resources_are_named_errors() {
    let case = named("llama/plain");
    let options = ModelOptions::new().backend(Backend::Wgpu).adapter(99);
    let error = Model::open(&case.folder, &options).map(drop).unwrap_err();
    let Error::NoAdapter { wanted, .. } = &error else { panic!("{error}") };
    assert!(wanted.contains("99"), "{wanted}");
    for target in wgpu_targets() {
        let options = bounded(&target.options, 64);
        let error = Model::open(&case.folder, &options).map(drop).unwrap_err();
        assert!(matches!(error, Error::DeviceLimit { limit: 64, .. }), "{error}");
        let options = target.options.clone().chunk(0);
        let error = Model::open(&case.folder, &options).map(drop).unwrap_err();
        assert!(matches!(error, Error::Option { name: "chunk", .. }), "{error}");
        // Two models on one device: a session of one does not belong to the other.
        let (one, other) = (open(&case, &target.options), open(&case, &target.options));
        let mut session = one.session().unwrap();
        let mut runs = [Run { session: &mut session, tokens: &[1], logits: Logits::Last }];
        assert!(matches!(other.step(&mut runs), Err(Error::ForeignSession)));
        // None of these errors has affected the device.
        assert!(session.feed(&case.tokens).is_ok());
    }
}

#[test]
fn a_lost_device_is_an_error_and_the_model_can_be_opened_again() {
    let case = named("mamba2/plain");
    for target in wgpu_targets() {
        // A different limit makes it a different device from that of the other tests.
        let lost = open(&case, &bounded(&target.options, 1 << 26));
        let other = open(&case, &target.options);
        let expected = |logits: &[f32]| {
            let error = relative_l2(logits, &case.logits);
            assert!(error <= BOUND, "{}: {error:.2e}", target.name);
        };
        let mut session = lost.session().unwrap();
        let mut beside = other.session().unwrap();
        expected(session.feed_all(&case.tokens).unwrap());
        // Copies on the host survive the loss of the device.
        let mut kept = Vec::new();
        session.snapshot().unwrap().write_to(&mut kept).unwrap();
        let sessions = [session.fork().unwrap(), session];
        lost.lose_device();
        for (mut session, wanted) in sessions.into_iter().zip([Logits::None, Logits::Last]) {
            let mut runs = [Run { session: &mut session, tokens: &[1], logits: wanted }];
            let error = lost.step(&mut runs).unwrap_err();
            assert!(matches!(error, Error::DeviceLost { .. }), "{wanted:?}: {error}");
            assert!(matches!(session.feed(&[1]), Err(Error::PoisonedSession)));
        }
        assert!(matches!(lost.session(), Err(Error::DeviceLost { .. })));
        // Models on other devices continue, and a new device can be opened.
        expected(beside.feed_all(&case.tokens).unwrap());
        let again = open(&case, &bounded(&target.options, 1 << 26));
        expected(again.session().unwrap().feed_all(&case.tokens).unwrap());
        // The session continues from its last snapshot, on a new device and on the CPU.
        let next = [&case.tokens[..], &[1]].concat();
        let processor = open(&case, &ModelOptions::new().backend(Backend::Cpu));
        let mut whole = processor.session().unwrap();
        let whole = whole.feed(&next).unwrap();
        for model in [&again, &processor] {
            let mut session = model.read_session(std::io::Cursor::new(&kept)).unwrap().session;
            assert_eq!(session.tokens(), case.tokens);
            let error = relative_l2(session.feed(&[1]).unwrap(), whole);
            assert!(error <= BOUND, "{}: {error:.2e}", target.name);
        }
    }
}

#[test]
fn every_family_and_format_passes_the_self_test() {
    for target in wgpu_targets() {
        for case in families().into_iter().chain(quantized_cases()) {
            for activations in [Activations::Auto, Activations::F32] {
                let options = target.options.clone().self_test(true).activations(activations);
                let model = Model::open(&case.folder, &options)
                    .unwrap_or_else(|e| panic!("{}: {e}", case.name));
                let line = model.describe();
                assert!(!line.contains("replaced"), "{}: {line}", case.name);
            }
        }
    }
}

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
