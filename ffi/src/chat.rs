//! Conversations through the model's chat template.

use std::ffi::c_char;

use kinglet::text::{ChatOptions, Conversation, DateTime, Message};
use serde_json::Value;

use crate::generation::{create, kinglet_generation};
use crate::generation_options::{self, GenerationOptions, json, kinglet_generation_options};
use crate::generator::Prompt;
use crate::guard::call;
use crate::handle;
use crate::memory;
use crate::model::{ModelObject, kinglet_model};
use crate::session::kinglet_session;
use crate::status::{Failure, kinglet_status};

fn wrong(problem: String) -> Failure {
    Failure::new(kinglet_status::KINGLET_TEXT, format!("messages: {problem}"))
}

/// Parses messages: a JSON list of objects with `role`, usually `content`, and any further fields
/// that the template reads.
fn conversation(
    messages: *const c_char,
    options: &GenerationOptions,
) -> Result<Conversation, Failure> {
    let Value::Array(list) = json(messages, "messages")? else {
        return Err(wrong(
            "expected a list such as [{\"role\": \"user\", \"content\": \"Hi\"}]".into(),
        ));
    };
    if list.is_empty() {
        return Err(wrong("the list is empty".into()));
    }
    let mut messages = Vec::with_capacity(list.len());
    for (index, message) in list.into_iter().enumerate() {
        let Value::Object(mut fields) = message else {
            return Err(wrong(format!("message {index} is not an object")));
        };
        let Some(Value::String(role)) = fields.remove("role") else {
            return Err(wrong(format!("message {index} has no text as `role`")));
        };
        let content = fields.remove("content");
        let mut message = Message::new(role, "");
        message.content = content;
        message.extra = fields;
        messages.push(message);
    }
    let (tools, variables) = (options.tools.clone(), options.variables.clone());
    let (template, now) = (options.template.clone(), options.now.and_then(DateTime::from_unix));
    let chat = ChatOptions { tools, variables, template, now, ..ChatOptions::default() };
    Ok(Conversation { messages, options: chat })
}

/// Creates a generation that answers a conversation. `messages` is JSON such as `[{"role": "user",
/// "content": "Hi"}]`, with the roles and further fields that the model's template knows. Pass the
/// whole conversation each time. `options` may be null. Nothing is computed before the first call
/// of `kinglet_generation_next`.
///
/// The conversation replaces the session's content. The longest prefix that the session has
/// computed before, also for other conversations, is reused, so a turn costs only its new tokens
/// (`KINGLET_STAT_REUSED_TOKENS`).
///
/// Free the generation with `kinglet_generation_delete`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_create_chat(
    session: *mut kinglet_session,
    messages: *const c_char,
    options: *const kinglet_generation_options,
    generation: *mut *mut kinglet_generation,
) -> kinglet_status {
    call(|| {
        memory::check_out(generation, "generation")?;
        let object = create(session, options, |session, options| {
            let conversation = conversation(messages, options)?;
            let model = &session.model;
            let prompt = conversation.prompt(model.template()?, model.tokenizer()?)?;
            if prompt.tokens.is_empty() {
                return Err(wrong("the template renders them to no tokens".into()));
            }
            Ok(Prompt::Whole(prompt))
        })?;
        memory::write(generation, "generation", handle::insert(object)?)
    })
}

/// Renders messages with the model's template, as for `kinglet_generation_create_chat`. Of
/// `options` (may be null) tools, variables, template and time are used. The text ends with a NUL,
/// which `length` (may be null) does not count. Free it with `kinglet_free`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_render(
    model: *const kinglet_model,
    messages: *const c_char,
    options: *const kinglet_generation_options,
    text: *mut *mut c_char,
    length: *mut usize,
) -> kinglet_status {
    call(|| {
        memory::check_out(text, "text")?;
        let model = handle::get::<ModelObject>(model)?;
        let conversation = conversation(messages, &generation_options::resolve(options)?)?;
        let rendered = conversation.render(model.template()?)?;
        memory::lend_bytes(rendered.into_bytes(), text, length)
    })
}
