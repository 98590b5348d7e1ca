//! Messages of a conversation, and options for rendering it.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// One message of a conversation, with the fields that `transformers` and the common APIs use.
///
/// `content` is text or a list of parts (`[{"type": "text", "text": "..."}]`). It may be null or
/// absent, as in tool calls. `extra` holds all other fields (`tool_calls`, `reasoning_content`,
/// `name`, ...). See [`ChatOptions::adapt_messages`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The role: `system`, `user`, `assistant`, `tool`, ...
    pub role: String,
    /// The content. Templates see a null field as absent.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub content: Option<Value>,
    /// All other fields, in order.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Keeps an explicit null distinct from an absent field.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Message {
    /// A message of plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(Value::String(content.into())), extra: Map::new() }
    }

    /// Instructions for the whole conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// A message of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// A message of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// Adds a field (`reasoning_content`, `tool_calls`, ...).
    #[must_use]
    pub fn with(mut self, field: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extra.insert(field.into(), value.into());
        self
    }

    pub(super) fn to_object(&self) -> Map<String, Value> {
        let mut object = Map::with_capacity(self.extra.len() + 2);
        object.insert("role".into(), Value::String(self.role.clone()));
        if let Some(content) = &self.content {
            object.insert("content".into(), content.clone());
        }
        for (field, value) in &self.extra {
            object.entry(field.clone()).or_insert_with(|| value.clone());
        }
        object
    }
}

/// A calendar date and time, for templates that ask for it (`strftime_now`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    /// The year, such as 2026.
    pub year: i32,
    /// The month, 1 to 12.
    pub month: u8,
    /// The day, 1 to 31.
    pub day: u8,
    /// The hour, 0 to 23.
    pub hour: u8,
    /// The minute, 0 to 59.
    pub minute: u8,
    /// The second, 0 to 60.
    pub second: u8,
}

/// Limits on what a template may do.
///
/// A unit of work is about one instruction of the template, or 64 bytes that it reads or produces.
/// The limit on work therefore limits memory too, to 64 bytes per unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenderLimits {
    /// Units of work per rendering.
    pub work: u64,
    /// Further units for each byte of the conversation, tools and documents.
    pub work_per_byte: u64,
    /// Upper bound on the units, however long the conversation is.
    pub max_work: u64,
    /// Largest output, in bytes.
    pub output_bytes: usize,
}

impl Default for RenderLimits {
    /// 4 million units, plus 64 per byte of the conversation, but at most 32 million; 64 MiB of
    /// output. Templates on the hub need some thousand units, and some hundred per message.
    fn default() -> Self {
        Self { work: 4_000_000, work_per_byte: 64, max_work: 32_000_000, output_bytes: 64 << 20 }
    }
}

/// Options for rendering a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatOptions {
    /// Whether to end with the beginning of an answer, so that the model answers. True by default.
    pub add_generation_prompt: bool,
    /// Whether to leave the last message open, so that the model continues it. Excludes
    /// `add_generation_prompt`.
    pub continue_final_message: bool,
    /// The tools that the model may call, as JSON schemas of functions.
    pub tools: Option<Vec<Value>>,
    /// Documents to answer from: objects, usually with `title` and `text`.
    pub documents: Option<Vec<Value>>,
    /// Name of the template to use, for a model with several. Defaults to `tool_use` if there are
    /// tools and such a template, else to `default`.
    pub template: Option<String>,
    /// Further variables of the template, such as `enable_thinking`.
    pub variables: Map<String, Value>,
    /// The time that the template sees. Defaults to [`DateTime::now`].
    pub now: Option<DateTime>,
    /// Whether to convert contents and tool calls to the form that the template accepts: content as
    /// text or as parts, arguments as an object or as JSON text. Small conversations are rendered
    /// to find out which. If false, messages reach the template unchanged, as in `transformers`.
    /// True by default.
    pub adapt_messages: bool,
    /// Limits on the template's work.
    pub limits: RenderLimits,
}

impl Default for ChatOptions {
    /// Lets the model answer, without tools, documents or further variables.
    fn default() -> Self {
        Self {
            add_generation_prompt: true,
            continue_final_message: false,
            tools: None,
            documents: None,
            template: None,
            variables: Map::new(),
            now: None,
            adapt_messages: true,
            limits: RenderLimits::default(),
        }
    }
}

impl ChatOptions {
    /// Adds a variable for the template, such as `enable_thinking` with `false`.
    #[must_use]
    pub fn with(mut self, variable: impl Into<String>, value: impl Into<Value>) -> Self {
        self.variables.insert(variable.into(), value.into());
        self
    }
}
