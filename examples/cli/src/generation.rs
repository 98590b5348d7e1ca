//! From a prompt to an answer: prefill, then token by token until something ends it.

use std::time::Instant;

use kinglet::sampling::Sampler;
use kinglet::text::{FinishReason, OutputStream, StopTokens};
use kinglet::{GenerateOptions, Logits, Run, Session};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::interrupt;
use crate::output::Output;
use crate::progress::{Progress, Unit};
use crate::speculate_args::Speculation;
use crate::stats::Stats;

/// Tokens of a prompt that are computed between two looks at Ctrl-C.
const PIECE: usize = 512;

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// The model ended it with this token.
    StopToken(u32),
    /// This text was about to appear.
    StopString(String),
    /// `--max-tokens`.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// Ctrl-C.
    Interrupted,
}

impl StopReason {
    /// For machines.
    fn name(&self) -> &'static str {
        match self {
            Self::StopToken(_) => "stop_token",
            Self::StopString(_) => "stop_string",
            Self::MaxTokens => "max_tokens",
            Self::ContextFull => "context_full",
            Self::Interrupted => "interrupted",
        }
    }

    /// For people: what the end of an answer that is not the model's own is due to.
    pub(crate) fn remark(&self) -> Option<&'static str> {
        match self {
            Self::StopToken(_) | Self::StopString(_) => None,
            Self::MaxTokens => Some("cut off: --max-tokens allows more"),
            Self::ContextFull => Some("cut off: the context is full"),
            Self::Interrupted => Some("stopped"),
        }
    }
}

/// A finished answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Its text, without stop tokens and stop strings.
    pub(crate) text: String,
    /// Its tokens, with the one that ended it.
    pub(crate) tokens: Vec<u32>,
    /// Why it ended.
    pub(crate) stop: StopReason,
    /// What it took.
    pub(crate) stats: Stats,
    /// What the random numbers began with.
    pub(crate) seed: u64,
}

impl Answer {
    /// The last event of an answer.
    pub(crate) fn to_json(&self) -> Value {
        let mut event = json!({
            "event": "done",
            "text": self.text,
            "ids": self.tokens,
            "stop_reason": self.stop.name(),
            "stop_token": match &self.stop { StopReason::StopToken(id) => Some(id), _ => None },
            "stop_string": match &self.stop { StopReason::StopString(text) => Some(text), _ => None },
            "seed": self.seed,
        });
        if let (Value::Object(event), Value::Object(stats)) = (&mut event, self.stats.to_json()) {
            event.extend(stats);
        }
        event
    }
}

/// How the tokens of an answer become text.
pub(crate) enum Decode {
    /// Through the model's tokenizer.
    Text {
        /// Holds back half characters and beginnings of stop strings.
        stream: Box<OutputStream>,
        /// The stop strings, as the stream was given them.
        stops: Vec<String>,
    },
    /// As numbers, where there is no tokenizer.
    Ids {
        /// The tokens that end the answer.
        stop: StopTokens,
        /// Whether a number has been written.
        begun: bool,
    },
}

impl Decode {
    /// The text that a token brings, and whether it ends the answer.
    fn push(&mut self, id: u32) -> Result<(String, Option<StopReason>), CliError> {
        match self {
            Self::Text { stream, stops } => {
                let output = stream.push(id)?;
                Ok((output.text, output.finish.map(|finish| reason(finish, stops))))
            }
            Self::Ids { stop, begun } => {
                let text = if *begun { format!(",{id}") } else { id.to_string() };
                *begun = true;
                Ok((text, stop.contains(id).then_some(StopReason::StopToken(id))))
            }
        }
    }

    /// The text that was held back; a stop string may appear in it.
    fn finish(&mut self) -> Result<(String, Option<StopReason>), CliError> {
        match self {
            Self::Text { stream, stops } => {
                let output = stream.finish()?;
                Ok((output.text, output.finish.map(|finish| reason(finish, stops))))
            }
            Self::Ids { .. } => Ok((String::new(), None)),
        }
    }
}

fn reason(finish: FinishReason, stops: &[String]) -> StopReason {
    match finish {
        FinishReason::StopToken(id) => StopReason::StopToken(id),
        FinishReason::StopString(index) => {
            StopReason::StopString(stops.get(index).cloned().unwrap_or_default())
        }
    }
}

/// Takes `tokens` into the session. False when Ctrl-C stopped it: the session then holds the first of them.
///
/// # Errors
/// The engine's.
pub(crate) fn prefill(
    session: &mut Session,
    tokens: &[u32],
    progress: &mut Progress,
) -> Result<bool, CliError> {
    let model = session.model().clone();
    let total = tokens.len() as u64;
    let mut done = 0;
    for piece in tokens.chunks(PIECE) {
        if interrupt::hit() {
            return Ok(false);
        }
        done += piece.len() as u64;
        let logits = if done == total { Logits::Last } else { Logits::None };
        model.step(&mut [Run { session: &mut *session, tokens: piece, logits }])?;
        progress.set(done, total);
    }
    Ok(!interrupt::hit())
}

/// A progress bar for [`prefill`].
pub(crate) fn prefill_progress() -> Progress {
    Progress::new("reading the prompt", Unit::Tokens)
}

/// What bounds an answer.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// The most tokens of the answer.
    pub(crate) max_tokens: usize,
    /// The most tokens of prompt and answer.
    pub(crate) context: Option<usize>,
}

impl Limits {
    /// Checks that a prompt leaves room for at least one token.
    ///
    /// # Errors
    /// [`CliError::PromptTooLong`], [`CliError::EmptyPrompt`].
    pub(crate) fn check(&self, prompt: usize) -> Result<(), CliError> {
        if prompt == 0 {
            return Err(CliError::EmptyPrompt);
        }
        match self.context {
            Some(limit) if prompt >= limit => {
                Err(CliError::PromptTooLong { tokens: prompt, limit })
            }
            _ => Ok(()),
        }
    }
}

/// An answer about to be generated.
pub(crate) struct Generation<'a> {
    /// Holds the prompt and its last logits.
    pub(crate) session: &'a mut Session,
    /// Has the prompt in its history.
    pub(crate) sampler: &'a mut Sampler,
    /// How tokens become text.
    pub(crate) decode: Decode,
    /// What bounds the answer.
    pub(crate) limits: Limits,
    /// When the question was asked.
    pub(crate) begun: Instant,
    /// Those of the prompt.
    pub(crate) stats: Stats,
    /// What the random numbers began with.
    pub(crate) seed: u64,
    /// What guesses tokens, if anything.
    pub(crate) speculation: Option<&'a mut Speculation>,
}

impl Generation<'_> {
    /// Generates the answer and prints it as it comes.
    ///
    /// # Errors
    /// Those of the engine, the sampler, the tokenizer and of standard output.
    pub(crate) fn run(self, output: &mut Output) -> Result<Answer, CliError> {
        let Self { session, sampler, mut decode, limits, begun, stats, seed, speculation } = self;
        let (text, tokens, stop) = (String::new(), Vec::new(), StopReason::Interrupted);
        let mut answer = Answer { text, tokens, stop, stats, seed };
        let mut first = None;
        // No more than the context has room for, so that the device doesn't go further.
        let room = limits.context.map_or(usize::MAX, |limit| limit - session.position().min(limit));
        let options = GenerateOptions::new().max_tokens(limits.max_tokens.min(room).max(1));
        let mut generation = session.generate(sampler, options);
        if let Some(Speculation { drafter, most }) = speculation {
            generation = generation.speculate(Box::new(&mut **drafter), *most);
        }
        while !interrupt::hit() {
            let Some(id) = generation.next_token()? else { break };
            answer.tokens.push(id);
            let now = Instant::now();
            let first = *first.get_or_insert(now);
            answer.stats.first_token.get_or_insert(now - begun);
            answer.stats.decode = now - first;
            let (text, finish) = decode.push(id)?;
            answer.text.push_str(&text);
            output.token(Some(id), &text)?;
            if let Some(finish) = finish {
                answer.stop = finish;
                break;
            }
            if answer.tokens.len() >= limits.max_tokens {
                answer.stop = StopReason::MaxTokens;
                break;
            }
            // The token would be taken into the state only to have no place for the next one.
            if limits.context.is_some_and(|limit| generation.position() + 1 >= limit) {
                answer.stop = StopReason::ContextFull;
                break;
            }
        }
        answer.stats.speculation = generation.speculation();
        generation.finish()?;
        if !matches!(answer.stop, StopReason::StopToken(_) | StopReason::StopString(_)) {
            let (text, finish) = decode.finish()?;
            answer.text.push_str(&text);
            output.token(None, &text)?;
            answer.stop = finish.unwrap_or(answer.stop);
        }
        answer.stats.generated = answer.tokens.len();
        output.done(&answer)?;
        Ok(answer)
    }
}
