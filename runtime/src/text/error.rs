//! [`TextError`]: one variant per cause, with the values in the message.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

/// An error from tokenizers, chat templates, stop conditions or generation defaults.
#[derive(Debug)]
#[non_exhaustive]
pub enum TextError {
    /// A file could not be read.
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file is larger than the limit for its kind, and was not read.
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A file is not JSON, or ends too early.
    Json {
        /// The file.
        path: PathBuf,
        /// The syntax error, with its line and column.
        source: serde_json::Error,
    },
    /// A field of a JSON file has an invalid value.
    Field {
        /// The file.
        path: PathBuf,
        /// The field, as a path inside the file (`added_tokens_decoder.5.content`).
        field: String,
        /// The problem.
        problem: String,
    },
    /// `tokenizer.json` is valid JSON but not a usable tokenizer.
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The tokenizer library's message.
        problem: String,
    },
    /// The tokenizer failed on a text.
    Encode {
        /// The tokenizer library's message.
        problem: String,
    },
    /// The tokenizer failed on token ids.
    Decode {
        /// The tokenizer library's message.
        problem: String,
    },
    /// The tokenizer can produce ids that the model's embedding has no row for.
    VocabularyTooLarge {
        /// The largest token id of the tokenizer.
        largest_id: u32,
        /// The text of that token.
        token: String,
        /// Rows of the model's embedding.
        rows: usize,
    },
    /// A text contains a token that the model's embedding has no row for.
    TokenWithoutEmbedding {
        /// The token's id.
        id: u32,
        /// Its text.
        token: String,
        /// Rows of the model's embedding.
        rows: usize,
    },
    /// A stop condition is invalid.
    Stop {
        /// The problem.
        problem: String,
    },
    /// The model folder has no chat template.
    NoChatTemplate {
        /// The folder that was searched.
        folder: PathBuf,
    },
    /// None of the model's chat templates has the requested name.
    NoSuchChatTemplate {
        /// The name requested.
        name: String,
        /// The names of the model's templates.
        available: Vec<String>,
    },
    /// A chat template does not parse.
    TemplateSyntax {
        /// The line in the template, from 1; 0 when unknown.
        line: usize,
        /// The problem.
        problem: String,
    },
    /// A chat template exceeds a limit on size or nesting.
    TemplateTooComplex {
        /// The line in the template, from 1; 0 if the whole template is meant.
        line: usize,
        /// The limit exceeded, with the value.
        problem: String,
    },
    /// A chat template refused the conversation with its own message (`raise_exception`).
    TemplateRefused {
        /// The message of the template's author.
        message: String,
    },
    /// A chat template failed during rendering.
    TemplateRender {
        /// The line in the template, from 1; 0 when unknown.
        line: usize,
        /// The problem.
        problem: String,
    },
    /// A chat template exceeded its limit on work; it may loop forever.
    TemplateWork {
        /// The limit, in units of work (about one per instruction and one per 64 bytes handled).
        limit: u64,
    },
    /// A chat template exceeded its limit on output.
    TemplateOutput {
        /// The limit in bytes.
        limit: usize,
    },
    /// A message or an option of a conversation cannot be rendered.
    Conversation {
        /// The problem.
        problem: String,
    },
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "can't read {}: {source}", path.display()),
            Self::FileTooLarge { path, bytes, limit } => write!(
                f,
                "{}: {bytes} bytes exceed the limit of {limit} for such a file",
                path.display()
            ),
            Self::Json { path, source } => write!(
                f,
                "{}: not valid JSON: {source} (is the download complete?)",
                path.display()
            ),
            Self::Field { path, field, problem } => {
                write!(f, "{}: field `{field}`: {problem}", path.display())
            }
            Self::Tokenizer { path, problem } => {
                write!(f, "{}: no usable tokenizer: {problem}", path.display())
            }
            Self::Encode { problem } => write!(f, "can't tokenize the text: {problem}"),
            Self::Decode { problem } => write!(f, "can't decode the tokens: {problem}"),
            Self::VocabularyTooLarge { largest_id, token, rows } => write!(
                f,
                "the tokenizer has token {largest_id} ({token:?}), but the model's embedding has \
                 only {rows} rows: tokenizer and weights are not of the same model"
            ),
            Self::TokenWithoutEmbedding { id, token, rows } => write!(
                f,
                "the text contains the token {token:?} (id {id}), which the model can't embed: its embedding has \
                 only {rows} rows, so ids go up to {}; write the text without it",
                rows.saturating_sub(1)
            ),
            Self::Stop { problem } => write!(f, "stop condition: {problem}"),
            Self::NoChatTemplate { folder } => write!(
                f,
                "{}: no chat template (looked for chat_template.jinja, `chat_template` in \
                 tokenizer_config.json and chat_template.json): this may be a base model, use raw \
                 generation or give a template",
                folder.display()
            ),
            Self::NoSuchChatTemplate { name, available } => write!(
                f,
                "no chat template named {name:?}; the model has: {}",
                available.join(", ")
            ),
            Self::TemplateSyntax { line, problem } => {
                write!(f, "chat template{}: syntax error: {problem}", At(*line))
            }
            Self::TemplateTooComplex { line, problem } => {
                write!(f, "chat template{}: too complex: {problem}", At(*line))
            }
            Self::TemplateRefused { message } => {
                write!(f, "the chat template refuses this conversation: {message}")
            }
            Self::TemplateRender { line, problem } => {
                write!(f, "chat template{}: {problem}", At(*line))
            }
            Self::TemplateWork { limit } => write!(
                f,
                "the chat template was stopped after {limit} units of work (it may \
                 loop for ever; a very long conversation may need a higher limit)"
            ),
            Self::TemplateOutput { limit } => {
                write!(f, "the chat template was stopped after {limit} bytes of output")
            }
            Self::Conversation { problem } => write!(f, "conversation: {problem}"),
        }
    }
}

/// Formats as " (line N)", or as nothing for an unknown line.
struct At(usize);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, " (line {})", self.0) }
    }
}

impl Error for TextError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Json { source, .. } => Some(source),
            _ => None,
        }
    }
}
