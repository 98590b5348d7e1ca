//! The error type of this crate.

use std::fmt;
use std::path::PathBuf;

use kinglet_models::ModelError;

use crate::offline::quantize::QuantizeError;
use crate::sampling::SamplingError;
use crate::session::saved_state::SavedStateError;
use crate::weights::WeightsError;
use crate::weights::folder::NotAModel;

/// Any failure between opening a model folder and returning its logits.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The path holds no model.
    NotAModel(NotAModel),
    /// A file of the model folder can't be read.
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file of the model folder is larger than the limit for its kind.
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The largest size accepted, in bytes.
        limit: u64,
    },
    /// `config.json` is invalid, or describes a model that is not supported.
    Config {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: ModelError,
    },
    /// The weights can't be read or don't fit the model.
    Weights(WeightsError),
    /// A checkpoint can't be quantized.
    Quantize(QuantizeError),
    /// A token id has no row in the embedding.
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Index of the token in the input.
        index: usize,
        /// Rows of the embedding. Valid ids are below this.
        vocab: usize,
    },
    /// The embeddings passed in are not a whole number of vectors.
    EmbeddingsLength {
        /// Number of floats passed.
        floats: usize,
        /// Floats in one vector.
        width: usize,
    },
    /// An embedding passed in has an element that is infinite or NaN.
    EmbeddingNotFinite {
        /// Index of the vector in the input.
        vector: usize,
        /// Index of the element in the vector.
        element: usize,
    },
    /// A run has no tokens.
    EmptyRun,
    /// A session or a snapshot was used with a model that did not create it.
    ForeignSession,
    /// An earlier step failed midway, so the session's state matches no sequence of tokens.
    PoisonedSession,
    /// There are no logits to choose a token from: the last step computed none.
    NoLogits,
    /// Sampling could not choose a token.
    Sampling(SamplingError),
    /// The session would exceed its context limit.
    ContextFull {
        /// Tokens the session holds.
        held: usize,
        /// Tokens that would be added.
        more: usize,
        /// The limit, in tokens.
        limit: usize,
    },
    /// The model has learned a vector for each position, and the session would go beyond the last.
    PositionsFull {
        /// Tokens the session holds.
        held: usize,
        /// Tokens that would be added.
        more: usize,
        /// Learned positions.
        positions: usize,
    },
    /// The session's state can't be brought back to the requested position.
    NotReachable {
        /// The requested position.
        position: usize,
        /// Tokens the session holds.
        held: usize,
        /// The nearest reachable position below it.
        below: Option<usize>,
        /// The nearest reachable position above it.
        above: Option<usize>,
    },
    /// A key/value cache can't be cut at a position that it doesn't hold.
    CutOutOfRange {
        /// The requested position.
        position: usize,
        /// Positions the cache holds.
        held: usize,
    },
    /// A state passed in doesn't match the plan's state of that id.
    StateForm {
        /// Index in the plan's states.
        id: usize,
    },
    /// A saved session can't be loaded, or a session can't be saved.
    SavedState {
        /// The file, if it is one.
        path: Option<PathBuf>,
        /// The reason.
        source: SavedStateError,
    },
    /// The backend doesn't support an operation.
    Unsupported {
        /// The operation.
        what: &'static str,
    },
    /// A [`Cancel`](crate::Cancel) stopped the step. The sessions are as they were before it.
    Cancelled,
    /// The host has too little memory.
    OutOfMemory {
        /// What the memory was for.
        what: &'static str,
        /// Bytes requested.
        bytes: usize,
    },
    /// An op produced NaN or infinity. Checked in debug builds only.
    NonFinite {
        /// Index of the op in the plan.
        index: usize,
        /// Its name.
        op: &'static str,
    },
    /// The system refused to start a thread.
    Threads(std::io::Error),
    /// No usable adapter was found, or not the requested one.
    NoAdapter {
        /// The requested adapter.
        wanted: String,
        /// The adapters found, one line each. Empty if there are none.
        found: Vec<String>,
    },
    /// The device was lost: its driver was reset, or it was unplugged or switched off. Open its
    /// models again. Sessions that were saved to memory or a file before
    /// ([`Session::write_to`](crate::Session::write_to)) can go on there, or on another backend.
    DeviceLost {
        /// The adapter.
        adapter: String,
        /// The driver's message.
        message: String,
    },
    /// The device has too little memory.
    DeviceMemory {
        /// What the memory was for.
        what: &'static str,
        /// Bytes requested.
        bytes: u64,
    },
    /// Something exceeds a limit of the device.
    DeviceLimit {
        /// What exceeds it.
        what: String,
        /// The size needed.
        needed: u64,
        /// The device's limit.
        limit: u64,
    },
    /// The device did not answer in time.
    DeviceTimeout {
        /// The adapter.
        adapter: String,
        /// How long the host waited, in seconds.
        seconds: u64,
    },
    /// The device refused a command: a bug in Kinglet or in the driver.
    Device {
        /// The adapter.
        adapter: String,
        /// The driver's message.
        message: String,
    },
    /// An option is out of range.
    Option {
        /// Its name.
        name: &'static str,
        /// The value given.
        value: String,
        /// The values accepted.
        expected: &'static str,
    },
    /// The checkpoint has no head that predicts a further token.
    NoPredictionHead {
        /// The model's folder.
        folder: PathBuf,
        /// Why there is none.
        reason: String,
    },
    /// The draft model's vocabulary differs from the target model's.
    DraftVocabulary {
        /// Tokens in the draft model's vocabulary.
        draft: usize,
        /// Tokens in the target model's vocabulary.
        target: usize,
    },
    /// A token id stands for different text in the draft model and in the target model.
    DraftToken {
        /// The id.
        id: u32,
        /// The draft model's token; `None` if it has none.
        draft: Option<String>,
        /// The target model's token; `None` if it has none.
        target: Option<String>,
    },
}

impl Error {
    /// Whether the device is at fault, so that the same call may succeed on another device or on
    /// the CPU.
    pub fn is_of_device(&self) -> bool {
        matches!(
            self,
            Self::NoAdapter { .. }
                | Self::DeviceLost { .. }
                | Self::DeviceMemory { .. }
                | Self::DeviceLimit { .. }
                | Self::DeviceTimeout { .. }
                | Self::Device { .. }
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAModel(source) => source.fmt(f),
            Self::Read { path, source } => write!(f, "can't read {}: {source}", path.display()),
            Self::TooLarge { path, bytes, limit } => write!(
                f,
                "{} has {bytes} bytes, more than the limit of {limit}; is it the right file?",
                path.display()
            ),
            Self::Config { path, source } => {
                // `source` calls every file config.json.
                let said = source.to_string();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let said = match said.strip_prefix("config.json") {
                    Some(rest) if !name.is_empty() => format!("{name}{rest}"),
                    _ => said,
                };
                write!(f, "{}: {said}", path.parent().unwrap_or(path).display())
            }
            Self::Weights(source) => source.fmt(f),
            Self::Quantize(source) => source.fmt(f),
            Self::TokenOutOfRange { id, index, vocab } => write!(
                f,
                "token {id} (at index {index}) is not in the vocabulary: ids go from 0 to {}",
                vocab.saturating_sub(1)
            ),
            Self::EmbeddingsLength { floats, width } => write!(
                f,
                "{floats} floats are not a whole number of embeddings of {width} each"
            ),
            Self::EmbeddingNotFinite { vector, element } => {
                write!(f, "element {element} of embedding {vector} is not finite")
            }
            Self::NoLogits => f.write_str("there are no logits to choose a token from: feed the last tokens with logits"),
            Self::Sampling(source) => source.fmt(f),
            Self::EmptyRun => f.write_str("a run needs at least one token"),
            Self::ForeignSession => f.write_str("the session belongs to another model"),
            Self::NotReachable { position, held, .. } if position > held => {
                write!(f, "the session holds {held} tokens: it can't go back to {position}")
            }
            Self::NotReachable { position, held, below, above } => {
                write!(f, "the session can't go back to {position} of its {held} tokens: no state is retained there")?;
                match (below, above) {
                    (Some(below), Some(above)) => {
                        write!(f, "; the nearest reachable positions are {below} and {above}")
                    }
                    (Some(near), None) | (None, Some(near)) => {
                        write!(f, "; the nearest reachable position is {near}")
                    }
                    (None, None) => Ok(()),
                }
            }
            Self::CutOutOfRange { position, held } => write!(
                f,
                "a key/value cache of {held} positions can't be cut at {position}"
            ),
            Self::StateForm { id } => {
                write!(f, "state {id} doesn't match the plan")
            }
            Self::SavedState { path: Some(path), source } => {
                write!(f, "saved session {}: {source}", path.display())
            }
            Self::SavedState { path: None, source } => write!(f, "saved session: {source}"),
            Self::Unsupported { what } => write!(f, "this backend doesn't support {what}"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::PoisonedSession => f.write_str(
                "an earlier step of this session failed midway: start a new session or go back to a snapshot",
            ),
            Self::ContextFull { held, more, limit } => write!(
                f,
                "the session holds {held} tokens; {more} more would exceed its limit of {limit}"
            ),
            Self::PositionsFull { held, more, positions } => write!(
                f,
                "the session holds {held} tokens; {more} more would go beyond the {positions} positions that the model has learned \
                 (`max_position_embeddings`)"
            ),
            Self::OutOfMemory { what, bytes } => {
                write!(f, "not enough memory for {what} ({bytes} bytes)")
            }
            Self::NonFinite { index, op } => {
                write!(f, "op {index} ({op}) produced NaN or infinity; are the weights intact?")
            }
            Self::Threads(source) => write!(f, "can't start a thread: {source}"),
            Self::NoAdapter { wanted, found } if found.is_empty() => write!(
                f,
                "no {wanted}: found no graphics driver ({}); the CPU backend needs none",
                crate::GRAPHICS
            ),
            Self::NoAdapter { wanted, found } => {
                write!(f, "no {wanted}; found: {}", found.join("; "))
            }
            Self::DeviceLost { adapter, message } => {
                write!(f, "{adapter} was lost: {message}; open the model again")
            }
            Self::DeviceMemory { what, bytes } => write!(
                f,
                "the device has too little memory for {what} ({bytes} bytes); \
                 use a smaller model, fewer bits per weight, or the CPU backend"
            ),
            Self::DeviceLimit { what, needed, limit } => {
                write!(f, "{what} needs {needed}; the limit of this device is {limit}")
            }
            Self::NoPredictionHead { folder, reason } => write!(
                f,
                "{} has no head that predicts further tokens (multi-token prediction): {reason}",
                folder.display()
            ),
            Self::DraftVocabulary { draft, target } => write!(
                f,
                "the draft model has {draft} tokens and the target model {target}; both must have the same tokenizer"
            ),
            Self::DraftToken { id, draft, target } => {
                let show = |token: &Option<String>| {
                    token.as_ref().map_or("nothing".into(), |token| format!("{token:?}"))
                };
                let (draft, target) = (show(draft), show(target));
                write!(
                    f,
                    "token {id} is {draft} in the draft model and {target} in the target model; both must have the same tokenizer"
                )
            }
            Self::DeviceTimeout { adapter, seconds } => {
                write!(f, "{adapter} did not answer within {seconds} s")
            }
            Self::Device { adapter, message } => write!(f, "{adapter}: {message}"),
            Self::Option { name, value, expected } => {
                write!(f, "{name} can't be {value}: expected {expected}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } | Self::Threads(source) => Some(source),
            Self::NotAModel(source) => Some(source),
            Self::Config { source, .. } => Some(source),
            Self::Weights(source) => Some(source),
            Self::Quantize(source) => Some(source),
            Self::Sampling(source) => Some(source),
            Self::SavedState { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<NotAModel> for Error {
    fn from(source: NotAModel) -> Self {
        Self::NotAModel(source)
    }
}

impl From<WeightsError> for Error {
    fn from(source: WeightsError) -> Self {
        Self::Weights(source)
    }
}

impl From<QuantizeError> for Error {
    fn from(source: QuantizeError) -> Self {
        Self::Quantize(source)
    }
}

impl From<SamplingError> for Error {
    fn from(source: SamplingError) -> Self {
        Self::Sampling(source)
    }
}

/// Grows `vec` to at least `len` elements. Their values are unspecified.
pub(crate) fn grow(vec: &mut Vec<f32>, len: usize, what: &'static str) -> Result<(), Error> {
    if vec.len() < len {
        vec.try_reserve_exact(len - vec.len())
            .map_err(|_| Error::OutOfMemory { what, bytes: len.saturating_mul(4) })?;
        vec.resize(len, 0.0);
    }
    Ok(())
}
