//! Converts messages to the form that a template accepts.
//!
//! Programs write messages in one form, and templates expect one of several: content as text or as
//! a list of parts, the arguments of a tool call as an object or as JSON text. `transformers`
//! passes them on unchanged; a template that expects another form then prints Python's notation of
//! a list, escapes JSON twice, or fails. Other engines inspect the template's source. Kinglet
//! renders small conversations with the template and looks for their content in the result, which
//! shows what the template accepts. A form that the template accepts is never changed, so the
//! result equals that of `transformers` wherever that is right.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::render::{conversation, to_value};
use super::{ChatOptions, ChatTemplate, DateTime, RenderLimits, json as python};
use crate::text::TextError;
use crate::text::files::kind;

/// A text that no template contains.
const NEEDLE: &str = "Needle7q";
/// Most work of a trial rendering, in the units of [`RenderLimits`]. Templates on the hub need some
/// thousand.
const TRIAL_WORK: u64 = 250_000;
/// Fields of a part that hold its text.
const TEXTS: [&str; 3] = ["text", "refusal", "content"];

/// The role of a message, as far as templates treat its content differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Speaker {
    System,
    User,
    Assistant,
    Tool,
}

impl Speaker {
    fn of(message: &Map<String, Value>) -> Self {
        match message.get("role").and_then(Value::as_str) {
            Some("system" | "developer") => Self::System,
            Some("assistant" | "model") => Self::Assistant,
            Some("tool" | "function" | "ipython") => Self::Tool,
            _ => Self::User,
        }
    }

    /// A short conversation with a message of this content.
    fn talk(self, content: Value) -> Vec<Value> {
        let question = json!({"role": "user", "content": "Hi"});
        match self {
            Self::System => vec![json!({"role": "system", "content": content}), question],
            Self::User => vec![json!({"role": "user", "content": content})],
            Self::Assistant => {
                let answer = json!({"role": "assistant", "content": content});
                vec![question.clone(), answer, question]
            }
            Self::Tool => {
                let mut talk = call(json!({}));
                if let Some(result) = talk.last_mut() {
                    result["content"] = content;
                }
                talk
            }
        }
    }
}

/// A conversation with a question, a tool call with these arguments, and its result.
fn call(arguments: Value) -> Vec<Value> {
    let function = json!({"name": "look", "arguments": arguments});
    let call = json!({"id": "call00001", "type": "function", "function": function});
    let result =
        json!({"role": "tool", "name": "look", "tool_call_id": "call00001", "content": "found"});
    vec![
        json!({"role": "user", "content": "Hi"}),
        json!({"role": "assistant", "content": "", "tool_calls": [call]}),
        result,
    ]
}

/// The forms that a template accepts for content or for arguments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Takes {
    /// Text.
    text: bool,
    /// A list of parts as content, or an object as arguments.
    structure: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Question {
    Content(Speaker),
    Arguments,
}

/// Cached findings about the templates, by name. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct FormCache(Arc<Mutex<HashMap<(String, Question), Takes>>>);

impl ChatTemplate {
    /// Converts contents and arguments to the form that the template accepts.
    pub(super) fn adapt(&self, name: &str, messages: &mut [Value]) -> Result<(), TextError> {
        for (index, message) in messages.iter_mut().enumerate() {
            let Some(message) = message.as_object_mut() else { continue };
            let speaker = Speaker::of(message);
            if let Some(content) = message.get_mut("content") {
                self.adapt_content(name, index, speaker, content)?;
            }
            if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
                for call in calls {
                    // Some programs leave out the `function` level.
                    let inner = call.get("function").is_some_and(Value::is_object);
                    let function = if inner { call.get_mut("function") } else { Some(call) };
                    if let Some(arguments) = function.and_then(|f| f.get_mut("arguments")) {
                        self.adapt_arguments(name, arguments)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn adapt_content(
        &self,
        name: &str,
        index: usize,
        speaker: Speaker,
        content: &mut Value,
    ) -> Result<(), TextError> {
        if matches!(content, Value::Number(_) | Value::Bool(_)) {
            *content = Value::String(python::python_str(&to_value(content, 0, &mut 0)?));
        }
        match content {
            Value::String(text) => {
                let takes = self.takes(name, Question::Content(speaker));
                if takes.structure && !takes.text {
                    *content = json!([{"type": "text", "text": text}]);
                }
            }
            Value::Array(parts) => {
                for part in parts.iter_mut() {
                    if let Value::String(text) = part {
                        *part = json!({"type": "text", "text": text});
                    }
                }
                let takes = self.takes(name, Question::Content(speaker));
                if takes.text && !takes.structure {
                    *content = Value::String(joined(index, parts)?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn adapt_arguments(&self, name: &str, arguments: &mut Value) -> Result<(), TextError> {
        match arguments {
            Value::String(text) => {
                let takes = self.takes(name, Question::Arguments);
                if takes.structure && !takes.text {
                    // A call without arguments often has an empty string.
                    let text = if text.trim().is_empty() { "{}" } else { text };
                    // A model's output may be invalid JSON; then it stays as it is.
                    if let Ok(object @ Value::Object(_)) = serde_json::from_str(text) {
                        *arguments = object;
                    }
                }
            }
            Value::Object(_) => {
                let takes = self.takes(name, Question::Arguments);
                if takes.text && !takes.structure {
                    let value = to_value(arguments, 0, &mut 0)?;
                    let text = python::dumps(&value).map_err(|error| TextError::Conversation {
                        problem: format!("arguments of a call: {error}"),
                    })?;
                    *arguments = Value::String(text);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn takes(&self, name: &str, question: Question) -> Takes {
        let key = (name.to_string(), question);
        let known = || self.forms.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(takes) = known().get(&key) {
            return *takes;
        }
        let takes = match question {
            Question::Arguments => self.try_arguments(name),
            Question::Content(speaker) => match self.try_content(name, speaker) {
                // Templates that ignore the role answer only for the user's content.
                Takes { text: false, structure: false } if speaker != Speaker::User => {
                    self.takes(name, Question::Content(Speaker::User))
                }
                takes => takes,
            },
        };
        known().insert(key, takes);
        takes
    }

    fn try_content(&self, name: &str, speaker: Speaker) -> Takes {
        let text = self.trial(name, &speaker.talk(NEEDLE.into()));
        let parts = self.trial(name, &speaker.talk(json!([{"type": "text", "text": NEEDLE}])));
        let dumps = |text: &str| text.contains("'text'") || text.contains("\"text\"");
        let taken = |parts: &str| {
            parts.contains(NEEDLE) && (!dumps(parts) || text.as_deref().is_some_and(dumps))
        };
        Takes {
            text: text.as_deref().is_some_and(|text| text.contains(NEEDLE)),
            structure: parts.as_deref().is_some_and(taken),
        }
    }

    fn try_arguments(&self, name: &str) -> Takes {
        let object = json!({ "needle": NEEDLE });
        let text = self.trial(name, &call(Value::String(format!("{{\"needle\": \"{NEEDLE}\"}}"))));
        let structure = self.trial(name, &call(object));
        let shown = |text: &str| text.contains(NEEDLE) && text.contains("needle");
        // An escaped needle means that the text was serialized once more.
        let escaped = format!("\\\"{NEEDLE}");
        // Single quotes mean Python's notation of a dictionary.
        let dumped = format!("'needle': '{NEEDLE}'");
        Takes {
            text: text.is_some_and(|text| shown(&text) && !text.contains(&escaped)),
            structure: structure.is_some_and(|text| shown(&text) && !text.contains(&dumped)),
        }
    }

    /// Renders a trial conversation; `None` if that fails. The time is fixed, so that results can
    /// be cached.
    fn trial(&self, name: &str, messages: &[Value]) -> Option<String> {
        let parameters = json!({"type": "object", "properties": {"needle": {"type": "string"}}});
        let function = json!({"name": "look", "description": "Looks", "parameters": parameters});
        let now = DateTime { year: 2026, month: 1, day: 1, hour: 12, minute: 0, second: 0 };
        let calls = messages.iter().any(|message| message.get("tool_calls").is_some());
        let limits = RenderLimits {
            work: TRIAL_WORK,
            work_per_byte: 0,
            max_work: TRIAL_WORK,
            output_bytes: 1 << 20,
        };
        let options = ChatOptions {
            limits,
            tools: calls.then(|| vec![json!({"type": "function", "function": function})]),
            now: Some(now),
            adapt_messages: false,
            ..ChatOptions::default()
        };
        self.run(name, messages, &options).ok()
    }
}

/// Joins the parts of a content to one text, starting a new line for each, as other engines do.
fn joined(index: usize, parts: &[Value]) -> Result<String, TextError> {
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        let text = TEXTS.iter().find_map(|field| part.get(*field)?.as_str());
        match (text, part.get("type").and_then(Value::as_str)) {
            (Some(text), None | Some("text" | "input_text" | "output_text" | "refusal")) => {
                texts.push(text);
            }
            (_, Some(other)) => {
                return conversation(format!(
                    "message {index}: the template accepts only text, but a part has the type {other:?}"
                ));
            }
            (_, None) => {
                return conversation(format!(
                    "message {index}: expected parts with `type` and `text`, found {}",
                    kind(part)
                ));
            }
        }
    }
    Ok(texts.join("\n"))
}

/// Fills in what messages lack: `content` (often missing from tool calls), and in the results of
/// calls the name and id of the call. Returns whether anything was missing.
pub(super) fn complete(messages: &mut [Value]) -> bool {
    let mut changed = false;
    // Calls without a result so far: id and name.
    let mut open: Vec<(Option<Value>, Option<Value>)> = Vec::new();
    for message in messages {
        let Some(message) = message.as_object_mut() else { continue };
        if !message.contains_key("content") {
            message.insert("content".into(), Value::String(String::new()));
            changed = true;
        }
        if let Some(calls) = message.get("tool_calls").and_then(Value::as_array) {
            let name = |call: &Value| call.get("function").unwrap_or(call).get("name").cloned();
            open = calls.iter().map(|call| (call.get("id").cloned(), name(call))).collect();
        }
        if Speaker::of(message) == Speaker::Tool && !open.is_empty() {
            let id = message.get("tool_call_id");
            let at = id.and_then(|id| open.iter().position(|(open, _)| open.as_ref() == Some(id)));
            let (id, name) = open.remove(at.unwrap_or(0));
            for (field, value) in [("tool_call_id", id), ("name", name)] {
                if let Some(value) = value.filter(|_| !message.contains_key(field)) {
                    message.insert(field.into(), value);
                    changed = true;
                }
            }
        }
    }
    changed
}
