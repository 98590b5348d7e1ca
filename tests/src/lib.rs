//! Shared code of the tests: fixtures, and comparison of results.

pub mod cargo;
pub mod random;
pub mod reference;
pub mod rig;
pub mod schedule;
pub mod target;
pub mod temp;
pub mod tensors;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use kinglet::models::{MLstm, Mixer, ModelSpec};
use safetensors::SafeTensors;

use temp::TempDir;

/// Whether a model has layers that amplify rounding at single tokens. The gated delta rule divides by the lengths of queries, keys and
/// outputs: where they are short `transformers` itself, with inputs of projections rounded to f16, moves tokens by up to 0.13. mLSTM
/// divides by `q . n`, which can cross zero, and only a norm of its heads takes that away: without one the reference moves a token by
/// 40 times the median.
pub fn amplifies_rounding(spec: &ModelSpec) -> bool {
    spec.blocks.iter().flat_map(|block| &block.branches).any(|branch| {
        matches!(branch.mixer, Mixer::GatedDelta(_) | Mixer::MLstm(MLstm { head_norm: None, .. }))
    })
}

/// The error of logits that were computed with rounded states or weights: relative L2, or that of the median token if the model
/// [amplifies rounding](amplifies_rounding).
pub fn rounded_error(spec: &ModelSpec, got: &[f32], expected: &[f32]) -> f64 {
    if !amplifies_rounding(spec) {
        return relative_l2(got, expected);
    }
    let rows = got.chunks(spec.vocab).zip(expected.chunks(spec.vocab));
    let mut errors: Vec<f64> = rows.map(|(got, expected)| relative_l2(got, expected)).collect();
    errors.sort_by(f64::total_cmp);
    errors[errors.len() / 2]
}

/// `tests/fixtures`.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// A tiny random checkpoint with the reference implementation's results.
#[derive(Clone)]
pub struct Case {
    /// `family/case`.
    pub name: String,
    /// The model folder.
    pub folder: PathBuf,
    /// Input tokens.
    pub tokens: Vec<u32>,
    /// Logits after each token, `[tokens, vocab]`.
    pub logits: Vec<f32>,
    /// Greedy continuation of the first [`Case::prompt`] tokens.
    pub greedy: Vec<u32>,
    /// Length of the prompt of `greedy`.
    pub prompt: usize,
    /// Further metadata: seed, versions, formats.
    pub info: HashMap<String, String>,
}

impl Case {
    /// Logits per token.
    pub fn vocab(&self) -> usize {
        self.logits.len() / self.tokens.len()
    }
}

/// Folders of fixtures that are not families: quantized checkpoints, by their origin, and heads that
/// predict further tokens.
const NO_FAMILIES: [&str; 3] = ["quantized", "foreign", "mtp"];

/// The folder of the cases and their minimum number: `committed` in `tests/fixtures`, or `others`
/// in the folder `KINGLET_FIXTURES`, which has the same layout (for example from
/// `tests/reference/campaign.py`).
fn root(committed: usize, others: usize) -> (PathBuf, usize) {
    let elsewhere = std::env::var_os("KINGLET_FIXTURES");
    elsewhere.map_or_else(|| (fixtures(), committed), |root| (root.into(), others))
}

/// Every unquantized case, sorted by name: the committed ones, or those in the folder
/// `KINGLET_FIXTURES`. Panics if there are too few.
pub fn cases() -> Vec<Case> {
    let (root, least) = root(70, 1);
    let cases = in_folders(&root, families(&root));
    assert!(cases.len() >= least, "only {} cases in {}", cases.len(), root.display());
    cases
}

/// The folders of a folder of fixtures that belong to a family.
fn families(root: &Path) -> Vec<PathBuf> {
    let mut folders = folders(root);
    folders.retain(|f| !NO_FAMILIES.iter().any(|name| f.ends_with(name)));
    folders
}

/// Every checkpoint converted by MLX, most of them quantized: `quantized/FAMILY-CASE`. The
/// reference is `transformers` on the dequantized weights, in f32. If `KINGLET_FIXTURES` is set,
/// those in that folder, if any.
pub fn quantized_cases() -> Vec<Case> {
    let (root, least) = root(50, 0);
    let quantized = root.join("quantized");
    let cases = in_folders(&root, quantized.is_dir().then_some(quantized));
    assert!(cases.len() >= least, "only {} quantized cases in {}", cases.len(), root.display());
    cases
}

/// Every checkpoint in the quantized layout of another project: `foreign/CASE`.
pub fn foreign_cases() -> Vec<Case> {
    let cases = in_folders(&fixtures(), [fixtures().join("foreign")]);
    assert!(cases.len() >= 15, "only {} foreign cases in {}", cases.len(), fixtures().display());
    cases
}

/// The case in the folder `tests/fixtures/NAME`.
pub fn case_named(name: &str) -> Case {
    let folder = fixtures().join(name);
    let reference = folder.join("reference.safetensors");
    let bytes =
        std::fs::read(&reference).unwrap_or_else(|e| panic!("{}: {e}", reference.display()));
    case(name.into(), folder, &bytes)
}

/// A case with a head that predicts the token after the next one.
pub struct PredictionCase {
    /// `FAMILY/CASE` of its model.
    pub name: String,
    /// A model folder with the head's tensors.
    pub folder: TempDir,
    /// A prompt and its greedy continuation.
    pub tokens: Vec<u32>,
    /// Length of the prompt.
    pub prompt: usize,
    /// The head's logits after each pair of tokens, `[tokens - 1, vocab]`.
    pub logits: Vec<f32>,
    /// What the head expects after all tokens.
    pub drafts: Vec<u32>,
}

/// Every case with a prediction head (`tests/reference/make_mtp.py`): `mtp/FAMILY-CASE` joined with
/// its model.
pub fn prediction_cases() -> Vec<PredictionCase> {
    let cases: Vec<_> = folders(&fixtures().join("mtp")).iter().map(|f| prediction(f)).collect();
    assert!(cases.len() >= 2, "only {} cases with a prediction head", cases.len());
    cases
}

fn prediction(own: &Path) -> PredictionCase {
    let bytes = std::fs::read(own.join("reference.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let info = metadata.metadata().as_ref().unwrap();
    let (name, prompt) = (info["case"].clone(), info["prompt_length"].parse().unwrap());
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let folder = TempDir::copy_of(&fixtures().join(&name));
    let [model, head] = [fixtures().join(&name).join("model"), own.join("mtp")]
        .map(|path| std::fs::read(path.with_extension("safetensors")).unwrap());
    let both = [&model, &head].map(|bytes| SafeTensors::deserialize(bytes).unwrap().tensors());
    let bytes = safetensors::serialize(both.concat(), None).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let (tokens, drafts) = (ids(&file, "tokens"), ids(&file, "drafts"));
    PredictionCase { name, folder, tokens, prompt, logits: floats(&file, "logits"), drafts }
}

fn ids(file: &SafeTensors<'_>, name: &str) -> Vec<u32> {
    let view = file.tensor(name).unwrap();
    let (ids, _) = view.data().as_chunks::<8>();
    ids.iter().map(|id| i64::from_le_bytes(*id) as u32).collect()
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let view = file.tensor(name).unwrap();
    let (floats, _) = view.data().as_chunks::<4>();
    floats.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

/// The cases in the folders `parents`, named by their path within `root`.
fn in_folders(root: &Path, parents: impl IntoIterator<Item = PathBuf>) -> Vec<Case> {
    let mut cases = Vec::new();
    for folder in parents.into_iter().flat_map(|parent| folders(&parent)) {
        let reference = folder.join("reference.safetensors");
        if let Ok(bytes) = std::fs::read(&reference) {
            let name = folder.strip_prefix(root).unwrap().display().to_string();
            cases.push(case(name, folder, &bytes));
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
}

fn case(name: String, folder: PathBuf, bytes: &[u8]) -> Case {
    let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
    let info = metadata.metadata().as_ref().unwrap();
    let prompt = info["prompt_length"].parse().unwrap();
    let info = info.clone();
    let file = SafeTensors::deserialize(bytes).unwrap();
    let (tokens, greedy) = (ids(&file, "tokens"), ids(&file, "greedy"));
    Case { name, folder, tokens, logits: floats(&file, "logits"), greedy, prompt, info }
}

/// `|got - expected| / |expected|` in the Euclidean norm; infinite if the lengths differ or an
/// element is not finite.
pub fn relative_l2(got: &[f32], expected: &[f32]) -> f64 {
    if got.len() != expected.len() || got.iter().any(|x| !x.is_finite()) {
        return f64::INFINITY;
    }
    let square = |x: f64| x * x;
    let pairs = got.iter().zip(expected);
    let error: f64 = pairs.map(|(&g, &e)| square(f64::from(g) - f64::from(e))).sum();
    let size: f64 = expected.iter().map(|&e| square(f64::from(e))).sum();
    (error / size).sqrt()
}

/// Index of the largest element; the first one on a tie.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = i;
        }
    }
    best as u32
}
