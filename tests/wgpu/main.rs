//! The wgpu backend beyond the numbers of its ops: kernels per step, weights larger than a binding,
//! quantized weights, sessions, errors.

use kinglet::backend::Logits;
use kinglet::models::{
    Block, DeltaInputs, DeltaProjection, Input, LatentQueries, Mixer, Residual, Target,
};
use kinglet::testing::DeviceLimits;
use kinglet::{Activations, Backend, Error, Model, ModelOptions, Run, Session};
use kinglet_tests::random::Random;
use kinglet_tests::target::wgpu_targets;
use kinglet_tests::{Case, cases, quantized_cases, relative_l2};

mod formats;

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
                Mixer::Mamba2(_) | Mixer::ShortConv(_) | Mixer::LinearAttention(_) => 3,
                // A width of its own takes three more: the projection to it, norms of queries and keys, and two gates after the scan; its
                // convolution two, with the values' projection.
                Mixer::MLstm(mlstm) => match &mlstm.inner {
                    None => 3,
                    Some(inner) => 6 + 2 * usize::from(inner.conv.is_some()),
                },
                // One more where queries and keys are normed or rotated.
                Mixer::KernelAttention(attention) => {
                    let prepared = attention.qk_norm.is_some() || attention.rope.is_some();
                    3 + usize::from(prepared)
                }
                Mixer::SLstm(_) => 4,
                // Around experts of a narrower stream are two projections, their inputs may be normed; beside them, or if it has biases,
                // the shared one is a network.
                Mixer::Moe(moe) => {
                    let (latent, normed) = (moe.latent.is_some(), moe.expert_norm.is_some());
                    let shared = moe.shared.as_ref();
                    let beside = shared.is_some_and(|it| latent || normed || it.is_biased());
                    3 + 2 * usize::from(latent) + usize::from(normed) + 2 * usize::from(beside)
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
                // Two of the launches are for chosen keys and for the hierarchy.
                Mixer::HybridAttention(hybrid) => {
                    let prepared = hybrid.qk_norm.is_some() || hybrid.rope.is_some();
                    let tiers = &hybrid.tiers;
                    let hierarchy = tiers.hierarchy_levels.min(tiers.hierarchy_width) > 0;
                    let steps = usize::from(tiers.global_top > 0) + usize::from(hierarchy);
                    6 + usize::from(prepared) + steps
                }
                Mixer::MultiLevelAttention(attention) => {
                    let prepared = attention.qk_norm.is_some() || attention.rope.is_some();
                    4 + usize::from(prepared)
                }
                Mixer::Dense(dense) => {
                    2 + 2 * usize::from(dense.adapter.is_some()) + usize::from(dense.out.is_some())
                }
                // Two more for each further head, and two where x and z must be taken apart.
                Mixer::Mamba(mamba) => 4 + 2 * mamba.heads() + 2 * usize::from(mamba.alternating),
            })
            .sum();
        // A stream that is normed itself takes one more, and so does a norm after the branches.
        let norms = |block: &Block| {
            usize::from(matches!(block.residual, Residual::Normed { .. }))
                + usize::from(block.post_norm.is_some())
                + usize::from(block.stream_norm.is_some())
        };
        // Two streams side by side are two copies, and a stream that must stay as it is takes one.
        let copies = |block: &Block| {
            2 * usize::from(block.input == Input::WithEmbeddings)
                + usize::from(block.target == Target::Aside && block.residual == Residual::Stream)
        };
        let blocks = &model.spec().blocks;
        let kept = blocks.iter().any(|block| block.input == Input::WithEmbeddings);
        let around: usize = blocks.iter().map(|block| norms(block) + copies(block)).sum();
        let positions = model.spec().embedding.positions.is_some();
        let allowed = allowed + around + usize::from(kept) + usize::from(positions);
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
                    | Mixer::KernelAttention(_)
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
        let caches = |m: &Mixer| {
            matches!(
                m,
                Mixer::Attention(_) | Mixer::LatentAttention(_) | Mixer::MultiLevelAttention(_)
            )
        };
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
