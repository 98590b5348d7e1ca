//! An answer: the prompt's tokens, then one token after the other, with an ear for the page between them.

use js_sys::{Function, Promise};
use kinglet::sampling::{Sampler, SamplingOptions};
use kinglet::text::{
    ChatOptions, Conversation, DateTime, EncodeOptions, FinishReason, Message, OutputStream,
    Prompt, StopMatcher, StreamDecoder,
};
use kinglet::{Error, GenerateOptions, PrefixCache, PrefixUse, Session, Snapshot};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use crate::engine::Shared;
use crate::error::Failure;

/// What is asked for.
pub(crate) enum Request<'a> {
    /// An answer to messages: a JSON list.
    Chat(&'a str),
    /// The continuation of a text.
    Text(&'a str),
}

/// How an answer is generated. What is not given is as the model's authors set it.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Options {
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    seed: u64,
    stop: Vec<String>,
    /// Variables for the template.
    variables: Map<String, Value>,
    tools: Option<Vec<Value>>,
    /// Which of several templates.
    template: Option<String>,
    /// Seconds since 1970, in local time: what the template calls now.
    now: Option<i64>,
}

impl Options {
    fn sampling(&self, shared: &Shared) -> Result<SamplingOptions, Failure> {
        let mut options = SamplingOptions::from_generation_config(&shared.defaults)?;
        let given = [
            (self.temperature, &mut options.temperature),
            (self.top_p, &mut options.top_p),
            (self.min_p, &mut options.min_p),
            (self.repetition_penalty, &mut options.repetition_penalty),
            (self.presence_penalty, &mut options.presence_penalty),
            (self.frequency_penalty, &mut options.frequency_penalty),
        ];
        for (given, option) in given {
            *option = given.unwrap_or(*option);
        }
        options.top_k = self.top_k.unwrap_or(options.top_k);
        Ok(options)
    }
}

/// What the page is told, and whether it wants no more.
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

/// Brings `session` to the end of what is asked, which `before` then holds, and answers. Gives how it ended.
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
    let hook = Hook(hook);
    let mut sampler = Sampler::new(options.sampling(shared)?, options.seed)?;
    let prompt = prompt(shared, &request, &options)?;
    let used = prefill(shared, session, &prompt, &hook).await?;
    let mut ids = Vec::new();
    let reason = if used.complete {
        *before = Some(session.snapshot()?);
        sampler.state_mut().accept_all(&prompt.tokens);
        let continued = matches!(request, Request::Text(_)).then_some(&prompt.tokens[..]);
        tokens(shared, session, &mut sampler, &options, continued, &hook, &mut ids).await?
    } else {
        "stopped"
    };
    if let Some(cache) = shared.cache.borrow_mut().as_mut() {
        cache.insert(session)?;
    }
    let ended = json!({
        "reason": reason,
        "promptTokens": prompt.tokens.len(),
        "reusedTokens": used.reused,
        "ids": ids,
        "position": session.position(),
        "stateBytes": session.state_bytes(),
    });
    Ok(ended.to_string())
}

fn prompt(shared: &Shared, request: &Request<'_>, options: &Options) -> Result<Prompt, Failure> {
    match request {
        Request::Text(text) => {
            let tokens = shared.tokenizer.encode(text, EncodeOptions::default())?;
            Ok(Prompt { tokens, boundaries: Vec::new() })
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
            Ok(conversation.prompt(template, &shared.tokenizer)?)
        }
    }
}

async fn prefill(
    shared: &Shared,
    session: &mut Session,
    prompt: &Prompt,
    hook: &Hook<'_>,
) -> Result<PrefixUse, Failure> {
    let Some(mut cache) = shared.cache.take() else { return Err(Failure::Busy) };
    let result = prefill_with(&mut cache, session, prompt, hook).await;
    *shared.cache.borrow_mut() = Some(cache);
    result
}

async fn prefill_with(
    cache: &mut PrefixCache,
    session: &mut Session,
    prompt: &Prompt,
    hook: &Hook<'_>,
) -> Result<PrefixUse, Failure> {
    let mut thrown = None;
    let used = cache
        .prefill_async(session, &prompt.tokens, &prompt.boundaries, async |done, total| match hook
            .tell("prompt", done.into(), total.into())
            .await
        {
            Ok(stop) => !stop,
            Err(error) => {
                thrown = Some(error);
                false
            }
        })
        .await?;
    thrown.map_or(Ok(used), Err)
}

/// Generates until something ends the answer, and says what.
async fn tokens(
    shared: &Shared,
    session: &mut Session,
    sampler: &mut Sampler,
    options: &Options,
    continued: Option<&[u32]>,
    hook: &Hook<'_>,
    ids: &mut Vec<u32>,
) -> Result<&'static str, Failure> {
    let tokenizer = shared.tokenizer.clone();
    let decoder = match continued {
        Some(prompt) => StreamDecoder::continuing(tokenizer, true, prompt)?,
        None => StreamDecoder::new(tokenizer, true),
    };
    let mut output =
        OutputStream::new(decoder, shared.stop.clone(), StopMatcher::new(&options.stop)?);
    let defaults = shared.defaults.max_new_tokens.map(|most| most as usize);
    let most = options.max_tokens.or(defaults).unwrap_or(usize::MAX);
    let mut generation = session.generate(sampler, GenerateOptions::new().max_tokens(most));
    let ended = async {
        loop {
            let id = match generation.next_token_async().await {
                Ok(Some(id)) => id,
                Ok(None) => break Ok::<_, Failure>("max-tokens"),
                Err(Error::ContextFull { .. }) => break Ok("context-full"),
                Err(error) => break Err(error.into()),
            };
            ids.push(id);
            let piece = output.push(id)?;
            match piece.finish {
                Some(finish) => {
                    hook.tell("token", id.into(), piece.text.into()).await?;
                    return Ok(match finish {
                        FinishReason::StopToken(_) => "stop-token",
                        FinishReason::StopString(_) => "stop-string",
                    });
                }
                None => {
                    if hook.tell("token", id.into(), piece.text.into()).await? {
                        break Ok("stopped");
                    }
                }
            }
        }
    }
    .await;
    // Waited for here: where it would be done when the value is dropped, nobody can wait.
    let settled = generation.finish_async().await;
    let reason = ended?;
    settled?;
    if !matches!(reason, "stop-token" | "stop-string") {
        let rest = output.finish()?;
        if !rest.text.is_empty() {
            hook.tell("text", JsValue::NULL, rest.text.into()).await?;
        }
    }
    Ok(reason)
}
