//! Drives [`Answer`] across separate calls from C.

use std::sync::{Arc, Mutex, PoisonError};

use kinglet::answer::{Answer, AnswerPrompt, AnswerStats, EndReason, Event};
use kinglet::speculate::{DraftModel, Drafter, check_tokenizers};
use kinglet::text::EncodeOptions;
use kinglet::{Error, GenerateOptions};

use crate::generation::kinglet_finish;
use crate::generation_options::GenerationOptions;
use crate::model::ModelObject;
use crate::session::Inner;
use crate::status::Failure;

/// Input that is computed before the first token.
pub(crate) enum Prompt {
    /// Tokens to append to the session.
    After(Vec<u32>),
    /// The whole content of the session: a conversation.
    Whole(kinglet::text::Prompt),
}

/// One answer.
pub(crate) struct Generator {
    answer: Answer<'static>,
    /// Whether states are cached for the next prompt.
    keeps: bool,
    cache_bytes: usize,
}

/// A token, and the text that it makes final.
pub(crate) struct Piece {
    pub(crate) token: u32,
    pub(crate) text: String,
}

impl Generator {
    pub(crate) fn new(
        model: &ModelObject,
        inner: &mut Inner,
        prompt: Prompt,
        options: &GenerationOptions,
    ) -> Result<Self, Failure> {
        if !options.answer.stop_strings.is_empty() {
            // Reports why loading the tokenizer failed, not only that it is missing.
            model.tokenizer()?;
        }
        let keeps = matches!(prompt, Prompt::Whole(_));
        let prompt = match prompt {
            Prompt::After(tokens) => AnswerPrompt::after(tokens),
            Prompt::Whole(prompt) => AnswerPrompt::chat(prompt),
        };
        let mut answer = Answer::new(&inner.session, model.defaults()?, prompt, &options.answer)?;
        if let Some((draft, most)) = &options.draft {
            answer = answer.speculate(drafter(model, inner, draft)?, *most);
        } else if options.head_drafts > 0 {
            if !model.model.has_prediction_head() {
                return Err(Failure::argument(
                    "drafts of the prediction head: the model was opened without one; see \
                     kinglet_model_options_set_prediction_head",
                ));
            }
            answer = answer.speculate_with_head(options.head_drafts);
        }
        Ok(Self { answer, keeps, cache_bytes: model.options.cache_bytes })
    }

    /// Generates the next token; `None` after the last. After a cancellation the next call
    /// continues.
    pub(crate) fn next(&mut self, inner: &mut Inner) -> Result<Option<Piece>, Failure> {
        // Other calls may use the session between two tokens.
        self.answer.set_ahead(0);
        self.advance(inner)
    }

    /// Generates the rest of the answer and passes each token to `each`, which returns whether to
    /// continue. The session is locked meanwhile, so the device may run ahead of the returned
    /// tokens. After a cancellation this or [`Self::next`] continues.
    pub(crate) fn run(
        &mut self,
        inner: &mut Inner,
        mut each: impl FnMut(Piece) -> bool,
    ) -> Result<(), Failure> {
        self.answer.set_ahead(GenerateOptions::default().ahead);
        while let Some(piece) = self.advance(inner)? {
            if !each(piece) {
                self.answer.stop()?;
            }
        }
        Ok(())
    }

    fn advance(&mut self, inner: &mut Inner) -> Result<Option<Piece>, Failure> {
        loop {
            let event = match self.keeps {
                true => {
                    let (session, cache) = inner.cache(self.cache_bytes)?;
                    self.answer.next(session, Some(cache))?
                }
                false => self.answer.next(&mut inner.session, None)?,
            };
            match event {
                Some(Event::Token { id, text }) => return Ok(Some(Piece { token: id, text })),
                Some(Event::End(_)) | None => return Ok(None),
                Some(_) => {}
            }
        }
    }

    /// Ends the answer on the program's request.
    pub(crate) fn stop(&mut self, inner: &mut Inner) -> Result<(), Failure> {
        self.answer.stop()?;
        self.advance(inner).map(drop)
    }

    /// Leaves the session in a valid state, whatever is in progress.
    pub(crate) fn leave(&mut self, inner: &mut Inner) {
        // A failure poisons the session, and later calls report that.
        let _ = self.answer.pause(&mut inner.session);
    }

    pub(crate) fn finish(&self) -> kinglet_finish {
        use kinglet_finish::*;
        match self.answer.reason() {
            None => KINGLET_FINISH_NONE,
            Some(EndReason::StopToken(_)) => KINGLET_FINISH_STOP,
            Some(EndReason::StopString(_)) => KINGLET_FINISH_STOP_TEXT,
            Some(EndReason::MaxTokens) => KINGLET_FINISH_MAX_TOKENS,
            Some(EndReason::ContextFull) => KINGLET_FINISH_CONTEXT_FULL,
            Some(EndReason::Stopped) => KINGLET_FINISH_STOPPED,
        }
    }

    pub(crate) fn stats(&self) -> AnswerStats {
        self.answer.stats()
    }

    pub(crate) fn text(&self) -> &str {
        self.answer.text()
    }
}

/// A draft model's session, kept from turn to turn.
#[derive(Clone)]
pub(crate) struct SharedDrafter(Arc<Mutex<DraftModel>>);

impl Drafter for SharedDrafter {
    fn draft(&mut self, tokens: &[u32], most: usize) -> Result<Vec<u32>, Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).draft(tokens, most)
    }
}

/// The drafter of a session: the last turn's, if it used the same draft model.
fn drafter(
    model: &ModelObject,
    inner: &mut Inner,
    draft: &Arc<ModelObject>,
) -> Result<SharedDrafter, Failure> {
    if let Some((known, drafter)) = &inner.drafter
        && Arc::ptr_eq(known, draft)
    {
        return Ok(drafter.clone());
    }
    if let (Ok(own), Ok(others)) = (model.tokenizer(), draft.tokenizer()) {
        check_tokenizers(others, own)?;
    }
    let drafter = DraftModel::new(&draft.model, &model.model)?;
    let drafter = SharedDrafter(Arc::new(Mutex::new(drafter)));
    inner.drafter = Some((draft.clone(), drafter.clone()));
    Ok(drafter)
}

/// Tokenizes the text of a prompt.
pub(crate) fn encode(
    model: &ModelObject,
    text: &str,
    options: EncodeOptions,
) -> Result<Vec<u32>, Failure> {
    Ok(model.tokenizer()?.encode(text, options)?)
}
