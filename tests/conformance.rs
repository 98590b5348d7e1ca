//! Every family against the reference implementation: logits and greedy tokens of tiny random
//! checkpoints, in full precision and as converted and quantized by MLX, for prefill at once, in
//! chunks and token by token, on one and two threads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kinglet::backend::{BackendRun, Logits, compile};
use kinglet::models::{self, Block, Branch, Input, ModelSpec, Residual, Role};
use kinglet::op::Op;
use kinglet::plan::Plan;
use kinglet::quant::{Format, Mode};
use kinglet::text::StopTokens;
use kinglet::weights::CheckOptions;
use kinglet::weights::MatrixView;
use kinglet::{Activations, Checkpoint, Isa, Model, ModelOptions};
use safetensors::SafeTensors;
use tempfile::TempDir;

use kinglet_tests::reference;
use kinglet_tests::target::{Target, wgpu_targets};
use kinglet_tests::{
    Case, amplifies_rounding, argmax, case_named, cases, foreign_cases, quantized_cases,
    relative_l2,
};

/// Bound on the relative L2 error of f32 logits on the CPU.
const BOUND: f64 = 1e-5;
/// The same on wgpu, where devices round `exp` and other functions differently.
const WGPU_BOUND: f64 = 1e-4;
/// The same for a token's logits if the device rounds weights and activations to f16.
const HALF_BOUND: f64 = 0.02;

/// Exact activations, for comparisons with the reference.
fn exact() -> ModelOptions {
    ModelOptions::new().backend(kinglet::Backend::Cpu).activations(Activations::F32)
}

fn open(case: &Case, options: &ModelOptions) -> Model {
    Model::open(&case.folder, options).unwrap_or_else(|e| panic!("{}: {e}", case.name))
}

/// Logits of all tokens, fed `chunk` at a time.
fn logits(model: &Model, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut session = model.session().unwrap();
    let mut all = Vec::new();
    for chunk in tokens.chunks(chunk) {
        all.extend_from_slice(session.feed_all(chunk).unwrap());
    }
    all
}

/// Collects failures, so that one run shows them all.
fn for_each_case(check: impl Fn(&Case) -> Vec<String> + Sync) {
    for_each(&cases(), check);
}

/// Like [`for_each_case`], with the checkpoints converted by MLX.
fn for_all_cases(check: impl Fn(&Case) -> Vec<String> + Sync) {
    for_each(&[cases(), quantized_cases()].into_iter().flatten().collect::<Vec<_>>(), check);
}

/// Checks the cases on all CPU cores, since a test has only one thread.
fn for_each(cases: &[Case], check: impl Fn(&Case) -> Vec<String> + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut failures = Vec::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            failures.extend(check(case));
        }
        failures
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// The plan in f64 has no state, no chunks and negligible rounding: where it agrees, the plan
/// computes what the family specifies, and the op tests check backends against the same functions.
#[test]
fn the_plan_in_plain_f64_equals_the_reference() {
    let exact = |case: &Case| case.info["exact"] == "true";
    let foreign = foreign_cases().into_iter().filter(exact);
    let cases: Vec<Case> = cases().into_iter().chain(quantized_cases()).chain(foreign).collect();
    for_each(&cases, |case| {
        let checkpoint = Checkpoint::open(&case.folder, CheckOptions::default())
            .unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let plan = Plan::new(&checkpoint.spec);
        let rows = reference::run(&plan, &checkpoint.weights, &case.tokens);
        let logits: Vec<f32> = rows.iter().flatten().map(|&z| z as f32).collect();
        let error = relative_l2(&logits, &case.logits);
        if error > BOUND { vec![format!("{}: {error:.2e}", case.name)] } else { vec![] }
    });
}

#[test]
fn logits_equal_the_reference_for_every_chunk_length_and_thread_count() {
    for_all_cases(|case| {
        let mut failures = Vec::new();
        for threads in [1, 2] {
            let model = open(case, &exact().threads(threads));
            for chunk in [case.tokens.len(), 64, 7, 3, 1] {
                let error = relative_l2(&logits(&model, &case.tokens, chunk), &case.logits);
                if error > BOUND {
                    failures.push(format!(
                        "{} chunk {chunk} threads {threads}: {error:.2e}",
                        case.name
                    ));
                }
            }
        }
        failures
    });
}

#[test]
fn logits_equal_the_reference_when_steps_are_cut_by_the_model() {
    for_all_cases(|case| {
        let model = open(case, &exact().threads(2).chunk(29));
        let error = relative_l2(&logits(&model, &case.tokens, case.tokens.len()), &case.logits);
        if error > BOUND { vec![format!("{}: {error:.2e}", case.name)] } else { vec![] }
    });
}

#[test]
fn logits_equal_the_reference_on_every_instruction_set() {
    for_all_cases(|case| {
        let mut failures = Vec::new();
        for isa in Isa::available() {
            let model = open(case, &exact().threads(1).isa(isa));
            for chunk in [case.tokens.len(), 5] {
                let error = relative_l2(&logits(&model, &case.tokens, chunk), &case.logits);
                if error > BOUND {
                    failures.push(format!(
                        "{} chunk {chunk} {}: {error:.2e}",
                        case.name,
                        isa.name()
                    ));
                }
            }
        }
        failures
    });
}

/// Compares the greedy continuation with the reference; returns it if it differs.
fn check_greedy(case: &Case, model: &Model) -> Option<String> {
    let mut session = model.session().unwrap();
    let mut next = argmax(session.feed(&case.tokens[..case.prompt]).unwrap());
    let mut greedy = vec![next];
    while greedy.len() < case.greedy.len() {
        next = argmax(session.feed(&[next]).unwrap());
        greedy.push(next);
    }
    let wrong = greedy != case.greedy;
    wrong.then(|| format!("{}: {greedy:?}, not {:?}", case.name, case.greedy))
}

/// The error of 8-bit activations is at most a 254th of the largest of 32, in every layer. These
/// narrow, untrained models are more sensitive to it than real ones.
const INT8_BOUND: f64 = 0.05;

#[test]
fn logits_with_activations_in_eight_bits_are_within_their_bound_of_the_reference() {
    for_each(&quantized_cases(), |case| {
        let mut failures = Vec::new();
        for isa in Isa::available() {
            let model = open(case, &ModelOptions::new().threads(2).isa(isa));
            for chunk in [case.tokens.len(), 3, 1] {
                let error = relative_l2(&logits(&model, &case.tokens, chunk), &case.logits);
                if error.is_nan() || error > INT8_BOUND {
                    failures.push(format!(
                        "{} chunk {chunk} {}: {error:.2e}",
                        case.name,
                        isa.name()
                    ));
                }
            }
        }
        failures
    });
}

#[test]
fn greedy_tokens_equal_the_reference() {
    for_all_cases(|case| {
        let model = open(case, &exact().threads(1));
        check_greedy(case, &model).into_iter().collect()
    });
}

#[test]
fn logits_and_greedy_tokens_on_wgpu_equal_the_reference() {
    for_all_cases(|case| {
        // Each thread's own, which run at the same time.
        let targets = wgpu_targets();
        let quantized = case.name.starts_with("quantized/");
        let mut failures = Vec::new();
        for (place, target) in targets.iter().enumerate() {
            // Software adapters are slow: each case is fed in every way on only one target.
            let first = (place + case.name.len()).is_multiple_of(targets.len());
            let chunks: &[(usize, usize)] = match (first, quantized) {
                (true, false) => &[(usize::MAX, 64), (usize::MAX, 7), (14, 1)],
                (true, true) => &[(usize::MAX, 64), (9, 3)],
                (false, false) => &[(20, 3)],
                (false, true) => continue,
            };
            let model = open(case, &target.options.clone().activations(Activations::F32));
            for &(tokens, chunk) in chunks {
                let tokens = &case.tokens[..tokens.min(case.tokens.len())];
                let expected = &case.logits[..tokens.len() * case.vocab()];
                let error = relative_l2(&logits(&model, tokens, chunk), expected);
                if error > WGPU_BOUND {
                    let (case, target) = (&case.name, &target.name);
                    failures.push(format!("{case} chunk {chunk} {target}: {error:.2e}"));
                }
            }
            if first {
                failures.extend(check_greedy(case, &model));
            }
            // The fastest arithmetic of the device: 8-bit activations for few tokens, f16 or
            // cooperative matrices for many.
            let forms: &[(usize, usize, f64)] = match (first, quantized) {
                (_, true) => &[(usize::MAX, 64, INT8_BOUND), (9, 2, INT8_BOUND)],
                (true, false) => &[(usize::MAX, 64, HALF_BOUND), (usize::MAX, 17, HALF_BOUND)],
                (false, false) => &[],
            };
            let model = open(case, &target.options);
            for &(tokens, chunk, bound) in forms {
                let tokens = &case.tokens[..tokens.min(case.tokens.len())];
                let got = logits(&model, tokens, chunk);
                let vocab = case.vocab();
                let rows = got.chunks(vocab).zip(case.logits.chunks(vocab));
                let mut errors: Vec<f64> = rows.map(|(a, b)| relative_l2(a, b)).collect();
                errors.sort_by(f64::total_cmp);
                // Rounding sends some tokens to other experts, and later tokens see the effect in
                // the state.
                let spec = model.spec();
                let mut branches = spec.blocks.iter().flat_map(|block| &block.branches);
                let amplifies = amplifies_rounding(spec)
                    || branches.any(|branch| {
                        branch.mixer.parts().iter().any(|part| part.role == Role::Router)
                    });
                let worst = if amplifies { errors.len() / 2 } else { errors.len() - 1 };
                let error = errors[worst];
                if error.is_nan() || error > bound || got.iter().any(|x| !x.is_finite()) {
                    let (case, target) = (&case.name, &target.name);
                    failures.push(format!("{case} rounded, chunk {chunk}, {target}: {error:.2e}"));
                }
            }
        }
        failures
    });
}

#[test]
fn the_older_spelling_of_a_config_means_the_same_model() {
    for_each_case(|case| {
        let text = std::fs::read_to_string(case.folder.join("config.legacy.json")).unwrap();
        let config = kinglet::models::Config::parse(&text).unwrap();
        let older = kinglet::models::spec(&config).unwrap();
        if older == kinglet::read_spec(&case.folder).unwrap() {
            vec![]
        } else {
            vec![case.name.clone()]
        }
    });
}

#[test]
fn what_ends_a_text_is_read_from_either_spelling_of_a_config() {
    for_each_case(|case| {
        let read = |spelling: &str| {
            let folder = tempfile::tempdir().unwrap();
            std::fs::copy(case.folder.join(spelling), folder.path().join("config.json")).unwrap();
            StopTokens::from_folder(folder.path(), None).map(|stop| stop.ids().to_vec())
        };
        match (read("config.json"), read("config.legacy.json")) {
            (Ok(new), Ok(old)) if new == old => vec![],
            other => vec![format!("{}: {other:?}", case.name)],
        }
    });
}

/// A copy of `llama/CASE` with changed config and weights.
fn changed(case: &str, config: impl Fn(String) -> String, rename: (&str, &str)) -> (TempDir, Case) {
    let mut case = cases().into_iter().find(|c| c.name == format!("llama/{case}")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(case.folder.join("config.json")).unwrap();
    std::fs::write(folder.path().join("config.json"), config(text)).unwrap();
    let bytes = std::fs::read(case.folder.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let renamed = tensors
        .into_iter()
        .map(|(name, view)| (if name == rename.0 { rename.1.to_string() } else { name }, view));
    let bytes = safetensors::serialize(renamed, None).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    case.folder = folder.path().to_path_buf();
    (folder, case)
}

#[test]
fn a_head_of_its_own_is_used_although_the_config_ties_it() {
    let tie = |text: String| {
        let tied = text.replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
        assert_ne!(tied, text);
        tied
    };
    let (_folder, case) = changed("plain", tie, ("", ""));
    let model = open(&case, &exact());
    let error = relative_l2(&logits(&model, &case.tokens, 100), &case.logits);
    assert!(error <= BOUND, "{error:.2e}");
}

#[test]
fn a_tied_head_alone_serves_as_embedding() {
    let rename = ("model.embed_tokens.weight", "lm_head.weight");
    let (_folder, case) = changed("tied", |text| text, rename);
    let model = open(&case, &exact());
    let error = relative_l2(&logits(&model, &case.tokens, 100), &case.logits);
    assert!(error <= BOUND, "{error:.2e}");
}

/// Formats of all matrices of all quantized cases with the types of affine scales, and the families
/// with 4 and 8 bits.
#[test]
fn quantized_cases_have_every_format_and_family() {
    let (mut formats, mut scales) = (BTreeSet::new(), BTreeSet::new());
    let mut families: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for case in quantized_cases() {
        let model = open(&case, &self::exact().threads(1));
        let bits = families.entry(model.spec().model_type.clone()).or_default();
        for matrix in model.spec().matrices() {
            let matrix = model.weights().matrix(matrix).unwrap();
            if let MatrixView::Quantized(blocks) = matrix.view().unwrap() {
                formats.insert(blocks.format());
                scales.insert(format!("{:?}", blocks.scale_type()));
                bits.insert(blocks.format().bits());
            }
        }
    }
    for mode in [Format::MXFP4, Format::MXFP8, Format::NVFP4] {
        assert!(formats.contains(&mode), "no {mode}");
    }
    for bits in Format::AFFINE_BITS {
        let found = formats.iter().filter(|f| f.mode() == Mode::Affine && f.bits() == bits);
        assert!(found.count() >= 2, "{bits} bits in fewer than two groups");
    }
    for group in Format::AFFINE_GROUPS {
        assert!(formats.iter().any(|f| f.mode() == Mode::Affine && f.group() == group), "{group}");
    }
    assert_eq!(scales.len(), 5, "{scales:?}");
    for family in kinglet::models::supported() {
        let bits = families.get(family).cloned().unwrap_or_default();
        assert!(bits.contains(&4) && bits.contains(&8), "{family}: {bits:?}");
    }
}

/// Every part of a quantized tensor matters: changing one byte of it moves the logits.
#[test]
fn codes_scales_biases_and_factors_all_matter() {
    for (name, part) in [
        ("quantized/mixtral-affine4", "model.layers.0.block_sparse_moe.switch_mlp.up_proj.weight"),
        (
            "quantized/mixtral-affine4",
            "model.layers.0.block_sparse_moe.switch_mlp.down_proj.scales",
        ),
        (
            "quantized/mixtral-affine4",
            "model.layers.0.block_sparse_moe.switch_mlp.gate_proj.biases",
        ),
        ("quantized/mixtral-affine4", "model.embed_tokens.scales"),
        ("quantized/mixtral-affine4", "lm_head.biases"),
        (
            "quantized/mixtral-global-scale",
            "model.layers.0.block_sparse_moe.switch_mlp.up_proj.global_scale",
        ),
        ("quantized/qwen3-nvfp4", "model.layers.0.mlp.up_proj.scales"),
        ("quantized/qwen3-mxfp8", "model.layers.0.mlp.up_proj.scales"),
    ] {
        let mut case = case_named(name);
        let file = case.folder.join("model.safetensors");
        let mut bytes = std::fs::read(&file).unwrap();
        let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        // The last byte of a little-endian float, or a byte of whatever else, within the first row or expert.
        let (start, end) = metadata.info(part).unwrap().data_offsets;
        // For the embedding, in the row of the first token.
        let row = if part.contains("embed") { case.tokens[0] as usize } else { 0 };
        let start = start + row * (end - start) / case.vocab();
        let within = if part.ends_with("weight") { 0 } else { 3.min(end - start - 1) };
        let at = 8 + header + start + within;
        bytes[at] ^= 0x02;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        std::fs::copy(case.folder.join("config.json"), folder.path().join("config.json")).unwrap();
        case.folder = folder.path().to_path_buf();
        let model = open(&case, &self::exact().threads(1));
        let error = relative_l2(&logits(&model, &case.tokens, 100), &case.logits);
        assert!(error > 2.0 * BOUND, "{name}: {part} does not matter: {error:.1e}");
    }
}

/// Bound if weights were encoded again in 8 bits: 2 or 3 bits more than the layouts themselves
/// have.
const ENCODED_ANEW: f64 = 1.5e-2;

/// GPTQ, AWQ and FP8 checkpoints, converted while loading: exact if one of our formats can hold the
/// same weights.
#[test]
fn foreign_layouts_are_converted() {
    let (mut exact, mut inexact, mut failures) = (0, 0, Vec::new());
    for case in foreign_cases() {
        let model = open(&case, &self::exact().threads(1));
        let error = relative_l2(&logits(&model, &case.tokens, 7), &case.logits);
        let checkpoint = Checkpoint::open(&case.folder, CheckOptions::default()).unwrap();
        let conversion = checkpoint.conversion;
        assert!(conversion.matrices > 0, "{}", case.name);
        let is_exact = case.info["exact"] == "true";
        if is_exact != conversion.inexact.is_empty() {
            failures.push(format!("{}: {:?}", case.name, conversion));
        }
        let bound = if is_exact { BOUND } else { ENCODED_ANEW };
        if error > bound {
            failures.push(format!("{}: {error:.2e}", case.name));
        }
        if is_exact {
            exact += 1;
        } else {
            inexact += 1;
            // An error below the exact bound would show that nothing was rounded.
            assert!(error > BOUND, "{}: {error:.2e}", case.name);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(exact >= 10 && inexact >= 3, "{exact} exact, {inexact} not");
}

/// The residual stream after `blocks`, through the head's matrix, which is linear without its norm
/// and soft cap.
fn stream(model: &Model, blocks: Vec<Block>, options: &ModelOptions, chunk: usize) -> Vec<f64> {
    let mut plan = Plan::new(&ModelSpec { blocks, ..model.spec().clone() });
    let Some(Op::Head(head)) = plan.ops.last_mut() else { panic!("a plan ends in its head") };
    (head.norm, head.soft_cap) = (None, None);
    let executable = compile(Arc::new(plan), model.weights(), options).unwrap();
    let mut state = executable.new_state().unwrap();
    let mut all = Vec::new();
    for tokens in (0..24).collect::<Vec<u32>>().chunks(chunk) {
        let mut logits = Vec::new();
        let (wanted, vectors) = (Logits::All, None);
        let run = BackendRun {
            tokens,
            vectors,
            state: &mut *state,
            wanted,
            logits: &mut logits,
            stream: None,
        };
        pollster::block_on(executable.step(vec![run])).unwrap();
        all.extend(logits.into_iter().map(f64::from));
    }
    all
}

#[test]
fn branches_of_a_block_see_the_stream_from_before_it() {
    let mut targets = vec![Target {
        name: "cpu".into(),
        options: exact().threads(2),
        bound: BOUND,
        products_only: false,
    }];
    targets.extend(wgpu_targets().into_iter().take(1).map(|target| Target {
        options: target.options.activations(Activations::F32),
        bound: WGPU_BOUND,
        ..target
    }));
    for name in ["granitemoehybrid/plain", "xlstm/plain", "mamba/plain"] {
        let model = open(&case_named(name), &exact());
        // Two branches of each kind that the model has, all in layer 0.
        let mut branches: Vec<Branch> = Vec::new();
        for branch in model.spec().blocks.iter().flat_map(|block| &block.branches) {
            let kind = |branch: &Branch| branch.mixer.layer().kind();
            if branches.iter().filter(|known| kind(known) == kind(branch)).count() < 2 {
                branches.push(branch.clone());
            }
        }
        let norm = &model.spec().blocks[0].norm;
        let block = |branches: &[&Branch]| Block {
            layer: 0,
            input: Input::Stream,
            norm: norm.clone(),
            branches: branches
                .iter()
                .map(|branch| Branch { scale: 0.5, ..(*branch).clone() })
                .collect(),
            post_norm: None,
            residual: Residual::Stream,
            residual_scale: 1.5,
            stream_norm: None,
            target: models::Target::Stream,
        };
        let pairs: Vec<[&Branch; 2]> = (0..branches.len())
            .flat_map(|i| (0..branches.len()).map(move |j| (i, j)))
            .filter(|(i, j)| i != j)
            .map(|(i, j)| [&branches[i], &branches[j]])
            .collect();
        for target in &targets {
            // Devices compile kernels slowly: there, each branch is first only once.
            let every = if target.name == "cpu" { 1 } else { (branches.len() - 1).max(1) };
            for pair in pairs.iter().step_by(every) {
                for chunk in [24, 1] {
                    let run = |blocks| stream(&model, blocks, &target.options, chunk);
                    let both = run(vec![block(&pair[..])]);
                    let (one, other) = (run(vec![block(&pair[..1])]), run(vec![block(&pair[1..])]));
                    let none = run(Vec::new());
                    let sum: Vec<f64> =
                        (0..none.len()).map(|i| one[i] + other[i] - none[i]).collect();
                    let error = relative(&both, &sum);
                    assert!(
                        error <= target.bound,
                        "{name} on {}: {} beside {}, chunk {chunk}: {error:.2e}",
                        target.name,
                        pair[0].mixer.layer().kind(),
                        pair[1].mixer.layer().kind(),
                    );
                    // Run one after another they would give a different result.
                    let serial = run(vec![block(&pair[..1]), block(&pair[1..])]);
                    assert!(relative(&serial, &sum) > 1e-3, "{name}: no difference");
                }
            }
        }
    }
}

fn relative(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let difference = square(&mut got.iter().zip(expected).map(|(a, b)| a - b));
    (difference / square(&mut expected.iter().copied())).sqrt()
}

#[test]
fn a_kind_of_layer_is_described_and_lowered_in_files_of_one_name() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let kinds = |folder: &str, shared: &[&str]| -> BTreeSet<String> {
        let files = std::fs::read_dir(root.join(folder)).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !shared.contains(&&**name)).collect()
    };
    let described = ["mod.rs", "part.rs", "role.rs", "router.rs", "small.rs", "tests.rs"];
    let described = kinds("models/src/layer", &described);
    assert_eq!(described, kinds("runtime/src/plan/lower", &["mod.rs"]));
    assert!(described.contains("attention.rs"));
}
