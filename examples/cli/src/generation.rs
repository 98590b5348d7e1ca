//! Answers printed to standard output as they are generated.

use kinglet::answer::{
    Answer as Loop, AnswerDefaults, AnswerEnd, AnswerOptions, AnswerPrompt, EndReason, Event,
};
use kinglet::sampling::SamplerState;
use kinglet::{PrefixCache, Session};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::interrupt;
use crate::output::Output;
use crate::progress::{Progress, Unit};
use crate::speculate_args::{Source, Speculation};
use crate::stats::{self, Stats};

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// The model generated this stop token.
    StopToken(u32),
    /// This stop string was about to appear.
    StopString(String),
    /// `--max-tokens`.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// Ctrl-C.
    Interrupted,
}

impl From<EndReason> for StopReason {
    fn from(reason: EndReason) -> Self {
        match reason {
            EndReason::StopToken(id) => Self::StopToken(id),
            EndReason::StopString(text) => Self::StopString(text),
            EndReason::MaxTokens => Self::MaxTokens,
            EndReason::ContextFull => Self::ContextFull,
            EndReason::Stopped => Self::Interrupted,
        }
    }
}

impl StopReason {
    /// Name in JSON.
    fn name(&self) -> &'static str {
        match self {
            Self::StopToken(_) => "stop_token",
            Self::StopString(_) => "stop_string",
            Self::MaxTokens => "max_tokens",
            Self::ContextFull => "context_full",
            Self::Interrupted => "interrupted",
        }
    }

    /// A remark about an answer that the model did not end itself.
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
    /// Text, without stop tokens and stop strings.
    pub(crate) text: String,
    /// Tokens, including the stop token.
    pub(crate) tokens: Vec<u32>,
    /// Why the answer ended.
    pub(crate) stop: StopReason,
    /// Counts and times.
    pub(crate) stats: Stats,
    /// Random seed.
    pub(crate) seed: u64,
}

impl Answer {
    /// The final JSON event of an answer.
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
        if let (Value::Object(event), Value::Object(stats)) =
            (&mut event, stats::to_json(&self.stats))
        {
            event.extend(stats);
        }
        event
    }
}

/// A prompt, and how to answer it.
pub(crate) struct Question<'a> {
    /// Session that computes the answer.
    pub(crate) session: &'a mut Session,
    /// Cache of earlier prompts.
    pub(crate) cache: Option<&'a mut PrefixCache>,
    /// Defaults from the model's files.
    pub(crate) defaults: &'a AnswerDefaults,
    /// The prompt.
    pub(crate) prompt: AnswerPrompt,
    /// Options from the command line.
    pub(crate) options: &'a AnswerOptions,
    /// Speculation, if enabled.
    pub(crate) speculation: Option<&'a mut Speculation>,
    /// Random state to continue from; updated to the state after the answer.
    pub(crate) random: Option<&'a mut SamplerState>,
}

impl Question<'_> {
    /// Generates the answer and prints it meanwhile. Ctrl-C ends it.
    ///
    /// # Errors
    /// Errors of the engine, the sampler, the tokenizer and standard output.
    pub(crate) fn answer(self, output: &mut Output) -> Result<Answer, CliError> {
        let Self { session, cache, defaults, prompt, options, speculation, mut random } = self;
        let mut answer = Loop::new(session, defaults, prompt, options)?;
        if let Some(Speculation { source, most }) = speculation {
            answer = match source {
                Source::Drafter(drafter) => answer.speculate(&mut **drafter, *most),
                Source::Head => answer.speculate_with_head(*most),
            };
        }
        if let Some(random) = &random {
            answer = answer.go_on_from(random);
        }
        // Without a tokenizer token ids are printed.
        let numbers = defaults.tokenizer.is_none();
        let result = print(&mut answer, session, cache, numbers, output);
        if result.is_err() {
            // The session is poisoned while steps are in flight, and a failure here leaves it so.
            let _ = answer.pause(session);
        }
        let (text, end) = result?;
        if let Some(random) = &mut random {
            random.clone_from(answer.sampler_state());
        }
        let (tokens, seed) = (answer.tokens().to_vec(), answer.seed());
        let answer = Answer { text, tokens, stop: end.reason.into(), stats: end.stats, seed };
        output.done(&answer)?;
        Ok(answer)
    }
}

/// Prints an answer as it is generated; returns its text and end.
fn print(
    answer: &mut Loop<'_>,
    session: &mut Session,
    mut cache: Option<&mut PrefixCache>,
    numbers: bool,
    output: &mut Output,
) -> Result<(String, AnswerEnd), CliError> {
    let mut text = String::new();
    let mut progress = Some(Progress::new("reading the prompt", Unit::Tokens));
    loop {
        if interrupt::hit() {
            // Ending the answer may take a step.
            interrupt::cancel().clear();
            answer.stop()?;
        }
        let event = match answer.next(session, cache.as_deref_mut()) {
            // Ctrl-C during a long step.
            Err(error) if error.is_cancelled() && interrupt::hit() => continue,
            event => event?,
        };
        match event.ok_or(CliError::Interrupted)? {
            Event::Prompt { done, total } => {
                if let Some(progress) = &mut progress {
                    progress.set(done as u64, total as u64);
                }
            }
            Event::Token { id, text: mut piece } => {
                progress = None;
                if numbers {
                    let begun = !text.is_empty();
                    piece = if begun { format!(",{id}") } else { id.to_string() };
                }
                text.push_str(&piece);
                output.token(Some(id), &piece)?;
            }
            Event::End(end) => {
                drop(progress);
                text.push_str(&end.text);
                output.token(None, &end.text)?;
                return Ok((text, end));
            }
            _ => {}
        }
    }
}
