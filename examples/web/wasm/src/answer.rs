//! Runs an answer of the library's loop and checks for the page's messages between events.

use std::time::Duration;

use js_sys::{Date, Function, Promise};
use kinglet::answer::{Answer, AnswerEnd, AnswerOptions, AnswerPrompt, EndReason, Event, Sampling};
use kinglet::text::{ChatOptions, Conversation, DateTime, EncodeOptions, Message};
use kinglet::{PrefixCache, Session, Snapshot};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use crate::engine::Shared;
use crate::error::Failure;

/// The request.
pub(crate) enum Request<'a> {
    /// An answer to messages: a JSON list.
    Chat(&'a str),
    /// The continuation of a text.
    Text(&'a str),
}

/// Options of an answer. Those not given come from the model's own settings.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Options {
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    typical_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    dry_multiplier: Option<f32>,
    xtc_probability: Option<f32>,
    xtc_threshold: Option<f32>,
    seed: u64,
    stop: Vec<String>,
    stop_tokens: Vec<u32>,
    ignore_eos: bool,
    /// Tokens drafted in a step from earlier occurrences of the same words.
    speculate: usize,
    /// Variables for the template.
    variables: Map<String, Value>,
    tools: Option<Vec<Value>>,
    /// Name of the chat template, if there are several.
    template: Option<String>,
    /// The template's current time: local time in seconds since 1970.
    now: Option<i64>,
}

impl Options {
    /// Converts to options of the library's loop.
    fn answer(&self) -> AnswerOptions {
        let sampling = Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            dry_multiplier: self.dry_multiplier,
            xtc_probability: self.xtc_probability,
            xtc_threshold: self.xtc_threshold,
            ..Sampling::new()
        };
        let options = AnswerOptions::new().sampling(sampling).seed(self.seed).clock(clock);
        let mut options = options.ignore_eos(self.ignore_eos).lookup(self.speculate);
        options.max_tokens = self.max_tokens;
        options.stop_strings.clone_from(&self.stop);
        options.stop_tokens.clone_from(&self.stop_tokens);
        options
    }
}

/// A clock, since the standard library has none here.
fn clock() -> Duration {
    Duration::from_millis(Date::now().max(0.0) as u64)
}

/// Calls the page's hook, which returns whether to stop.
pub(crate) struct Hook<'a>(pub(crate) &'a Function);

impl Hook<'_> {
    pub(crate) async fn tell(&self, event: &str, a: JsValue, b: JsValue) -> Result<bool, Failure> {
        let told = self.0.call3(&JsValue::NULL, &event.into(), &a, &b);
        let mut answer = told.map_err(Failure::Page)?;
        if answer.has_type::<Promise>() {
            let promise: Promise = answer.unchecked_into();
            answer = JsFuture::from(promise).await.map_err(Failure::Page)?;
        }
        Ok(answer.is_truthy())
    }
}

/// Brings `session` to the end of the prompt, takes the snapshot `before`, and answers. Returns how
/// it ended.
pub(crate) async fn answer(
    shared: &Shared,
    session: &mut Session,
    before: &mut Option<Snapshot>,
    request: Request<'_>,
    options: &str,
    hook: &Function,
) -> Result<String, Failure> {
    let options: Options = serde_json::from_str(options)
        .map_err(|error| Failure::Argument(format!("options: {error}")))?;
    let prompt = prompt(shared, &request, &options)?;
    let mut answer = Answer::new(session, &shared.defaults, prompt, &options.answer())?;
    let Some(mut cache) = shared.cache.take() else { return Err(Failure::Busy) };
    let result = run(&mut answer, session, &mut cache, before, &Hook(hook)).await;
    *shared.cache.borrow_mut() = Some(cache);
    if result.is_err() {
        // Awaited here, since later code can't await. A failure leaves the session poisoned.
        let _ = answer.pause_async(session).await;
    }
    let AnswerEnd { reason, stats, .. } = result?;
    let guesses = stats.speculation.map(|guesses| {
        json!({ "steps": guesses.steps, "drafted": guesses.drafted, "accepted": guesses.accepted })
    });
    let ended = json!({
        "reason": reason_name(&reason),
        "promptTokens": stats.prompt,
        "reusedTokens": stats.reused,
        "ids": answer.tokens(),
        "speculation": guesses,
        "position": session.position(),
        "stateBytes": session.state_bytes(),
    });
    Ok(ended.to_string())
}

fn reason_name(reason: &EndReason) -> &'static str {
    match reason {
        EndReason::StopToken(_) => "stop-token",
        EndReason::StopString(_) => "stop-string",
        EndReason::MaxTokens => "max-tokens",
        EndReason::ContextFull => "context-full",
        EndReason::Stopped => "stopped",
    }
}

/// Passes each event to the page until the end.
async fn run(
    answer: &mut Answer<'_>,
    session: &mut Session,
    cache: &mut PrefixCache,
    before: &mut Option<Snapshot>,
    hook: &Hook<'_>,
) -> Result<AnswerEnd, Failure> {
    while let Some(event) = answer.next_async(session, Some(cache)).await? {
        let stop = match event {
            Event::Prompt { done, total } => {
                if done == total {
                    *before = Some(session.snapshot()?);
                }
                hook.tell("prompt", done.into(), total.into()).await?
            }
            Event::Token { id, text } => hook.tell("token", id.into(), text.into()).await?,
            Event::End(end) => {
                if !end.text.is_empty() {
                    hook.tell("text", JsValue::NULL, (&end.text).into()).await?;
                }
                return Ok(end);
            }
            _ => false,
        };
        if stop {
            answer.stop()?;
        }
    }
    Err(Failure::Argument("the answer has already ended".into()))
}

fn prompt(
    shared: &Shared,
    request: &Request<'_>,
    options: &Options,
) -> Result<AnswerPrompt, Failure> {
    let tokenizer = shared.defaults.require_tokenizer()?;
    match request {
        Request::Text(text) => {
            Ok(AnswerPrompt::text(tokenizer.encode(text, EncodeOptions::default())?))
        }
        Request::Chat(messages) => {
            let messages: Vec<Message> = serde_json::from_str(messages)
                .map_err(|error| Failure::Argument(format!("messages: {error}")))?;
            let template = shared.template.as_ref();
            let template = template.map_err(|why| Failure::Argument(why.clone()))?;
            let chat = ChatOptions {
                variables: options.variables.clone(),
                tools: options.tools.clone(),
                now: options.now.and_then(DateTime::from_unix),
                template: options.template.clone(),
                ..ChatOptions::default()
            };
            let conversation = Conversation { messages, options: chat };
            Ok(AnswerPrompt::chat(conversation.prompt(template, tokenizer)?))
        }
    }
}
