//! Conversations through the model's own template.

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

/// Messages as JSON: a list of objects with `role`, mostly `content`, and whatever else the template looks at.
fn conversation(
    messages: *const c_char,
    options: &GenerationOptions,
) -> Result<Conversation, Failure> {
    let Value::Array(list) = json(messages, "messages")? else {
        return Err(wrong(
            "a list is needed, as [{\"role\": \"user\", \"content\": \"Hi\"}]".into(),
        ));
    };
    if list.is_empty() {
        return Err(wrong("there are none".into()));
    }
    let mut messages = Vec::with_capacity(list.len());
    for (index, message) in list.into_iter().enumerate() {
        let Value::Object(mut fields) = message else {
            return Err(wrong(format!("number {index} is no object")));
        };
        let Some(Value::String(role)) = fields.remove("role") else {
            return Err(wrong(format!("number {index} has no text as its role")));
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

/// The answer to a conversation. `messages` is JSON, as `[{"role": "user", "content": "Hi"}]`, with the roles and further fields that the model's template knows; all
/// of the conversation so far, each time. `options` may be null. Nothing is computed yet: the first call of `kinglet_generation_next` does that.
///
/// Whatever the session held, it will hold this conversation. Of what it has computed before, also for other conversations, the longest beginning is used again, so that a
/// turn costs the tokens that are new (`KINGLET_STAT_REUSED_TOKENS`).
///
/// The generation is the program's: `kinglet_generation_delete`.
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
                return Err(wrong("the template makes nothing of them".into()));
            }
            Ok(Prompt::Whole(prompt))
        })?;
        memory::write(generation, "generation", handle::insert(object)?)
    })
}

/// The text that the model's template makes of messages, as for `kinglet_generation_create_chat`; of `options` (may be null) tools, variables, template and time count. The
/// text ends with a NUL, which `length` (may be null) doesn't count, and is the program's: `kinglet_free`.
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
