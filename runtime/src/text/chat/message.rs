//! Messages and options of a conversation.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// One message of a conversation, with the fields that `transformers` and the common APIs use.
///
/// `content` is text, or a list of parts (`[{"type": "text", "text": "..."}]`); it may be null or
/// absent, as in the calls of tools. `extra` holds all other fields (`tool_calls`,
/// `reasoning_content`, `name`, ...). See [`ChatOptions::adapt_messages`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`, ...
    pub role: String,
    /// What is said. A field that is null is for templates as if it were absent.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub content: Option<Value>,
    /// All other fields, in order.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Keeps a null that is written as such.
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

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model has said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// The message with one more field (`reasoning_content`, `tool_calls`, ...).
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

/// A point in time by the calendar, for templates that ask for the date (`strftime_now`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    /// The year, as 2026.
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

/// Bounds on what a template may do.
///
/// A unit of work is about one instruction of the template, or 64 bytes that it reads or makes, so
/// that the bound on work is a bound on memory too: 64 bytes for each unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenderLimits {
    /// Units of work that each rendering may do.
    pub work: u64,
    /// Further units for each byte of the conversation, tools and documents.
    pub work_per_byte: u64,
    /// The most units, however long the conversation is.
    pub max_work: u64,
    /// The largest output in bytes.
    pub output_bytes: usize,
}

impl Default for RenderLimits {
    /// Work of 4 million units, 64 more per byte of the conversation, 32 million at most; 64 MiB
    /// of output. The templates of the hub need some thousand units, and some hundred for a
    /// message.
    fn default() -> Self {
        Self { work: 4_000_000, work_per_byte: 64, max_work: 32_000_000, output_bytes: 64 << 20 }
    }
}

/// How a conversation is rendered.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatOptions {
    /// End with the beginning of an answer, so that the model answers (the default).
    pub add_generation_prompt: bool,
    /// Leave the last message open, so that the model continues it. Excludes
    /// `add_generation_prompt`.
    pub continue_final_message: bool,
    /// Descriptions of the tools that the model may call (JSON schemas of functions).
    pub tools: Option<Vec<Value>>,
    /// Documents to answer from (objects, usually with `title` and `text`).
    pub documents: Option<Vec<Value>>,
    /// The template to use by name, where a model has several; otherwise `tool_use` if there are
    /// tools and such a template, else `default`.
    pub template: Option<String>,
    /// Further variables for the template, `enable_thinking` for example.
    pub variables: Map<String, Value>,
    /// The time that the template sees; `None` is [`DateTime::now`].
    pub now: Option<DateTime>,
    /// Gives contents and tool calls the form that the template takes (the default): text where it
    /// takes no parts, parts where it takes no text, arguments as an object or as JSON text. What a
    /// template takes is found out by rendering small conversations with it. Otherwise messages
    /// reach the template as they are given, as in `transformers`.
    pub adapt_messages: bool,
    /// Bounds on the template's work.
    pub limits: RenderLimits,
}

impl Default for ChatOptions {
    /// The model is to answer; no tools, no documents, no further variables.
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
    /// The options with a variable for the template: `enable_thinking`, `false`.
    #[must_use]
    pub fn with(mut self, variable: impl Into<String>, value: impl Into<Value>) -> Self {
        self.variables.insert(variable.into(), value.into());
        self
    }
}
