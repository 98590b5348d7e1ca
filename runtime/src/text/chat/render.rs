//! Renders a conversation with a compiled template.

use std::error::Error as _;
use std::io;

use minijinja::{Error, ErrorKind};
use serde_json::{Map, Value};

use super::adapt::complete;
use super::environment::{NOW, Refused};
use super::{ChatOptions, ChatTemplate, DateTime};
use crate::text::TextError;
use crate::text::files::kind;

/// Deepest nesting of JSON from a caller; `serde_json` has the same limit.
const MAX_JSON_DEPTH: usize = 128;
/// Field names for the reasoning of an answer. The first is the usual one.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// Marks the end of the message to be continued.
const OPEN_END: &str = "KINGLET_CONTINUES_HERE ";

impl ChatTemplate {
    pub(super) fn render_values(
        &self,
        mut messages: Vec<Value>,
        options: &ChatOptions,
    ) -> Result<String, TextError> {
        if options.continue_final_message && options.add_generation_prompt {
            return conversation(
                "continue_final_message and add_generation_prompt exclude each other".into(),
            );
        }
        for (index, message) in messages.iter_mut().enumerate() {
            match message {
                Value::Object(message) => {
                    // Programs write null for an absent field, and templates test whether it is
                    // defined.
                    message.retain(|_, value| !value.is_null());
                    alias_reasoning(message);
                }
                other => {
                    return conversation(format!(
                        "message {index}: expected an object, found {}",
                        kind(other)
                    ));
                }
            }
        }
        let name = self.choose(options)?;
        if options.adapt_messages {
            self.adapt(name, &mut messages)?;
        }
        let continued = match options.continue_final_message {
            true => Some(mark_open_end(&mut messages)?),
            false => None,
        };
        let rendered = match self.run(name, &messages, options) {
            Err(error @ TextError::TemplateRender { .. }) if options.adapt_messages => {
                // Many templates print fields without testing whether they exist.
                match complete(&mut messages) {
                    true => self.run(name, &messages, options).map_err(|_| error)?,
                    false => return Err(error),
                }
            }
            rendered => rendered?,
        };
        match continued {
            Some(text) => cut_open_end(rendered, &text),
            None => Ok(rendered),
        }
    }

    pub(super) fn run(
        &self,
        name: &str,
        messages: &[Value],
        options: &ChatOptions,
    ) -> Result<String, TextError> {
        let mut bytes = 0;
        let mut context: Vec<(String, minijinja::Value)> = Vec::new();
        for (name, text) in self.special.iter() {
            context.push((name.to_string(), text.into()));
        }
        let list = |values: Option<&[Value]>, bytes: &mut u64| match values {
            Some(values) => list_to_value(values, 0, bytes),
            None => Ok(minijinja::Value::from(())),
        };
        context.push(("messages".into(), list(Some(messages), &mut bytes)?));
        context.push(("tools".into(), list(options.tools.as_deref(), &mut bytes)?));
        context.push(("documents".into(), list(options.documents.as_deref(), &mut bytes)?));
        context.push(("add_generation_prompt".into(), options.add_generation_prompt.into()));
        for (name, value) in &options.variables {
            context.push((name.clone(), to_value(value, 0, &mut bytes)?));
        }
        if let Some(now) = options.now.or_else(DateTime::now) {
            context.push((NOW.into(), minijinja::Value::from_object(now)));
        }

        let limits = &options.limits;
        let work = limits
            .work
            .saturating_add(limits.work_per_byte.saturating_mul(bytes))
            .min(limits.max_work);
        // The environment is shared between renderings. A copy holds this one's limit.
        let mut env = self.env.clone();
        env.set_fuel(Some(work));
        let template = env.get_template(name).map_err(|error| convert(&error, work))?;
        let mut output = Limited { bytes: Vec::new(), limit: limits.output_bytes, exceeded: false };
        let context = minijinja::Value::from_pairs(context);
        let result = template.render_captured_to(context, &mut output).map(drop);
        if output.exceeded {
            return Err(TextError::TemplateOutput { limit: limits.output_bytes });
        }
        result.map_err(|error| convert(&error, work))?;
        String::from_utf8(output.bytes).map_err(|error| TextError::TemplateRender {
            line: 0,
            problem: format!("the output is not UTF-8: {}", error.utf8_error()),
        })
    }
}

pub(super) fn conversation<T>(problem: String) -> Result<T, TextError> {
    Err(TextError::Conversation { problem })
}

/// Gives the reasoning of an answer all names that templates look for, as `transformers` does.
fn alias_reasoning(message: &mut Map<String, Value>) {
    let found = REASONING.iter().filter_map(|name| message.get(*name)).find(|v| !v.is_null());
    if let Some(reasoning) = found.cloned() {
        message.entry("thinking").or_insert_with(|| reasoning.clone());
        message.insert("reasoning_content".into(), reasoning);
    }
}

/// Appends the mark to the text of the last message, and returns that text.
fn mark_open_end(messages: &mut [Value]) -> Result<String, TextError> {
    let content = messages.last_mut().and_then(|message| message.get_mut("content"));
    let text = match content {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => {
            let last = parts.iter_mut().rev().find_map(|part| match part.get_mut("text") {
                Some(Value::String(text)) => Some(text),
                _ => None,
            });
            match last {
                Some(text) => text,
                None => return conversation("the last message has no text to continue".into()),
            }
        }
        _ => return conversation("there is no last message with content to continue".into()),
    };
    let before = text.clone();
    text.push_str(OPEN_END);
    Ok(before)
}

/// Cuts the rendered text at the mark.
fn cut_open_end(mut rendered: String, text: &str) -> Result<String, TextError> {
    match rendered.rfind(OPEN_END.trim()) {
        Some(at) if rendered.contains(text.trim()) => {
            // If the mark's trailing space is gone, the template trims the message, so its text is
            // trimmed too.
            let kept = rendered.get(at..).is_some_and(|rest| rest.starts_with(OPEN_END));
            rendered.truncate(at);
            if !kept {
                rendered.truncate(rendered.trim_end().len());
            }
            Ok(rendered)
        }
        _ => conversation(
            "the template does not show the last message as it is, so it cannot be continued"
                .into(),
        ),
    }
}

fn list_to_value(
    items: &[Value],
    depth: usize,
    bytes: &mut u64,
) -> Result<minijinja::Value, TextError> {
    let items: Result<Vec<_>, _> =
        items.iter().map(|item| to_value(item, depth + 1, bytes)).collect();
    Ok(items?.into())
}

/// Converts JSON to a template value. Adds about the size of the JSON text to `bytes`.
pub(super) fn to_value(
    json: &Value,
    depth: usize,
    bytes: &mut u64,
) -> Result<minijinja::Value, TextError> {
    if depth > MAX_JSON_DEPTH {
        return conversation(format!("nested more than {MAX_JSON_DEPTH} deep"));
    }
    *bytes += 4;
    Ok(match json {
        Value::Null => minijinja::Value::from(()),
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => {
            if let Some(integer) = number.as_i64() {
                integer.into()
            } else if let Some(integer) = number.as_u64() {
                integer.into()
            } else {
                number.as_f64().unwrap_or(f64::NAN).into()
            }
        }
        Value::String(text) => {
            *bytes += text.len() as u64;
            text.as_str().into()
        }
        Value::Array(items) => list_to_value(items, depth, bytes)?,
        Value::Object(map) => {
            let mut pairs = Vec::with_capacity(map.len());
            for (key, value) in map {
                *bytes += key.len() as u64;
                pairs.push((
                    minijinja::Value::from(key.as_str()),
                    to_value(value, depth + 1, bytes)?,
                ));
            }
            minijinja::Value::from_pairs(pairs)
        }
    })
}

/// A writer that fails past a limit.
struct Limited {
    bytes: Vec<u8>,
    limit: usize,
    exceeded: bool,
}

impl io::Write for Limited {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if text.len() > self.limit.saturating_sub(self.bytes.len()) {
            self.exceeded = true;
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.bytes.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The message of an error without its line, which is reported separately.
fn problem(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

pub(super) fn convert_syntax(error: &Error) -> TextError {
    TextError::TemplateSyntax { line: error.line().unwrap_or(0), problem: problem(error) }
}

/// Converts an error of a rendering; `work` is the limit that applied.
pub(super) fn convert(error: &Error, work: u64) -> TextError {
    let mut innermost = error;
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(Refused(message)) = inner.downcast_ref::<Refused>() {
            return TextError::TemplateRefused { message: message.clone() };
        }
        if let Some(inner) = inner.downcast_ref::<Error>() {
            innermost = inner;
        }
        source = inner.source();
    }
    match innermost.kind() {
        ErrorKind::OutOfFuel => TextError::TemplateWork { limit: work },
        _ => TextError::TemplateRender {
            line: innermost.line().or(error.line()).unwrap_or(0),
            problem: problem(innermost),
        },
    }
}
