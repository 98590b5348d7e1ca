//! The error type of this crate.

use std::fmt;
use std::path::PathBuf;

use kinglet_models::ModelError;

use crate::offline::quantize::QuantizeError;
use crate::sampling::SamplingError;
use crate::session::saved_state::SavedStateError;
use crate::weights::WeightsError;
use crate::weights::folder::NotAModel;

/// What can go wrong between a model folder and its logits.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No model is where one was looked for.
    NotAModel(NotAModel),
    /// A file of the model folder can't be read.
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file of the model folder is larger than such a file can sensibly be.
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The largest size that is read.
        limit: u64,
    },
    /// `config.json` can't be understood or describes a model that is not supported.
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ModelError,
    },
    /// The weights can't be read or don't fit the model.
    Weights(WeightsError),
    /// A checkpoint can't be quantized.
    Quantize(QuantizeError),
    /// A token id that the embedding has no row for.
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Its place in the tokens given.
        index: usize,
        /// Rows of the embedding: ids are below this.
        vocab: usize,
    },
    /// Vectors to be fed that are not whole.
    EmbeddingsLength {
        /// Floats given.
        floats: usize,
        /// Floats of a vector.
        width: usize,
    },
    /// A vector to be fed that has an infinite element, or one that is no number.
    EmbeddingNotFinite {
        /// Its place among those given.
        vector: usize,
        /// The element's place in it.
        element: usize,
    },
    /// A run without tokens.
    EmptyRun,
    /// A session or a snapshot was given to a model that it was not made by.
    ForeignSession,
    /// A step failed half-way: the session's state is no longer that of any sequence of tokens.
    PoisonedSession,
    /// No logits are known that a token could be chosen from: the last step was asked for none.
    NoLogits,
    /// No token can be chosen.
    Sampling(SamplingError),
    /// The session would exceed the context that it was limited to.
    ContextFull {
        /// Tokens that it holds.
        held: usize,
        /// Tokens that were to be added.
        more: usize,
        /// The limit.
        limit: usize,
    },
    /// A session was to go back to a position that its state can't be brought to.
    NotReachable {
        /// The position.
        position: usize,
        /// Tokens that it holds.
        held: usize,
        /// The last position before it that can be reached.
        below: Option<usize>,
        /// The first position after it that can be reached.
        above: Option<usize>,
    },
    /// A key/value cache was to be cut where it does not reach.
    CutOutOfRange {
        /// The position.
        position: usize,
        /// Positions that it reaches to.
        held: usize,
    },
    /// A state that was given is not what the plan has in its place.
    StateForm {
        /// Its place in the plan's states.
        id: usize,
    },
    /// A saved session can't be loaded, or a session not be saved.
    SavedState {
        /// The file, if it is one.
        path: Option<PathBuf>,
        /// Why.
        source: SavedStateError,
    },
    /// The backend can't do this yet.
    Unsupported {
        /// What.
        what: &'static str,
    },
    /// The step was stopped by a [`Cancel`](crate::Cancel): the sessions are what they were before.
    Cancelled,
    /// The system has no memory for this.
    OutOfMemory {
        /// What for.
        what: &'static str,
        /// Bytes asked for.
        bytes: usize,
    },
    /// An op gave NaN or infinity (looked for in debug builds only).
    NonFinite {
        /// Index of the op in the plan.
        index: usize,
        /// Its name.
        op: &'static str,
    },
    /// The system refused a thread.
    Threads(std::io::Error),
    /// There is no adapter that can compute, or not the one that was asked for.
    NoAdapter {
        /// What was asked for.
        wanted: String,
        /// What there is, a line each; empty when there is nothing.
        found: Vec<String>,
    },
    /// The device is gone: its driver was reset, it was unplugged or switched off. Models on it must be opened again; what was
    /// written to memory or a file before ([`Session::write_to`](crate::Session::write_to)) can go on there, or on another backend.
    DeviceLost {
        /// The adapter.
        adapter: String,
        /// What the driver says.
        message: String,
    },
    /// The device has no memory for this.
    DeviceMemory {
        /// What for.
        what: &'static str,
        /// Bytes asked for.
        bytes: u64,
    },
    /// Something is larger than the device can work with.
    DeviceLimit {
        /// What.
        what: String,
        /// What it needs.
        needed: u64,
        /// What there is.
        limit: u64,
    },
    /// The device did not answer.
    DeviceTimeout {
        /// The adapter.
        adapter: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The device refused a command: a fault of Kinglet or of the driver.
    Device {
        /// The adapter.
        adapter: String,
        /// What it says.
        message: String,
    },
    /// An option is out of its range.
    Option {
        /// Its name.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is possible.
        expected: &'static str,
    },
    /// A model that shall draft has another vocabulary than the one it shall draft for.
    DraftVocabulary {
        /// Tokens that the draft model knows.
        draft: usize,
        /// Tokens that the other one knows.
        target: usize,
    },
    /// A model that shall draft means something else by a token than the one it shall draft for.
    DraftToken {
        /// The token.
        id: u32,
        /// What it is to the draft model; `None`: nothing.
        draft: Option<String>,
        /// What it is to the other one.
        target: Option<String>,
    },
}

impl Error {
    /// Whether a device is to blame, so that the same may succeed on another one or on the processor.
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
                "{} has {bytes} bytes; at most {limit} are read: is it the right file?",
                path.display()
            ),
            // The source names the file.
            Self::Config { path, source } => {
                write!(f, "{}: {source}", path.parent().unwrap_or(path).display())
            }
            Self::Weights(source) => source.fmt(f),
            Self::Quantize(source) => source.fmt(f),
            Self::TokenOutOfRange { id, index, vocab } => write!(
                f,
                "token {id} (number {index} of those given) is not in the vocabulary: ids go from 0 to {}",
                vocab.saturating_sub(1)
            ),
            Self::EmbeddingsLength { floats, width } => write!(
                f,
                "{floats} floats are no embeddings: each takes {width}, and there must be a whole number of them"
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
                write!(f, "the session can't go back to {position} of its {held} tokens: no state was retained there")?;
                match (below, above) {
                    (Some(below), Some(above)) => {
                        write!(f, "; the nearest that it can go back to are {below} and {above}")
                    }
                    (Some(near), None) | (None, Some(near)) => {
                        write!(f, "; the nearest that it can go back to is {near}")
                    }
                    (None, None) => Ok(()),
                }
            }
            Self::CutOutOfRange { position, held } => write!(
                f,
                "a key/value cache of {held} positions can't be cut at {position}: that is not held"
            ),
            Self::StateForm { id } => {
                write!(f, "state {id} is not of the form that the plan gives it")
            }
            Self::SavedState { path: Some(path), source } => {
                write!(f, "saved session {}: {source}", path.display())
            }
            Self::SavedState { path: None, source } => write!(f, "saved session: {source}"),
            Self::Unsupported { what } => write!(f, "{what} is not possible on this backend"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::PoisonedSession => f.write_str(
                "an earlier step of this session failed half-way: start a new session or go back to a snapshot",
            ),
            Self::ContextFull { held, more, limit } => write!(
                f,
                "the session holds {held} tokens; {more} more would exceed its limit of {limit}"
            ),
            Self::OutOfMemory { what, bytes } => {
                write!(f, "no memory for {what}: {bytes} bytes were refused")
            }
            Self::NonFinite { index, op } => {
                write!(f, "op {index} ({op}) gave NaN or infinity: are the weights sound?")
            }
            Self::Threads(source) => write!(f, "can't start a thread: {source}"),
            Self::NoAdapter { wanted, found } if found.is_empty() => write!(
                f,
                "there is no {wanted}: no graphics driver was found ({}); the CPU backend needs none",
                crate::GRAPHICS
            ),
            Self::NoAdapter { wanted, found } => {
                write!(f, "there is no {wanted}; found: {}", found.join("; "))
            }
            Self::DeviceLost { adapter, message } => {
                write!(f, "{adapter} was lost: {message}; open the model again")
            }
            Self::DeviceMemory { what, bytes } => write!(
                f,
                "the device has no memory for {what}: {bytes} bytes were refused; \
                 take a smaller or more strongly quantized model, or the CPU backend"
            ),
            Self::DeviceLimit { what, needed, limit } => {
                write!(f, "{what} needs {needed}; this device has {limit} at most")
            }
            Self::DraftVocabulary { draft, target } => write!(
                f,
                "the draft model knows {draft} tokens and the model {target}: take two with the same tokenizer"
            ),
            Self::DraftToken { id, draft, target } => {
                let show = |token: &Option<String>| {
                    token.as_ref().map_or("nothing".into(), |token| format!("{token:?}"))
                };
                let (draft, target) = (show(draft), show(target));
                write!(
                    f,
                    "token {id} is {draft} to the draft model and {target} to the model: take two with the same tokenizer"
                )
            }
            Self::DeviceTimeout { adapter, seconds } => {
                write!(f, "{adapter} gave no answer within {seconds} s")
            }
            Self::Device { adapter, message } => write!(f, "{adapter}: {message}"),
            Self::Option { name, value, expected } => {
                write!(f, "{name} can't be {value}: {expected}")
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

/// Makes `vec` at least `len` long; what it holds there is unspecified.
pub(crate) fn grow(vec: &mut Vec<f32>, len: usize, what: &'static str) -> Result<(), Error> {
    if vec.len() < len {
        vec.try_reserve_exact(len - vec.len())
            .map_err(|_| Error::OutOfMemory { what, bytes: len.saturating_mul(4) })?;
        vec.resize(len, 0.0);
    }
    Ok(())
}
