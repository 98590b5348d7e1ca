//! [`Checkpoint`]: the files of a model folder, opened and matched to each other.
//!
//! `config.json` describes the computation but not every tensor. Checkpoints of other programs and
//! versions use other names and stacks, and an output head may be present whatever the config says.
//! The tensors in the files decide.

use std::io;
use std::path::{Path, PathBuf};

use kinglet_models::{
    Config, MlxQuantization, ModelSpec, PredictionHead, Quantization, Stated, TensorKind, Tie,
    prediction_head, spec,
};

use crate::Error;
use crate::files::small_file::{self, Failure};
use crate::weights::folder::{explain, resolve_folder};
use crate::weights::{
    CheckOptions, Checked, Conversion, Encoding, MatrixData, MatrixView, Weights,
};
use crate::weights::{glob, unread};

/// Largest `config.json` accepted, in bytes.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Bytes of a matrix compared at a time.
const COMPARED_BYTES: usize = 4 << 20;

/// A model folder: the spec and the weights, checked against each other.
#[derive(Debug)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The folder.
    pub folder: PathBuf,
    /// The spec. Its tensor names are those of the weights.
    pub spec: ModelSpec,
    /// The quantization that the config states.
    pub quantization: Option<Quantization>,
    /// The weights.
    pub weights: Weights,
    /// The head that predicts a further token, if it was asked for
    /// ([`Checkpoint::open_with_prediction_head`]).
    pub prediction_head: Option<PredictionHead>,
    /// What was converted from foreign quantized layouts.
    pub conversion: Conversion,
    /// Other findings about the checkpoint.
    pub checked: Checked,
}

impl Checkpoint {
    /// Opens the checkpoint in `folder`: `config.json` and `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` names. Checks names, shapes and types of all tensors. For a
    /// repository in the hub's cache it opens the snapshot ([`resolve_folder`]).
    ///
    /// # Errors
    /// If a file is missing, broken or doesn't match the others.
    pub fn open(folder: impl AsRef<Path>, options: CheckOptions) -> Result<Self, Error> {
        Self::open_parts(folder.as_ref(), options, false)
    }

    /// [`Checkpoint::open`] with the head that predicts the token after the next one.
    ///
    /// # Errors
    /// [`Error::NoPredictionHead`] if the checkpoint or the family has none; those of
    /// [`Checkpoint::open`], also for the head's tensors.
    pub fn open_with_prediction_head(
        folder: impl AsRef<Path>,
        options: CheckOptions,
    ) -> Result<Self, Error> {
        Self::open_parts(folder.as_ref(), options, true)
    }

    pub(crate) fn open_parts(
        folder: &Path,
        options: CheckOptions,
        with_head: bool,
    ) -> Result<Self, Error> {
        let folder = &*resolve_folder(folder)?;
        unread::begin(folder);
        let path = folder.join("config.json");
        let whole = read_config(folder)?;
        let config = whole.language();
        if let Some(part) = config.place() {
            let (model, family) = (whole.model_type(), config.model_type());
            log::warn!(
                "config.json describes a larger model (`{}`): running only its text part (`{part}`, a {} model)",
                model.ok().flatten().unwrap_or("unnamed"),
                family.ok().flatten().unwrap_or("language"),
            );
        }
        let refused = |source| Error::Config { path: path.clone(), source };
        let quantization = match config.quantization().map_err(refused)? {
            None => quantization_beside(folder)?,
            found => found,
        };
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
        weights.fit_convs(&mut spec);
        spec.settle_tie(tie(&spec, &weights));
        weights.fit_biases(&mut spec)?;
        weights.fit_factors(&mut spec)?;
        let mut prediction_head = match with_head {
            true => Some(prediction_head_in(folder, &config, &spec, &weights)?),
            false => None,
        };
        if let Some(head) = &mut prediction_head {
            weights.fit_biases(&mut head.model)?;
        }
        let checked = weights
            .check_with(&spec, prediction_head.as_ref(), options)
            .map_err(|error| weights.incomplete(error))?;
        if let Some(Quantization::Mlx(stated)) = &quantization {
            compare(&spec, &weights, stated);
        }
        let folder = folder.into();
        Ok(Self { folder, spec, quantization, weights, prediction_head, conversion, checked })
    }
}

/// What `hf_quant_config.json` says, where older versions of NVIDIA's modelopt describe the
/// quantization.
fn quantization_beside(folder: &Path) -> Result<Option<Quantization>, Error> {
    let path = folder.join("hf_quant_config.json");
    let bytes = match small_file::read(&path, MAX_CONFIG_BYTES) {
        Ok(bytes) => bytes,
        Err(Failure::NotFound) => return Ok(None),
        Err(Failure::Io(source)) => return Err(Error::Read { path, source }),
        Err(Failure::TooLarge(bytes)) => {
            return Err(Error::TooLarge { path, bytes, limit: MAX_CONFIG_BYTES });
        }
    };
    let stated = Config::parse(&String::from_utf8_lossy(&bytes));
    let stated = stated.and_then(|config| config.quantization());
    stated.map_err(|source| Error::Config { path, source })
}

/// The head of `spec` that predicts a further token, with the names in `weights`.
fn prediction_head_in(
    folder: &Path,
    config: &Config,
    spec: &ModelSpec,
    weights: &Weights,
) -> Result<PredictionHead, Error> {
    let path = folder.join("config.json");
    let head = prediction_head(config, spec);
    let head = head.map_err(|source| Error::Config { path, source })?;
    let none = |reason: String| Error::NoPredictionHead { folder: folder.into(), reason };
    let Some(mut head) = head else {
        return Err(none(format!("{} models have none", spec.model_type)));
    };
    if !weights.names().any(|name| glob(PredictionHead::TENSORS, name)) {
        let pattern = PredictionHead::TENSORS;
        return Err(none(format!("there are no tensors {pattern}; some conversions drop them")));
    }
    if spec.is_folded() {
        let reason = "the checkpoint was converted by mlx-lm, which changes norms, and nothing tells whether it changed the head's";
        return Err(none(reason.into()));
    }
    head.fit_names(spec, &weights.names().collect::<Vec<_>>());
    Ok(head)
}

/// Reads `config.json` of `folder`.
///
/// # Errors
/// If the file can't be read or is not a JSON object; [`Error::NotAModel`] if there is none.
pub fn read_config(folder: &Path) -> Result<Config, Error> {
    let folder = resolve_folder(folder)?;
    let text = read_config_text(&folder)?;
    let path = folder.join("config.json");
    Config::parse(&text).map_err(|source| Error::Config { path, source })
}

/// Reads the text of `config.json` in a resolved folder.
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

/// Reads `config.json` of `folder` as a spec with the family's own tensor names.
/// [`Checkpoint::open`] gives it the names in the weights.
///
/// # Errors
/// If the file can't be read or parsed, or describes a model that is not supported.
pub fn read_spec(folder: &Path) -> Result<ModelSpec, Error> {
    let folder = &*resolve_folder(folder)?;
    let config = read_config(folder)?;
    let path = folder.join("config.json");
    kinglet_models::spec(&config).map_err(|source| Error::Config { path, source })
}

/// Compares the two matrices that `spec` ties, as far as the weights have them.
fn tie(spec: &ModelSpec, weights: &Weights) -> Tie {
    let Some(untied) = &spec.head.untied else { return Tie::Same };
    let (head, embedding) = (&untied.weight, &spec.embedding.table);
    match (weights.contains(&head.tensor.name), weights.contains(&embedding.tensor.name)) {
        (true, false) => Tie::HeadAlone,
        (true, true) => match (weights.matrix(head), weights.matrix(embedding)) {
            (Ok(head), Ok(embedding)) if !alike(&head, &embedding) => Tie::Different,
            // A matrix that can't be read is not used.
            _ => Tie::Same,
        },
        (false, _) => Tie::Same,
    }
}

/// Whether two matrices are equal, comparing some rows at a time. Unreadable ones count as equal;
/// the error appears when they are used.
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

/// Whether two matrices are stored the same way with the same bytes.
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

/// Warns if config and tensors disagree about a format. The tensors win: they can be read in only
/// one way.
fn compare(spec: &ModelSpec, weights: &Weights, stated: &MlxQuantization) {
    if let Some(why) = stated.impossible() {
        log::warn!("config.json states an impossible format, so the shapes decide: {why}");
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
            (tensor.name.clone(), format!("{said}, but it is {}", stored.encoding))
        });
    }
    if let Some((name, difference)) = wrong {
        log::warn!(
            "config.json states another format than the stored one for {count} tensors, such as {name}: {difference}; \
             using the stored formats"
        );
    }
}
