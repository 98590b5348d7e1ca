//! Checks a checkpoint against its model before anything runs.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

use kinglet_models::{ModelSpec, PredictionHead, TensorKind, TensorSpec};
use kinglet_quant::{Format, Mode};
use safetensors::Dtype;

use super::error::{Name, Shape, WeightsError};
use super::header::Entry;
use super::quantized::{QuantizedError, companions};
use super::{Weights, dense_dtype, same_elements};

/// How strict [`Weights::check`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Whether tensors that the model doesn't use are an error. If not, one warning lists them in
    /// short. Most are harmless (heads that predict further tokens, buffers of old versions, vision
    /// towers), but an unused bias means wrong results.
    pub strict: bool,
}

/// What a successful check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Tensors that the model does not use, and that its family is known to have.
    pub ignored: Vec<String>,
    /// Other tensors that the model does not use; none with [`CheckOptions::strict`].
    pub surplus: Vec<String>,
}

/// One way in which a checkpoint does not match its model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// A tensor is missing.
    Missing {
        /// The tensor.
        tensor: String,
        /// The expected shape.
        shape: Vec<usize>,
        /// An unused tensor with nearly this name.
        similar: Option<String>,
    },
    /// A tensor has the wrong shape.
    WrongShape {
        /// The tensor.
        tensor: String,
        /// The expected shape.
        expected: Vec<usize>,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A needed tensor is neither F32, F16 or BF16 nor a quantized matrix.
    UnsupportedDtype {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
    },
    /// A quantized tensor, or one of its companions, is invalid.
    Quantized {
        /// The tensor that holds the codes.
        tensor: String,
        /// The problem.
        error: QuantizedError,
    },
    /// The model does not use a tensor. An error with [`CheckOptions::strict`]; otherwise only
    /// listed along with other problems.
    Surplus {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { tensor, shape, similar } => {
                write!(f, "{} of shape {} is missing", Name(tensor), Shape(shape))?;
                match similar {
                    Some(similar) => write!(f, "; found {}", Name(similar)),
                    None => Ok(()),
                }
            }
            Self::WrongShape { tensor, expected, found } => write!(
                f,
                "{} has shape {}, expected {}",
                Name(tensor),
                Shape(found),
                Shape(expected)
            ),
            Self::UnsupportedDtype { tensor, dtype } => {
                write!(f, "{} has dtype {dtype}, expected F32, F16 or BF16", Name(tensor))
            }
            Self::Quantized { tensor, error } => {
                write!(f, "{} is not a valid quantized tensor: {error}", Name(tensor))
            }
            Self::Surplus { tensor, shape } => {
                write!(f, "{} of shape {} is not part of the model", Name(tensor), Shape(shape))
            }
        }
    }
}

/// All ways in which a checkpoint does not match its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// `model_type` of the model.
    pub model_type: String,
    /// The problems; never empty. Missing tensors come first, surplus ones last.
    pub problems: Vec<Problem>,
}

impl Mismatch {
    /// The missing tensors.
    pub(super) fn missing(&self) -> impl Iterator<Item = &str> {
        self.problems.iter().filter_map(|problem| match problem {
            Problem::Missing { tensor, .. } => Some(&**tensor),
            _ => None,
        })
    }
}

/// Most problems that a message lists; it counts the others.
const LISTED: usize = 20;

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |of: fn(&Problem) -> bool| self.problems.iter().filter(|p| of(p)).count();
        let missing = count(|p| matches!(p, Problem::Missing { .. }));
        let shapes = count(|p| matches!(p, Problem::WrongShape { .. }));
        let dtypes = count(|p| matches!(p, Problem::UnsupportedDtype { .. }));
        let quantized = count(|p| matches!(p, Problem::Quantized { .. }));
        let surplus = count(|p| matches!(p, Problem::Surplus { .. }));
        write!(f, "the weights do not match config.json (a {} model): ", Name(&self.model_type))?;
        let mut separator = "";
        for (count, what) in [
            (missing, "missing"),
            (shapes, "of wrong shape"),
            (dtypes, "of an unsupported dtype"),
            (quantized, "wrongly quantized"),
            (surplus, "not part of the model"),
        ] {
            if count > 0 {
                let s = if count == 1 { "" } else { "s" };
                write!(f, "{separator}{count} tensor{s} {what}")?;
                separator = ", ";
            }
        }
        // The first problem is on the first line, for callers that print only that.
        if let Some(first) = self.problems.first() {
            write!(f, ": {first}")?;
        }
        for problem in self.problems.iter().take(LISTED).skip(1) {
            write!(f, "\n  {problem}")?;
        }
        let more = self.problems.len().saturating_sub(LISTED);
        if more > 0 { write!(f, "\n  and {more} more") } else { Ok(()) }
    }
}

impl Weights {
    /// Checks names, shapes and dtypes against what `spec` needs, and reports every difference at
    /// once.
    ///
    /// # Errors
    /// [`WeightsError::Mismatch`] with all tensors that are missing, have the wrong shape or an
    /// unsupported type, or (with [`CheckOptions::strict`]) are not part of the model.
    pub fn check(&self, spec: &ModelSpec, options: CheckOptions) -> Result<Checked, WeightsError> {
        self.check_with(spec, None, options)
    }

    /// [`Weights::check`] of a model together with a head that predicts a further token.
    pub(super) fn check_with(
        &self,
        spec: &ModelSpec,
        head: Option<&PredictionHead>,
        options: CheckOptions,
    ) -> Result<Checked, WeightsError> {
        let mut needed = spec.tensors_by_kind();
        let known: HashSet<_> = needed.iter().map(|(tensor, _)| *tensor).collect();
        let more = head.into_iter().flat_map(PredictionHead::tensors_by_kind);
        needed.extend(more.filter(|(tensor, _)| !known.contains(tensor)));
        let (mut missing, mut problems) = (Vec::new(), Vec::new());
        let mut names: HashSet<Cow<'_, str>> = HashSet::new();
        for (tensor, kind) in needed {
            names.insert(tensor.name.as_str().into());
            match self.entry(&tensor.name) {
                None => missing.push(tensor),
                Some(entry) if entry.dtype == Dtype::U32 => {
                    let beside = self.check_quantized(tensor, kind, &mut problems);
                    names.extend(beside.into_iter().map(Cow::from));
                }
                Some(entry) => check_dense(entry, tensor, kind, &mut problems),
            }
        }

        let mut checked = Checked::default();
        let mut surplus = Vec::new();
        for entry in &self.entries {
            if names.contains(&*entry.name) {
                continue;
            }
            if self.is_ignored(spec, &entry.name) {
                checked.ignored.push(entry.name.to_string());
            } else {
                surplus.push(entry);
            }
        }

        let spare: Vec<&str> = surplus.iter().map(|entry| &*entry.name).collect();
        let missing = missing.into_iter().enumerate().map(|(i, tensor)| Problem::Missing {
            tensor: tensor.name.clone(),
            shape: tensor.shape.clone(),
            // This searches all names, so only do it for problems that are listed.
            similar: if i < LISTED { similar(&tensor.name, &spare) } else { None },
        });
        problems.splice(..0, missing);
        // If a matrix has companions that it doesn't use, its meaning is ambiguous.
        let doubtful = |name: &str| {
            let stem = COMPANIONS.iter().find_map(|part| name.strip_suffix(part));
            stem.is_some_and(|stem| names.contains(format!("{stem}.weight").as_str()))
        };
        let doubt = spare.iter().any(|name| doubtful(name));
        // Surplus tensors may explain the other problems.
        if options.strict || doubt || !problems.is_empty() {
            problems.extend(surplus.iter().map(|entry| Problem::Surplus {
                tensor: entry.name.to_string(),
                shape: entry.shape.to_vec(),
            }));
        }
        if !problems.is_empty() {
            let model_type = spec.model_type.clone();
            return Err(WeightsError::Mismatch(Mismatch { model_type, problems }));
        }
        if !spare.is_empty() {
            let s = if spare.len() == 1 { " is" } else { "s are" };
            let listed = summarize(&spare, names.iter().map(|name| &**name));
            log::warn!("{} tensor{s} not used by the model: {listed}", spare.len());
        }
        checked.surplus = spare.iter().map(|name| name.to_string()).collect();
        Ok(checked)
    }
}

impl Weights {
    /// Checks a quantized tensor, adds its problems, and returns the names of its companions.
    fn check_quantized(
        &self,
        tensor: &TensorSpec,
        kind: TensorKind,
        problems: &mut Vec<Problem>,
    ) -> Vec<String> {
        let name = &tensor.name;
        let all = companions(name).unwrap_or_default();
        let error = match (kind, self.packed(tensor)) {
            (TensorKind::Matrix, Ok(Some(packed))) => {
                let [scales, biases, global] = all;
                return match packed.format().map(Format::mode) {
                    Some(Mode::Affine) => vec![scales, biases],
                    Some(Mode::NvFp4) => vec![scales, global],
                    _ => vec![scales],
                };
            }
            (TensorKind::Matrix, Ok(None)) => None,
            (TensorKind::Matrix, Err(WeightsError::Quantized { error, .. })) => Some(error),
            (TensorKind::Matrix, Err(WeightsError::WrongShape { expected, found, .. })) => {
                problems.push(Problem::WrongShape { tensor: name.clone(), expected, found });
                return all.into();
            }
            (TensorKind::Matrix, Err(_)) => None,
            (TensorKind::Conv | TensorKind::Vector, _) => Some(QuantizedError::NotAMatrix),
        };
        let tensor = name.clone();
        problems.push(match error {
            Some(error) => Problem::Quantized { tensor, error },
            None => Problem::UnsupportedDtype { tensor, dtype: Dtype::U32.to_string() },
        });
        // Without the tensor they belong to, they can't be checked.
        all.into()
    }

    /// Whether the family is known not to use a tensor, or the quantized tensor that it belongs to.
    fn is_ignored(&self, spec: &ModelSpec, name: &str) -> bool {
        let ignored = |name: &str| spec.ignored.iter().any(|pattern| matches(pattern, name));
        let owner = COMPANIONS
            .into_iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .map(|prefix| format!("{prefix}.weight"));
        ignored(name) || owner.is_some_and(|owner| ignored(&owner) && self.contains(&owner))
    }
}

/// Checks a dense tensor and adds its problems.
fn check_dense(entry: &Entry, tensor: &TensorSpec, kind: TensorKind, problems: &mut Vec<Problem>) {
    let fits = match kind {
        TensorKind::Conv => same_elements(&tensor.shape, &entry.shape),
        TensorKind::Matrix | TensorKind::Vector => *entry.shape == *tensor.shape,
    };
    if !fits {
        problems.push(Problem::WrongShape {
            tensor: tensor.name.clone(),
            expected: tensor.shape.clone(),
            found: entry.shape.to_vec(),
        });
    }
    if dense_dtype(entry.dtype).is_none() {
        let (tensor, dtype) = (tensor.name.clone(), entry.dtype.to_string());
        problems.push(Problem::UnsupportedDtype { tensor, dtype });
    }
}

/// Suffixes of the companions of a quantized tensor.
const COMPANIONS: [&str; 3] = [".scales", ".biases", ".global_scale"];

/// Most groups of unused tensors that a warning lists; it counts the others.
const GROUPS: usize = 6;

/// Names of unused tensors in short: `MODULE.*` for modules that are entirely unused, and `*` for
/// numbers that differ.
fn summarize<'a>(unused: &[&str], used: impl Iterator<Item = &'a str>) -> String {
    // All prefixes of paths to used tensors.
    let mut paths: HashSet<&str> = HashSet::new();
    for name in used {
        let mut dots = name.match_indices('.').map(|(at, _)| at).collect::<Vec<_>>();
        while let Some(path) = dots.pop().and_then(|at| name.get(..at)) {
            if !paths.insert(path) {
                break;
            }
        }
    }
    let module = |name: &str| -> String {
        let ends = name.match_indices('.').map(|(at, _)| at);
        let mut modules = ends.filter_map(|at| name.get(..at));
        match modules.find(|module| !paths.contains(module)) {
            Some(module) => format!("{module}.*"),
            None => name.into(),
        }
    };
    // Groups in the order of their first tensors: the pattern, whether it is a single name, and the
    // number of tensors.
    let mut order: Vec<String> = Vec::new();
    let mut groups: HashMap<String, (String, bool, usize)> = HashMap::new();
    for name in unused {
        let module = module(name);
        let parts = module.split('.');
        let number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let parts = parts.map(|part| if number(&part) { "*" } else { part });
        let pattern = parts.collect::<Vec<_>>().join(".");
        let group = groups.entry(pattern.clone()).or_insert_with(|| {
            order.push(pattern);
            (module.clone(), true, 0)
        });
        group.1 &= group.0 == module;
        group.2 += 1;
    }
    let mut text = String::new();
    for pattern in order.iter().take(GROUPS) {
        let Some((module, single, count)) = groups.get(pattern) else { continue };
        let separator = if text.is_empty() { "" } else { ", " };
        let name = if *single { module } else { pattern };
        text += &format!("{separator}{}", Name(name));
        if *count > 1 {
            text += &format!(" ({count})");
        }
    }
    let rest: usize = order.iter().skip(GROUPS).filter_map(|p| Some(groups.get(p)?.2)).sum();
    if rest > 0 {
        text += &format!(" and {rest} more");
    }
    text
}

/// A name among `spare` that differs from `name` only in its prefix.
fn similar(name: &str, spare: &[&str]) -> Option<String> {
    let ends = |long: &str, short: &str| {
        long.strip_suffix(short).is_some_and(|prefix| prefix.ends_with('.'))
    };
    let base = |name: &'_ str| name.split_once('.').map(|(_, rest)| rest.to_string());
    let wanted = base(name);
    spare
        .iter()
        .find(|other| ends(name, other) || ends(other, name))
        .or_else(|| spare.iter().find(|other| wanted.is_some() && base(other) == wanted))
        .map(|other| other.to_string())
}

/// Whether `text` matches `pattern`, in which `*` stands for any run of characters.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        // The first match is the best: it leaves the most for the rest.
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "a.b"),
            ("a.b", "a.b"),
            ("lm_head.*", "lm_head.weight"),
            ("*.inv_freq", "model.layers.0.rotary_emb.inv_freq"),
            ("model.layers.*.rotary_emb.*", "model.layers.11.rotary_emb.inv_freq"),
            ("a*b*c", "abbc"),
            ("a*bc*bc", "abcbc"),
            ("**a**", "bab"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("a", ""),
            ("a", "ab"),
            ("a*", "ba"),
            ("*a", "ab"),
            ("a*a", "a"),
            ("a*b*c", "acb"),
            ("a*bc*bc", "abc"),
            ("a.b", "axb"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn unused_tensors_are_listed_in_short() {
        let used = ["model.embed.weight", "model.layers.0.mlp.up.weight", "model.norm.weight"];
        let short = |unused: &[&str]| summarize(unused, used.into_iter());
        assert_eq!(short(&["score.weight"]), "`score.*`");
        assert_eq!(short(&["extra"]), "`extra`");
        let vision: Vec<String> = (0..300).map(|i| format!("vision.layers.{i}.w")).collect();
        let mut all: Vec<&str> = vision.iter().map(String::as_str).collect();
        all.extend(["mtp.0.a.weight", "mtp.0.b.weight", "model.norm.bias"]);
        assert_eq!(short(&all), "`vision.*` (300), `mtp.*` (2), `model.norm.bias`");
        let layers = ["model.layers.0.mlp.mask", "model.layers.1.mlp.mask", "model.layers.1.x.y"];
        assert_eq!(short(&layers[..1]), "`model.layers.0.mlp.mask`");
        assert_eq!(short(&layers[1..]), "`model.layers.1.*` (2)");
        let used = ["model.layers.0.mlp.up", "model.layers.1.mlp.up", "model.layers.12.mlp.up"];
        let masks = ["model.layers.0.mlp.mask", "model.layers.12.mlp.mask"];
        assert_eq!(summarize(&masks, used.into_iter()), "`model.layers.*.mlp.mask` (2)");
        let many: Vec<String> = (0..100).map(|i| format!("m{i}.weight")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let text = short(&many);
        assert!(text.ends_with("`m5.*` and 94 more"), "{text}");
        assert!(short(&[&"x".repeat(100_000)]).len() < 200);
    }

    #[test]
    fn a_similar_name_differs_in_its_prefix() {
        let spare = ["transformer.wte.weight", "layers.0.norm.weight", "backbone.norm_f.weight"];
        let similar = |name| similar(name, &spare);
        assert_eq!(similar("model.layers.0.norm.weight").as_deref(), Some("layers.0.norm.weight"));
        assert_eq!(similar("wte.weight").as_deref(), Some("transformer.wte.weight"));
        assert_eq!(similar("model.norm_f.weight").as_deref(), Some("backbone.norm_f.weight"));
        assert_eq!(similar("model.layers.10.norm.weight"), None);
        assert_eq!(similar("weight"), Some("transformer.wte.weight".into()));
        assert_eq!(similar("te.weight"), None);
    }
}
