//! What `Weights` guarantees for valid checkpoints, and for those of another model.

use std::collections::BTreeMap;
use std::fs::{self, File};

use kinglet::weights::{
    Access, CheckOptions, Encoding, MatrixData, MatrixView, Problem, Source, Weights, WeightsError,
};
use kinglet_models::{
    Activation, Block, Dense, Embedding, Head, Input, Linear, Matrix, Mixer, ModelSpec, Norm,
    Residual, Target, TensorSpec,
};
use kinglet_quant::DType;

mod safetensors_files;
use safetensors_files::{TempDir, f32s, file, in_memory, index, raw};

/// The bytes of a dense matrix.
fn dense(matrix: &MatrixData) -> Vec<u8> {
    match matrix.view().unwrap() {
        MatrixView::Dense { bytes, .. } => bytes.to_vec(),
        MatrixView::Quantized(blocks) => panic!("{blocks:?}"),
    }
}

/// Embedding `[3, 2]`, one feed-forward block of width 4 with fused gate and up, and a head.
fn spec() -> ModelSpec {
    let fused = Matrix::whole("model.layers.0.input.weight", 8, 2);
    let dense = Dense {
        gate: Some(fused.rows(0, 4).into()),
        up: fused.rows(4, 4).into(),
        down: Linear::new("model.layers.0.output", 2, 4, false),
        activation: Activation::Silu,
        adapter: None,
        out: None,
    };
    ModelSpec {
        model_type: "test".into(),
        hidden: 2,
        vocab: 3,
        max_positions: None,
        embedding: Embedding {
            table: Matrix::whole("model.embed.weight", 3, 2),
            scale: 1.0,
            positions: None,
        },
        blocks: vec![Block {
            layer: 0,
            input: Input::Stream,
            norm: Some(Norm::new("model.layers.0.norm", 2, 1e-5)),
            branches: vec![Mixer::Dense(dense).into()],
            post_norm: None,
            residual: Residual::Stream,
            residual_scale: 1.0,
            stream_norm: None,
            target: Target::Stream,
        }],
        head: Head {
            norm: Norm::new("model.norm", 2, 1e-5),
            linear: Matrix::whole("model.embed.weight", 3, 2).into(),
            scale: 1.0,
            soft_cap: None,
            untied: None,
        },
        ignored: vec!["lm_head.*".into(), "*.inv_freq".into()],
    }
}

fn numbers(n: usize) -> Vec<u8> {
    f32s(&(0..n).map(|i| i as f32).collect::<Vec<_>>())
}

type Tensor = (&'static str, &'static str, &'static [u64], Vec<u8>);

/// Tensors that match `spec`.
fn tensors() -> Vec<Tensor> {
    vec![
        ("model.layers.0.input.weight", "F32", &[8, 2], numbers(16)),
        ("model.embed.weight", "BF16", &[3, 2], (0..12).collect()),
        ("model.layers.0.norm.weight", "F16", &[2], vec![0x00, 0x3c, 0x00, 0xc0]),
        ("model.layers.0.output.weight", "F32", &[2, 4], numbers(8)),
        ("model.norm.weight", "F32", &[2], numbers(2)),
    ]
}

const STRICT: CheckOptions = CheckOptions { strict: true };

fn problems(tensors: &[Tensor]) -> (String, Vec<Problem>) {
    match in_memory(file(tensors, 0)).unwrap().check(&spec(), STRICT) {
        Err(WeightsError::Mismatch(m)) => (m.to_string(), m.problems),
        other => panic!("{other:?}"),
    }
}

#[test]
fn vectors_and_matrices_are_read_where_they_lie_at_any_address() {
    for padding in 0..8 {
        let dir = TempDir::new();
        dir.write("model.safetensors", file(&tensors(), padding));
        let weights = dir.open().unwrap();
        let checked = weights.check(&spec(), STRICT).unwrap();
        assert!(checked.ignored.is_empty() && checked.surplus.is_empty());

        let norm = weights.vector(&TensorSpec::new("model.layers.0.norm.weight", [2])).unwrap();
        assert_eq!(norm, [1.0, -2.0]);

        let whole = Matrix::whole("model.layers.0.input.weight", 8, 2);
        let up = weights.matrix(&whole.rows(4, 4)).unwrap();
        assert_eq!((up.rows(), up.cols(), up.encoding()), (4, 2, Encoding::Dense(DType::F32)));
        assert_eq!(dense(&up), &numbers(16)[32..]);
        assert_eq!(dense(&up.slice(1..3).unwrap()), &numbers(16)[40..56]);
        assert_eq!(dense(&up.slice(4..4).unwrap()), b"");
        assert!(up.slice(3..5).is_err());

        let embed = weights.get("model.embed.weight").unwrap();
        assert_eq!((embed.shape(), embed.dtype()), (&[3, 2][..], DType::BF16));
        assert_eq!(dense(&embed.rows(1..3).unwrap()), (4..12).collect::<Vec<u8>>());
        // The mapping outlives the weights and the file's name.
        drop(weights);
        drop(dir);
        assert_eq!(embed.bytes().unwrap(), (0..12).collect::<Vec<u8>>());
    }
}

#[test]
fn rows_are_counted_over_the_leading_dimensions() {
    let stack = ("e", "F32", &[2u64, 3, 2][..], numbers(12));
    let vector = ("v", "F32", &[4u64][..], numbers(4));
    let scalar = ("s", "F32", &[][..], numbers(1));
    let empty = ("z", "F32", &[3u64, 0][..], vec![]);
    let weights = in_memory(file(&[stack, vector, scalar, empty], 0)).unwrap();
    let expert = weights.matrix(&Matrix::stacked("e", 2, 3, 2, 1)).unwrap();
    assert_eq!(dense(&expert), &numbers(12)[24..]);
    assert_eq!(dense(&weights.get("v").unwrap().rows(0..1).unwrap()), numbers(4));
    assert_eq!(dense(&weights.get("s").unwrap().rows(0..1).unwrap()), numbers(1));
    assert_eq!(weights.get("z").unwrap().rows(1..3).unwrap().rows(), 2);

    for (rows, cols, row_offset) in
        [(7, 2, 0), (6, 2, 1), (3, 4, 0), (0, 2, 7), (usize::MAX, 2, 1), (1, 2, usize::MAX)]
    {
        let tensor = TensorSpec::new("e", [2, 3, 2]);
        let matrix = Matrix { tensor, row_offset, rows, cols };
        let error = weights.matrix(&matrix).unwrap_err();
        assert!(matches!(error, WeightsError::Rows { .. }), "{error}");
    }
    assert!(weights.get("z").unwrap().rows(3..4).is_err());
}

#[test]
fn a_wrong_request_is_named() {
    let mut tensors = tensors();
    tensors.push(("steps", "I64", &[1], vec![0; 8]));
    let weights = in_memory(file(&tensors, 0)).unwrap();
    let message = |error: WeightsError| error.to_string();
    assert_eq!(
        message(weights.get("model.head").unwrap_err()),
        "tensor `model.head` is not in the checkpoint"
    );
    assert_eq!(
        message(weights.get("steps").unwrap_err()),
        "tensor `steps` has dtype I64, expected F32, F16 or BF16"
    );
    assert_eq!(
        message(weights.vector(&TensorSpec::new("model.norm.weight", [3])).unwrap_err()),
        "tensor `model.norm.weight` has shape [2], expected [3]"
    );
}

#[test]
fn shards_are_joined() {
    let dir = TempDir::new();
    let tensors = tensors();
    let (one, two) = tensors.split_at(2);
    dir.write("a.safetensors", file(one, 0));
    dir.write("b.safetensors", file(two, 1));
    let map: Vec<_> = one.iter().map(|t| (t.0, "a.safetensors")).collect();
    let map: Vec<_> = map.into_iter().chain(two.iter().map(|t| (t.0, "b.safetensors"))).collect();
    dir.write("model.safetensors.index.json", index(&map));
    let weights = dir.open().unwrap();
    weights.check(&spec(), STRICT).unwrap();
    assert_eq!(weights.names().count(), 5);
    assert!(weights.names().is_sorted());
    assert_eq!(weights.total_bytes(), 64 + 12 + 4 + 32 + 8);
    let bytes = [("BF16", 12), ("F16", 4), ("F32", 104)].map(|(t, n)| (t.to_string(), n));
    assert_eq!(weights.bytes_by_dtype(), BTreeMap::from(bytes));
    let norm = weights.tensors().find(|t| t.name == "model.norm.weight").unwrap();
    assert_eq!((norm.file, norm.dtype.as_str(), norm.bytes), ("b.safetensors", "F32", 8));
    assert_eq!(weights.vector(&TensorSpec::new("model.norm.weight", [2])).unwrap(), [0.0, 1.0]);

    // The same tensors have the same fingerprint in one file. Changing one byte changes it.
    let mut tensors = tensors.clone();
    tensors.reverse();
    let single = in_memory(file(&tensors, 3)).unwrap();
    assert_eq!(weights.fingerprint().unwrap(), single.fingerprint().unwrap());
    tensors[0].3[7] ^= 1;
    let changed = in_memory(file(&tensors, 3)).unwrap();
    assert_ne!(weights.fingerprint().unwrap(), changed.fingerprint().unwrap());
}

#[test]
fn the_fingerprint_sees_names_dtypes_and_shapes() {
    let base = |name, dtype, shape: &[u64]| {
        in_memory(file(&[(name, dtype, shape, vec![0; 16])], 0)).unwrap().fingerprint().unwrap()
    };
    let all = [
        base("a", "F32", &[4]),
        base("b", "F32", &[4]),
        base("a", "F32", &[2, 2]),
        base("a", "U32", &[4]),
        base("a", "F16", &[8]),
    ];
    for (i, a) in all.iter().enumerate() {
        assert!(all.iter().skip(i + 1).all(|b| a != b));
    }
    // Part of the format of saved states: changing this makes old ones unreadable. Computed with a
    // separate FNV-1a over the documented bytes.
    assert_eq!(base("a", "F32", &[4]), 0xb5b2_a150_ceb7_69ea);
}

#[test]
fn a_region_of_a_file_is_as_good_as_a_file() {
    let dir = TempDir::new();
    let content = file(&tensors(), 0);
    let mut package = vec![0xaa; 5001];
    package.extend(&content);
    package.extend([0xbb; 100]);
    let path = dir.write("package", &package);
    let region = |offset, len| {
        Weights::from_sources(vec![Source::region("p", File::open(&path).unwrap(), offset, len)])
    };
    let weights = region(5001, content.len() as u64).unwrap();
    weights.check(&spec(), STRICT).unwrap();
    weights.check_unchanged().unwrap();
    assert_eq!(weights.get("model.norm.weight").unwrap().bytes().unwrap(), numbers(2));
    for (offset, len) in [(5001, 1 << 40), (u64::MAX, 1), (u64::MAX, u64::MAX), (6000, 5000)] {
        let error = region(offset, len).unwrap_err();
        assert!(matches!(error, WeightsError::Region { .. }), "{error}");
    }
    fs::write(dir.path().join("model.safetensors"), &content).unwrap();
    let whole = File::open(dir.path().join("model.safetensors")).unwrap();
    Weights::from_files(vec![("m".into(), whole)]).unwrap().check(&spec(), STRICT).unwrap();
}

#[test]
fn a_file_cut_short_after_opening_is_noticed_before_it_is_read() {
    let dir = TempDir::new();
    let path = dir.write("model.safetensors", file(&tensors(), 0));
    let weights = dir.open().unwrap();
    weights.check_unchanged().unwrap();
    let cut = File::options().write(true).open(path).unwrap();
    cut.set_len(100).unwrap();
    let error = weights.check_unchanged().unwrap_err();
    assert!(matches!(error, WeightsError::Shrunk { found: 100, .. }), "{error}");
    for error in [
        weights.touch(&mut |_, _| true).unwrap_err(),
        weights.scan_non_finite(&spec(), &mut |_, _| true).unwrap_err(),
        weights.vector(&TensorSpec::new("model.norm.weight", [2])).unwrap_err(),
        weights.fingerprint().unwrap_err(),
    ] {
        assert!(matches!(error, WeightsError::Shrunk { .. }), "{error}");
    }
}

#[test]
fn every_difference_from_the_model_is_reported_by_name() {
    let mut tensors = tensors();
    tensors[0].2 = &[2, 8];
    tensors[1] = ("embed.weight", "F32", &[3, 2], numbers(6));
    tensors[3].1 = "I32";
    tensors.push(("lm_head.weight", "I64", &[1], vec![0; 8]));
    tensors.push(("model.layers.0.bias", "F32", &[2], numbers(2)));
    let (message, problems) = problems(&tensors);
    assert_eq!(
        problems,
        [
            Problem::Missing {
                tensor: "model.embed.weight".into(),
                shape: vec![3, 2],
                similar: Some("embed.weight".into())
            },
            Problem::WrongShape {
                tensor: "model.layers.0.input.weight".into(),
                expected: vec![8, 2],
                found: vec![2, 8]
            },
            Problem::UnsupportedDtype {
                tensor: "model.layers.0.output.weight".into(),
                dtype: "I32".into()
            },
            Problem::Surplus { tensor: "embed.weight".into(), shape: vec![3, 2] },
            Problem::Surplus { tensor: "model.layers.0.bias".into(), shape: vec![2] },
        ]
    );
    let lines: Vec<_> = message.lines().collect();
    assert_eq!(
        lines[..2],
        [
            "the weights do not match config.json (a `test` model): 1 tensor missing, 1 tensor of wrong \
             shape, 1 tensor of an unsupported dtype, 2 tensors not part of the model: \
             `model.embed.weight` of shape [3, 2] is missing; found `embed.weight`",
            "  `model.layers.0.input.weight` has shape [2, 8], expected [8, 2]",
        ]
    );
    assert_eq!(lines.len(), 5);
}

#[test]
fn surplus_tensors_can_be_allowed_and_ignored_ones_always_are() {
    let mut tensors = tensors();
    tensors.push(("lm_head.weight", "F32", &[3, 2], numbers(6)));
    tensors.push(("model.layers.0.rotary.inv_freq", "F32", &[1], numbers(1)));
    let weights = in_memory(file(&tensors, 0)).unwrap();
    let checked = weights.check(&spec(), STRICT).unwrap();
    assert_eq!(checked.ignored, ["lm_head.weight", "model.layers.0.rotary.inv_freq"]);
    tensors.push(("extra", "F8_E4M3", &[3], vec![0; 3]));
    let weights = in_memory(file(&tensors, 0)).unwrap();
    assert!(weights.check(&spec(), STRICT).is_err());
    let checked = weights.check(&spec(), CheckOptions { strict: false }).unwrap();
    assert_eq!(checked.surplus, ["extra"]);
}

#[test]
fn a_long_list_of_differences_is_counted_not_printed() {
    let names: Vec<String> = (0..100).map(|i| format!("extra.{i}")).collect();
    let entries: Vec<_> =
        names.iter().map(|n| safetensors_files::entry(n, "F32", &[0], 0, 0)).collect();
    let weights = in_memory(raw(format!("{{{}}}", entries.join(",")), b"")).unwrap();
    let message = weights.check(&spec(), STRICT).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 20 + 1, "{message}");
    assert!(message.contains("5 tensors missing, 100 tensors not part of the model"), "{message}");
    assert!(message.ends_with("and 85 more"), "{message}");
}

#[test]
fn nan_and_infinity_are_found_by_name_and_index() {
    let mut tensors = tensors();
    tensors[4].3 = f32s(&[1.0, f32::NAN]);
    let weights = in_memory(file(&tensors, 0)).unwrap();
    let error = weights.vector(&TensorSpec::new("model.norm.weight", [2])).unwrap_err();
    let expected = "tensor `model.norm.weight` holds NaN at index 1: the checkpoint is damaged";
    assert_eq!(error.to_string(), expected);
    let error = weights.scan_non_finite(&spec(), &mut |_, _| true).unwrap_err();
    assert_eq!(error.to_string(), expected);
    // f16: negative infinity.
    tensors[2].3 = vec![0x00, 0xfc, 0x00, 0x00];
    let weights = in_memory(file(&tensors, 1)).unwrap();
    let error = weights.scan_non_finite(&spec(), &mut |_, _| true).unwrap_err();
    assert!(
        matches!(&error, WeightsError::NonFinite { tensor, index: 0, value: f32::NEG_INFINITY }
            if tensor == "model.layers.0.norm.weight"),
        "{error}"
    );
}

#[test]
fn passes_report_progress_and_can_be_stopped() {
    // More than two pieces, so that there are reports between the first and the last.
    let size = (2u64 << 24) + 12;
    let big = ("model.embed.weight", "F32", &[size / 4][..], vec![0; size as usize]);
    let dir = TempDir::new();
    let len = dir.write("model.safetensors", file(&[big], 0)).metadata().unwrap().len();
    let weights = dir.open().unwrap();
    weights.advise(Access::WillNeed).unwrap();
    let mut seen = Vec::new();
    weights
        .touch(&mut |done, total| {
            seen.push((done, total));
            true
        })
        .unwrap();
    assert_eq!(seen, [(1 << 24, len), (2 << 24, len), (len, len)]);
    let mut calls = 0;
    let stop = &mut |_, _| {
        calls += 1;
        false
    };
    assert!(matches!(weights.touch(stop), Err(WeightsError::Cancelled)));
    assert_eq!(calls, 1);

    let mut spec = spec();
    spec.blocks.clear();
    spec.head.norm.weight = spec.embedding.table.tensor.clone();
    let mut last = (0, 0);
    weights
        .scan_non_finite(&spec, &mut |done, total| {
            last = (done, total);
            true
        })
        .unwrap();
    assert_eq!(last, (size, size));
    let error = weights.scan_non_finite(&spec, &mut |_, _| false).unwrap_err();
    assert!(matches!(error, WeightsError::Cancelled));
}

#[test]
fn weights_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Weights>();
    shared::<kinglet::weights::TensorData>();
    shared::<kinglet::weights::MatrixData>();
    shared::<WeightsError>();
}
