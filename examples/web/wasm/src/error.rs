//! Errors as JavaScript's `Error`, with a `code` for programs.

use js_sys::{Error as JsError, Reflect};
use kinglet::answer::AnswerError;
use kinglet::text::TextError;
use kinglet::weights::WeightsError;
use kinglet::{Error, SavedStateError};
use wasm_bindgen::JsValue;

/// An error to throw in JavaScript.
#[derive(Debug)]
pub(crate) enum Failure {
    /// From the engine.
    Engine(Error),
    /// From the tokenizer or the template.
    Text(TextError),
    /// An invalid argument.
    Argument(String),
    /// The prompt leaves no room for an answer.
    Full(String),
    /// Another call is still running.
    Busy,
    /// An exception thrown by the page's hook.
    Page(JsValue),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<TextError> for Failure {
    fn from(error: TextError) -> Self {
        Self::Text(error)
    }
}

impl From<kinglet::sampling::SamplingError> for Failure {
    fn from(error: kinglet::sampling::SamplingError) -> Self {
        Self::Engine(Error::Sampling(error))
    }
}

impl From<AnswerError> for Failure {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Engine(error) => Self::Engine(error),
            AnswerError::Text(error) => Self::Text(error),
            AnswerError::PromptTooLong { .. } => Self::Full(error.to_string()),
            error => Self::Argument(error.to_string()),
        }
    }
}

/// The code of an engine error.
fn code(error: &Error) -> &'static str {
    match error {
        Error::NotAModel(_) | Error::Read { .. } | Error::TooLarge { .. } => "file",
        Error::Config { .. } => "config",
        Error::Weights(WeightsError::Io { .. }) => "file",
        Error::Weights(WeightsError::OutOfMemory { .. }) => "memory",
        Error::Weights(_) => "weights",
        Error::OutOfMemory { .. } => "memory",
        Error::DeviceMemory { .. } | Error::DeviceLimit { .. } => "device-memory",
        Error::DeviceLost { .. } | Error::DeviceTimeout { .. } => "device-lost",
        Error::NoAdapter { .. } => "no-webgpu",
        Error::Device { .. } => "device",
        Error::ContextFull { .. } | Error::PositionsFull { .. } => "context-full",
        Error::Cancelled => "aborted",
        Error::SavedState { source: SavedStateError::Io { .. }, .. } => "file",
        Error::SavedState { .. } => "saved-state",
        Error::Option { .. } | Error::Sampling(_) | Error::EmptyRun => "argument",
        _ => "engine",
    }
}

/// The message without the virtual folder of mounted files, which means nothing outside.
fn without_mount(message: &str) -> String {
    let mut parts = message.split("kinglet-files:");
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        match rest.strip_prefix('/') {
            Some(file) => out.push_str(file),
            None => out.extend(["the model's folder", rest]),
        }
    }
    out
}

impl From<Failure> for JsValue {
    fn from(failure: Failure) -> Self {
        let (code, message) = match failure {
            Failure::Engine(error) => (code(&error), error.to_string()),
            Failure::Text(error) => ("text", error.to_string()),
            Failure::Argument(message) => ("argument", message),
            Failure::Full(message) => ("context-full", message),
            Failure::Busy => ("busy", "another call of this model is still running".into()),
            Failure::Page(thrown) => return thrown,
        };
        let error = JsError::new(&without_mount(&message));
        // Setting a property on a new object can't fail.
        let _ = Reflect::set(&error, &"code".into(), &code.into());
        error.into()
    }
}

/// The message of a thrown value.
pub(crate) fn message(thrown: &JsValue) -> String {
    let message = Reflect::get(thrown, &"message".into()).ok().and_then(|text| text.as_string());
    message.or_else(|| thrown.as_string()).unwrap_or_else(|| format!("{thrown:?}"))
}
