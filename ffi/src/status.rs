//! Status codes, and the status of each error.

use std::borrow::Cow;

use kinglet::Error;
use kinglet::answer::AnswerError;
use kinglet::sampling::SamplingError;
use kinglet::text::TextError;
use kinglet::weights::WeightsError;

/// Result of a call. Errors are negative; new ones may be added, so treat every negative number as
/// an error. `kinglet_last_error` returns the message.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kinglet_status {
    /// Success.
    KINGLET_OK = 0,
    /// Only `kinglet_generation_next`: the answer is complete, there is no further token.
    KINGLET_DONE = 1,
    /// An argument is null where it must not be, out of range, or inconsistent with another.
    KINGLET_INVALID_ARGUMENT = -1,
    /// A handle is invalid: it was deleted, is of another kind, or never came from Kinglet.
    KINGLET_INVALID_HANDLE = -2,
    /// A text is not UTF-8.
    KINGLET_INVALID_UTF8 = -3,
    /// A length or a count exceeds its limit.
    KINGLET_TOO_LARGE = -4,
    /// The object is in use by another call: on another thread, or the one that called this
    /// callback.
    KINGLET_BUSY = -5,
    /// The call was cancelled, by `kinglet_session_cancel` or by a progress callback.
    KINGLET_CANCELLED = -6,
    /// A file or folder does not exist.
    KINGLET_NOT_FOUND = -7,
    /// The system refused to read or write a file.
    KINGLET_IO = -8,
    /// The model's files are broken, contradict each other, or describe a model that is not supported.
    KINGLET_BAD_MODEL = -9,
    /// This build, backend or system does not support it.
    KINGLET_UNSUPPORTED = -10,
    /// Out of memory.
    KINGLET_OUT_OF_MEMORY = -11,
    /// An earlier call on this session failed halfway. Reset it, restore a snapshot, or delete it.
    KINGLET_POISONED = -12,
    /// The session would exceed its token limit.
    KINGLET_CONTEXT_FULL = -13,
    /// The session can't return to this position.
    KINGLET_NOT_REACHABLE = -14,
    /// Invalid JSON, messages that the template refuses, or a text that the tokenizer fails on.
    KINGLET_TEXT = -15,
    /// The sampler can't choose a token.
    KINGLET_SAMPLING = -16,
    /// The objects don't fit this call: another model's session, or a generation whose session
    /// continued without it.
    KINGLET_INVALID_STATE = -17,
    /// A saved session is damaged, or belongs to another model.
    KINGLET_BAD_SAVED_STATE = -18,
    /// The program was compiled for another version of this interface.
    KINGLET_ABI_MISMATCH = -19,
    /// A bug in Kinglet that was caught. Please report it. The session that the call worked on is
    /// poisoned.
    KINGLET_INTERNAL = -20,
}

/// A failed call: its status, and the message for `kinglet_last_error`.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) status: kinglet_status,
    pub(crate) message: Cow<'static, str>,
}

impl Failure {
    pub(crate) fn new(status: kinglet_status, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn argument(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(kinglet_status::KINGLET_INVALID_ARGUMENT, message)
    }
}

fn of_io(error: &std::io::Error) -> kinglet_status {
    match error.kind() {
        std::io::ErrorKind::NotFound => kinglet_status::KINGLET_NOT_FOUND,
        std::io::ErrorKind::OutOfMemory => kinglet_status::KINGLET_OUT_OF_MEMORY,
        _ => kinglet_status::KINGLET_IO,
    }
}

fn of_weights(error: &WeightsError) -> kinglet_status {
    match error {
        WeightsError::NoWeights { .. }
        | WeightsError::NotAFolder { .. }
        | WeightsError::DanglingLink { .. }
        | WeightsError::Incomplete { .. } => kinglet_status::KINGLET_NOT_FOUND,
        WeightsError::Io { source, .. } => of_io(source),
        WeightsError::Cancelled => kinglet_status::KINGLET_CANCELLED,
        WeightsError::Shrunk { .. } => kinglet_status::KINGLET_IO,
        _ => kinglet_status::KINGLET_BAD_MODEL,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        use kinglet_status::*;
        if let Error::Sampling(error) = error {
            return error.into();
        }
        let status = match &error {
            Error::NotAModel(_) => KINGLET_NOT_FOUND,
            Error::Read { source, .. } => of_io(source),
            Error::TooLarge { .. } | Error::Config { .. } | Error::NonFinite { .. } => {
                KINGLET_BAD_MODEL
            }
            Error::Weights(error) => of_weights(error),
            Error::TokenOutOfRange { .. }
            | Error::EmptyRun
            | Error::EmbeddingsLength { .. }
            | Error::EmbeddingNotFinite { .. }
            | Error::DraftVocabulary { .. }
            | Error::DraftToken { .. }
            | Error::Option { .. } => KINGLET_INVALID_ARGUMENT,
            Error::ForeignSession | Error::StateForm { .. } => KINGLET_INVALID_STATE,
            Error::NoLogits => return crate::session::no_logits(),
            Error::PoisonedSession => KINGLET_POISONED,
            Error::ContextFull { .. } | Error::PositionsFull { .. } => KINGLET_CONTEXT_FULL,
            Error::NotReachable { .. } | Error::CutOutOfRange { .. } => KINGLET_NOT_REACHABLE,
            Error::SavedState { source, .. } => of_saved(source),
            Error::Unsupported { .. } => KINGLET_UNSUPPORTED,
            Error::Cancelled => KINGLET_CANCELLED,
            Error::OutOfMemory { .. } | Error::Threads(_) => KINGLET_OUT_OF_MEMORY,
            _ => KINGLET_INTERNAL,
        };
        Self::new(status, error.to_string())
    }
}

impl From<AnswerError> for Failure {
    fn from(error: AnswerError) -> Self {
        use kinglet_status::*;
        let message = error.to_string();
        match error {
            AnswerError::Engine(error) => error.into(),
            AnswerError::Text(error) => error.into(),
            AnswerError::Defaults(error) | AnswerError::Sampling(error) => {
                Self { message: message.into(), ..error.into() }
            }
            AnswerError::PromptTooLong { .. } => Self::new(KINGLET_CONTEXT_FULL, message),
            AnswerError::EmptyPrompt | AnswerError::EmptyBreaker { .. } => {
                Self::new(KINGLET_INVALID_ARGUMENT, message)
            }
            AnswerError::NoTokenizer { .. } => Self::new(KINGLET_NOT_FOUND, message),
            AnswerError::SessionUsed => Self::new(KINGLET_INVALID_STATE, message),
            _ => Self::new(KINGLET_INTERNAL, message),
        }
    }
}

/// An I/O error has its own status; any other error means a bad saved session.
fn of_saved(error: &kinglet::SavedStateError) -> kinglet_status {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return of_io(io);
        }
        source = error.source();
    }
    kinglet_status::KINGLET_BAD_SAVED_STATE
}

impl From<WeightsError> for Failure {
    fn from(error: WeightsError) -> Self {
        Self::new(of_weights(&error), error.to_string())
    }
}

impl From<TextError> for Failure {
    fn from(error: TextError) -> Self {
        use kinglet_status::*;
        let status = match &error {
            TextError::Io { source, .. } => of_io(source),
            TextError::NoChatTemplate { .. } => KINGLET_NOT_FOUND,
            TextError::FileTooLarge { .. }
            | TextError::Json { .. }
            | TextError::Field { .. }
            | TextError::Tokenizer { .. }
            | TextError::VocabularyTooLarge { .. }
            | TextError::TemplateSyntax { .. }
            | TextError::TemplateTooComplex { .. } => KINGLET_BAD_MODEL,
            TextError::Stop { .. } | TextError::NoSuchChatTemplate { .. } => {
                KINGLET_INVALID_ARGUMENT
            }
            _ => KINGLET_TEXT,
        };
        Self::new(status, error.to_string())
    }
}

impl From<SamplingError> for Failure {
    fn from(error: SamplingError) -> Self {
        let status = match &error {
            SamplingError::Option { .. } | SamplingError::Token { .. } => {
                kinglet_status::KINGLET_INVALID_ARGUMENT
            }
            _ => kinglet_status::KINGLET_SAMPLING,
        };
        Self::new(status, error.to_string())
    }
}
