//! What can go wrong with text: one variant per cause, the values in the message.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

/// An error of the text side: tokenizers, chat templates, stop conditions, generation defaults.
#[derive(Debug)]
#[non_exhaustive]
pub enum TextError {
    /// A file could not be read.
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is larger than anything of its kind should be, and was not read.
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest size that is read.
        limit: u64,
    },
    /// A file is not JSON, or ends too early.
    Json {
        /// The file.
        path: PathBuf,
        /// The syntax error, with its line and column.
        source: serde_json::Error,
    },
    /// A field of a JSON file has a value that it cannot have.
    Field {
        /// The file.
        path: PathBuf,
        /// The field, as a path inside the file (`added_tokens_decoder.5.content`).
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// `tokenizer.json` is JSON, but no tokenizer that can be built.
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizer library said.
        problem: String,
    },
    /// The tokenizer failed on a text.
    Encode {
        /// What the tokenizer library said.
        problem: String,
    },
    /// The tokenizer failed on token ids.
    Decode {
        /// What the tokenizer library said.
        problem: String,
    },
    /// The tokenizer can produce ids for which the model has no embedding.
    VocabularyTooLarge {
        /// The largest token id of the tokenizer.
        largest_id: u32,
        /// The text of that token.
        token: String,
        /// The rows of the model's embedding.
        rows: usize,
    },
    /// A text contains a token for which the model has no embedding.
    TokenWithoutEmbedding {
        /// The token's id.
        id: u32,
        /// Its text.
        token: String,
        /// The rows of the model's embedding.
        rows: usize,
    },
    /// A stop condition cannot be used.
    Stop {
        /// What is wrong with it.
        problem: String,
    },
    /// The model folder has no chat template.
    NoChatTemplate {
        /// The folder that was searched.
        folder: PathBuf,
    },
    /// There are several chat templates, none of them has the wanted name.
    NoSuchChatTemplate {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        available: Vec<String>,
    },
    /// A chat template does not parse.
    TemplateSyntax {
        /// The line in the template, from 1; 0 when unknown.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A chat template is larger or more deeply nested than is allowed.
    TemplateTooComplex {
        /// The line in the template, from 1; 0 when it concerns the whole template.
        line: usize,
        /// Which measure is exceeded, with its value and limit.
        problem: String,
    },
    /// A chat template refused the conversation with its own message (`raise_exception`).
    TemplateRefused {
        /// The message of the template's author.
        message: String,
    },
    /// A chat template failed while it was rendered.
    TemplateRender {
        /// The line in the template, from 1; 0 when unknown.
        line: usize,
        /// What happened.
        problem: String,
    },
    /// A chat template did more work than is allowed; it may loop for ever.
    TemplateWork {
        /// The limit, in units of work (about one per instruction and per 64 bytes handled).
        limit: u64,
    },
    /// A chat template wrote more text than is allowed.
    TemplateOutput {
        /// The limit in bytes.
        limit: usize,
    },
    /// A message or an option of a conversation cannot be rendered.
    Conversation {
        /// What is wrong.
        problem: String,
    },
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "{}: cannot be read: {source}", path.display()),
            Self::FileTooLarge { path, bytes, limit } => write!(
                f,
                "{}: {bytes} bytes is more than the {limit} bytes that such a file may have",
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
            Self::Encode { problem } => write!(f, "text cannot be tokenized: {problem}"),
            Self::Decode { problem } => write!(f, "tokens cannot be decoded: {problem}"),
            Self::VocabularyTooLarge { largest_id, token, rows } => write!(
                f,
                "the tokenizer has token {largest_id} ({token:?}), but the model's embedding has \
                 only {rows} rows: tokenizer and weights are not of the same model"
            ),
            Self::TokenWithoutEmbedding { id, token, rows } => write!(
                f,
                "the text contains the token {token:?} (id {id}), which the model cannot take: its embedding has \
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
                "the chat template did more than {limit} units of work and was stopped (it may \
                 loop for ever; a very long conversation may need a higher limit)"
            ),
            Self::TemplateOutput { limit } => {
                write!(f, "the chat template wrote more than {limit} bytes and was stopped")
            }
            Self::Conversation { problem } => write!(f, "conversation: {problem}"),
        }
    }
}

/// " (line N)", or nothing for an unknown line.
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
