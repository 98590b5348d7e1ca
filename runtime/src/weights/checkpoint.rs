//! [`Checkpoint`]: the files of a model folder, opened and fitted to each other.
//!
//! `config.json` says what the model computes, but not all about its tensors: they have other names and stacks in checkpoints of
//! other programs and versions, and a head may be there or not whatever the config says. What the files hold decides.

use std::io;
use std::path::{Path, PathBuf};

use kinglet_models::{
    Config, MlxQuantization, ModelSpec, Quantization, Stated, TensorKind, Tie, spec,
};

use crate::Error;
use crate::files::small_file::{self, Failure};
use crate::weights::folder::{explain, resolve_folder};
use crate::weights::unread;
use crate::weights::{
    CheckOptions, Checked, Conversion, Encoding, MatrixData, MatrixView, Weights,
};

/// No `config.json` comes near this; a file that does is something else.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Bytes of a matrix that are compared at a time.
const COMPARED_BYTES: usize = 4 << 20;

/// A model folder: what to compute, and the weights for it, checked against each other.
#[derive(Debug)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The folder.
    pub folder: PathBuf,
    /// What the model computes; its tensors are those of the weights.
    pub spec: ModelSpec,
    /// What the config says of quantization.
    pub quantization: Option<Quantization>,
    /// The tensors.
    pub weights: Weights,
    /// What was converted from a layout that is not computed on.
    pub conversion: Conversion,
    /// What else the checkpoint holds.
    pub checked: Checked,
}

impl Checkpoint {
    /// Opens the checkpoint in `folder`: `config.json` and `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` names. Names, shapes and types of all tensors are checked. For a repository in the hub's cache
    /// its snapshot is opened ([`resolve_folder`]).
    ///
    /// # Errors
    /// When a file is missing, broken or doesn't fit the others.
    pub fn open(folder: impl AsRef<Path>, options: CheckOptions) -> Result<Self, Error> {
        let folder = &*resolve_folder(folder)?;
        unread::begin(folder);
        let path = folder.join("config.json");
        let whole = read_config(folder)?;
        let config = whole.language();
        if let Some(part) = config.place() {
            let (model, family) = (whole.model_type(), config.model_type());
            log::warn!(
                "config.json is that of a larger model (`{}`): only its text part is run (`{part}`, a {} model)",
                model.ok().flatten().unwrap_or("without a name"),
                family.ok().flatten().unwrap_or("language"),
            );
        }
        let refused = |source| Error::Config { path: path.clone(), source };
        let quantization = config.quantization().map_err(refused)?;
        let mut spec = spec(&config).map_err(refused)?;
        let mut weights = Weights::open(folder)?;
        let conversion = match &quantization {
            Some(stated) => match weights.convert(stated) {
                Ok(conversion) => conversion,
                Err(error) => return Err(weights.incomplete(error).into()),
            },
            None => Conversion::default(),
        };
        weights.fit_names(&mut spec);
        spec.settle_tie(tie(&spec, &weights));
        weights.fit_biases(&mut spec)?;
        let checked = weights.check(&spec, options).map_err(|error| weights.incomplete(error))?;
        if let Some(Quantization::Mlx(stated)) = &quantization {
            compare(&spec, &weights, stated);
        }
        Ok(Self { folder: folder.into(), spec, quantization, weights, conversion, checked })
    }
}

/// Reads `config.json` of `folder`.
///
/// # Errors
/// When the file can't be read or is no JSON object; [`Error::NotAModel`] where there is none.
pub fn read_config(folder: &Path) -> Result<Config, Error> {
    let folder = resolve_folder(folder)?;
    let text = read_config_text(&folder)?;
    let path = folder.join("config.json");
    Config::parse(&text).map_err(|source| Error::Config { path, source })
}

/// The text of `config.json` in a folder that is resolved.
pub(crate) fn read_config_text(folder: &Path) -> Result<String, Error> {
    let path = folder.join("config.json");
    let bytes = small_file::read(&path, MAX_CONFIG_BYTES).map_err(|failure| match failure {
        Failure::NotFound => Error::NotAModel(explain(folder)),
        Failure::Io(source) => Error::Read { path: path.clone(), source },
        Failure::TooLarge(bytes) => {
            Error::TooLarge { path: path.clone(), bytes, limit: MAX_CONFIG_BYTES }
        }
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let source = io::Error::new(io::ErrorKind::InvalidData, error.utf8_error());
        Error::Read { path, source }
    })
}

/// Reads `config.json` of `folder` into what the model computes, with the names that its family has for its tensors;
/// [`Checkpoint::open`] gives it with those of the weights.
///
/// # Errors
/// When the file can't be read, understood, or describes a model that is not supported.
pub fn read_spec(folder: &Path) -> Result<ModelSpec, Error> {
    let folder = &*resolve_folder(folder)?;
    let config = read_config(folder)?;
    let path = folder.join("config.json");
    kinglet_models::spec(&config).map_err(|source| Error::Config { path, source })
}

/// What the weights hold of the two matrices that `spec` ties.
fn tie(spec: &ModelSpec, weights: &Weights) -> Tie {
    let Some(untied) = &spec.head.untied else { return Tie::Same };
    let (head, embedding) = (&untied.weight, &spec.embedding.table);
    match (weights.contains(&head.tensor.name), weights.contains(&embedding.tensor.name)) {
        (true, false) => Tie::HeadAlone,
        (true, true) => match (weights.matrix(head), weights.matrix(embedding)) {
            (Ok(head), Ok(embedding)) if !alike(&head, &embedding) => Tie::Different,
            // What cannot be read is not used.
            _ => Tie::Same,
        },
        (false, _) => Tie::Same,
    }
}

/// Whether two matrices are the same, looked at by some rows at a time. What can't be read is taken for the same here, and found when it is used.
fn alike(one: &MatrixData, other: &MatrixData) -> bool {
    if (one.rows(), one.cols()) != (other.rows(), other.cols()) {
        return false;
    }
    let step = (COMPARED_BYTES / one.row_bytes().max(1)).max(1);
    (0..one.rows()).step_by(step).all(|start| {
        let rows = start..one.rows().min(start + step);
        match (one.resident(rows.clone()), other.resident(rows)) {
            (Ok(one), Ok(other)) => match (one.view(), other.view()) {
                (Ok(one), Ok(other)) => same(one, other),
                _ => true,
            },
            _ => true,
        }
    })
}

/// Whether two matrices are stored in the same way and have the same bytes.
fn same(one: MatrixView<'_>, other: MatrixView<'_>) -> bool {
    match (one, other) {
        (
            MatrixView::Dense { dtype, bytes },
            MatrixView::Dense { dtype: other_dtype, bytes: other },
        ) => dtype == other_dtype && bytes == other,
        (MatrixView::Quantized(one), MatrixView::Quantized(other)) => {
            one.format() == other.format()
                && one.scale_type() == other.scale_type()
                && one.factor() == other.factor()
                && one.codes() == other.codes()
                && one.scales() == other.scales()
                && one.biases() == other.biases()
        }
        _ => false,
    }
}

/// Warns where config and tensors disagree about a format. The tensors are followed: they can be read in one way only.
fn compare(spec: &ModelSpec, weights: &Weights, stated: &MlxQuantization) {
    if let Some(why) = stated.impossible() {
        log::warn!(
            "config.json states a format that does not exist, and the shapes are followed: {why}"
        );
    }
    let mut wrong: Option<(String, String)> = None;
    let mut count = 0;
    for (tensor, kind) in spec.tensors_by_kind() {
        let path = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
        let (TensorKind::Matrix, Ok(stored)) = (kind, weights.stored(tensor)) else { continue };
        let said = match (stated.stated(path), stored.encoding) {
            (Stated::Format(format), Encoding::Dense(_)) => format.to_string(),
            (Stated::Format(format) | Stated::Default(format), Encoding::Quantized(found))
                if format != found =>
            {
                format.to_string()
            }
            (Stated::Dense, Encoding::Quantized(_)) => "not quantized".into(),
            _ => continue,
        };
        count += 1;
        wrong.get_or_insert_with(|| {
            (tensor.name.clone(), format!("{said}; it is {}", stored.encoding))
        });
    }
    if let Some((name, difference)) = wrong {
        log::warn!(
            "config.json calls {count} tensors otherwise than they are stored, among them {name}: {difference}; \
             they are read as they are stored"
        );
    }
}
