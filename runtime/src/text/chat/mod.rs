//! Chat templates: render a conversation as the text that the model was trained on.
//!
//! Templates are Jinja programs that come with a model. minijinja renders them, set up as
//! `transformers` sets up Jinja (`utils/chat_template_utils.py`): `trim_blocks` and
//! `lstrip_blocks`, `raise_exception`, `strftime_now`, Python's `tojson`, `break` and `continue`,
//! `{% generation %}`, and Python's methods of strings, lists and dictionaries. Templates are not
//! trusted: their size, nesting, work and output are bounded.
//!
//! Known differences from Jinja:
//! - a namespace can't be stored in a namespace, loops can't be `recursive`, a tag can have at most
//!   160 operators, and macros can call themselves some hundred times;
//! - concatenating a `|safe` string with `+` doesn't escape the other operand for HTML;
//! - the operator `%` doesn't format text (the filter and the method `format` do);
//! - an attribute of a dictionary is never an uncalled method (`{{ d.items }}` is the item
//!   `items`), and `map` and `select` give lists once they are stored, not generators;
//! - the filters for HTML and prose (`truncate`, `urlize`, `wordcount`, ...) are missing;
//! - floats from 1e16 on or below 1e-4 are written without an exponent if they are joined with `~`
//!   or inside a container;
//! - `strftime_now` writes English names.

mod adapt;
mod environment;
mod guard;
mod json;
mod lexer;
mod message;
mod methods;
mod render;
mod strftime;
mod zone;

use std::path::{Path, PathBuf};

use minijinja::Environment;
use serde_json::{Map, Value};

pub use message::{ChatOptions, DateTime, Message, RenderLimits};

use super::companions::{self, Companions};
use super::files::{self, field_error, kind, read_optional_object};
use super::{SpecialTokens, TextError};
use crate::files::mounted;

/// Largest template file that is read, in bytes.
const MAX_FILE_BYTES: u64 = guard::MAX_BYTES as u64;
/// Most templates per model.
const MAX_TEMPLATES: usize = 64;
const ADDITIONAL: &str = "additional_chat_templates";
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// The compiled chat templates of a model: usually one, named `default`.
#[derive(Clone)]
pub struct ChatTemplate {
    env: Environment<'static>,
    names: Vec<String>,
    special: SpecialTokens,
    /// What trial renderings found out about the templates.
    forms: adapt::FormCache,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("names", &self.names).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles one template. `special` are the tokens that it sees as `bos_token` and so on.
    ///
    /// # Errors
    /// [`TextError::TemplateSyntax`] and [`TextError::TemplateTooComplex`].
    pub fn new(source: &str, special: SpecialTokens) -> Result<Self, TextError> {
        Self::with_names([(DEFAULT.to_string(), source.to_string())], special)
    }

    /// Compiles several templates. [`ChatOptions::template`] chooses one by name.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn with_names(
        templates: impl IntoIterator<Item = (String, String)>,
        special: SpecialTokens,
    ) -> Result<Self, TextError> {
        let mut env = environment::environment().map_err(|error| render::convert(&error, 0))?;
        let mut names: Vec<String> = Vec::new();
        for (name, source) in templates {
            if names.len() >= MAX_TEMPLATES {
                return Err(TextError::TemplateTooComplex {
                    line: 0,
                    problem: format!("there are more than {MAX_TEMPLATES} templates"),
                });
            }
            env.add_template_owned(name.clone(), guard::prepare(&source)?)
                .map_err(|error| render::convert_syntax(&error))?;
            // A later template of the same name replaces an earlier one.
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(Self { env, names, special, forms: adapt::FormCache::default() })
    }

    /// Loads the templates of a model folder from the first of these that exists, as `transformers`
    /// does: `chat_template.jinja` (with more in `additional_chat_templates/`), `chat_template` in
    /// `tokenizer_config.json` (a template, or a list of named ones), `chat_template.json`.
    ///
    /// # Errors
    /// [`TextError::NoChatTemplate`] if there is none; malformed files; those of [`Self::new`].
    pub fn from_folder(folder: &Path) -> Result<Self, TextError> {
        let mut templates = template_files(folder)?;
        for file in ["tokenizer_config.json", "chat_template.json"] {
            if templates.is_empty() {
                let path = folder.join(file);
                let config = read_optional_object(&path)?.unwrap_or_default();
                templates = templates_in(&path, &config)?;
            }
        }
        if templates.is_empty() {
            return Err(TextError::NoChatTemplate { folder: folder.to_path_buf() });
        }
        let companions = Companions::read(folder)?;
        // `tokenizer.json` is the largest of the files, so read it only if a template needs it.
        let pads = || templates.iter().any(|(_, source)| source.contains("pad_token"));
        let pad = match !companions.declares_pad() && pads() {
            true => companions::pad_token(folder),
            false => None,
        };
        let special = SpecialTokens::from_companions(&companions, pad.as_deref());
        Self::with_names(templates, special)
    }

    /// Compiles the template in a file: Jinja, or JSON (`tokenizer_config.json`,
    /// `chat_template.json`) whose `chat_template` is a template or a list of named ones.
    ///
    /// # Errors
    /// Files that can't be read or are malformed, and those of [`Self::new`].
    pub fn from_file(path: &Path, special: SpecialTokens) -> Result<Self, TextError> {
        let missing = || TextError::Io {
            path: path.to_path_buf(),
            source: std::io::ErrorKind::NotFound.into(),
        };
        if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("json")) {
            let source = files::read_optional_text(path, MAX_FILE_BYTES)?.ok_or_else(missing)?;
            return Self::new(&source, special);
        }
        let config = read_optional_object(path)?.ok_or_else(missing)?;
        let templates = templates_in(path, &config)?;
        if templates.is_empty() {
            return Err(field_error(path, "chat_template", "expected a template, found none"));
        }
        Self::with_names(templates, special)
    }

    /// The names of the templates.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The name of the template that renders a conversation with these options.
    ///
    /// # Errors
    /// [`TextError::NoSuchChatTemplate`] if the options name a template that doesn't exist, or name
    /// none and there is no default.
    pub fn choose(&self, options: &ChatOptions) -> Result<&str, TextError> {
        let find = |wanted: &str| self.names.iter().find(|name| *name == wanted);
        let tools = options.tools.is_some();
        let found = match &options.template {
            Some(name) => find(name),
            None => tools.then(|| find(TOOL_USE)).flatten().or_else(|| find(DEFAULT)),
        };
        found.map(String::as_str).ok_or_else(|| TextError::NoSuchChatTemplate {
            name: options.template.clone().unwrap_or_else(|| DEFAULT.into()),
            available: self.names.clone(),
        })
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// [`TextError::TemplateRefused`] if the template refuses the conversation,
    /// [`TextError::TemplateRender`] if it fails, and [`TextError::TemplateWork`] or
    /// [`TextError::TemplateOutput`] if it exceeds a limit.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String, TextError> {
        let messages = messages.iter().map(|message| Value::Object(message.to_object())).collect();
        self.render_values(messages, options)
    }

    /// Renders a conversation given as JSON: a list of objects with `role`, `content`, ...
    ///
    /// # Errors
    /// Those of [`Self::render`], and [`TextError::Conversation`] if the JSON is not a list of
    /// objects.
    pub fn render_json(
        &self,
        messages: &Value,
        options: &ChatOptions,
    ) -> Result<String, TextError> {
        match messages {
            Value::Array(messages) => self.render_values(messages.clone(), options),
            other => Err(TextError::Conversation {
                problem: format!("expected a list of messages, found {}", kind(other)),
            }),
        }
    }
}

/// The template files in `additional_chat_templates/`, sorted.
fn additional_templates(folder: &Path) -> Vec<PathBuf> {
    let path = folder.join(ADDITIONAL);
    let is_template = |found: &PathBuf| {
        found.parent() == Some(&path) && found.extension().is_some_and(|ends| ends == "jinja")
    };
    let mut found: Vec<_> = if let Some(names) = mounted::names(folder) {
        names.iter().map(|name| folder.join(name)).filter(is_template).take(MAX_TEMPLATES).collect()
    } else {
        match std::fs::read_dir(&path) {
            Ok(entries) => {
                let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
                paths.filter(is_template).take(MAX_TEMPLATES).collect()
            }
            Err(error) => {
                // A missing folder is fine, also on targets without folders.
                if std::fs::symlink_metadata(&path).is_ok() {
                    crate::weights::unread::warn(&path, &error);
                }
                Vec::new()
            }
        }
    };
    found.sort();
    found
}

/// The templates in `chat_template.jinja` and `additional_chat_templates/*.jinja`, by name.
fn template_files(folder: &Path) -> Result<Vec<(String, String)>, TextError> {
    let mut templates = Vec::new();
    let path = folder.join("chat_template.jinja");
    if let Some(source) = files::read_optional_text(&path, MAX_FILE_BYTES)? {
        templates.push((DEFAULT.to_string(), source));
    }
    for path in additional_templates(folder) {
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        if let (Some(name), Some(source)) =
            (name, files::read_optional_text(&path, MAX_FILE_BYTES)?)
        {
            templates.push((name, source));
        }
    }
    Ok(templates)
}

/// The field `chat_template` of a configuration: a template, or a list of `{name, template}`.
fn templates_in(
    path: &Path,
    config: &Map<String, Value>,
) -> Result<Vec<(String, String)>, TextError> {
    const FIELD: &str = "chat_template";
    match config.get(FIELD) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(source)) => Ok(vec![(DEFAULT.to_string(), source.clone())]),
        Some(Value::Object(named)) => named
            .iter()
            .map(|(name, source)| match source {
                Value::String(source) => Ok((name.clone(), source.clone())),
                other => Err(field_error(
                    path,
                    &format!("{FIELD}.{name}"),
                    format!("expected a template, found {}", kind(other)),
                )),
            })
            .collect(),
        Some(Value::Array(named)) => named
            .iter()
            .enumerate()
            .map(|(index, entry)| match (entry.get("name"), entry.get("template")) {
                (Some(Value::String(name)), Some(Value::String(source))) => {
                    Ok((name.clone(), source.clone()))
                }
                _ => Err(field_error(
                    path,
                    &format!("{FIELD}.{index}"),
                    "expected an object with the strings `name` and `template`",
                )),
            })
            .collect(),
        Some(other) => {
            let problem = format!("expected a template or a list of them, found {}", kind(other));
            Err(field_error(path, FIELD, problem))
        }
    }
}
