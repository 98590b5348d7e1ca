//! A sequence of tokens and its state: answers, snapshots, saving.

use std::rc::Rc;

use js_sys::Function;
use kinglet::{Session, Snapshot as CoreSnapshot};
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::answer;
use crate::engine::Shared;
use crate::error::Failure;

/// A sequence of tokens and its state.
#[wasm_bindgen]
pub struct Sequence {
    shared: Rc<Shared>,
    session: Session,
    /// Its state before its last answer.
    prompt: Option<CoreSnapshot>,
}

/// The state of a sequence at one moment.
#[wasm_bindgen]
pub struct Snapshot(CoreSnapshot);

#[wasm_bindgen]
impl Snapshot {
    /// Number of tokens of the sequence.
    pub fn position(&self) -> usize {
        self.0.position()
    }

    /// Exports the whole state.
    ///
    /// # Errors
    /// If the state can't be copied from its device.
    pub async fn save(&self) -> Result<Vec<u8>, JsValue> {
        let mut bytes = Vec::new();
        self.0.write_to_async(&mut bytes).await.map_err(Failure::from)?;
        Ok(bytes)
    }
}

#[wasm_bindgen]
impl Sequence {
    /// Answers `messages` (a JSON list). `options` is JSON, see [`answer::Options`](crate::answer).
    /// `hook` is called with each event; the answer ends if it returns true, or a promise of it.
    /// Returns how it ended, as JSON.
    ///
    /// # Errors
    /// Errors of the engine and the template, and exceptions of `hook`.
    pub async fn chat(
        &mut self,
        messages: &str,
        options: &str,
        hook: Function,
    ) -> Result<String, JsValue> {
        let request = answer::Request::Chat(messages);
        Ok(self.answer(request, options, &hook).await?)
    }

    /// Continues the text `prompt` without a template; otherwise like [`Sequence::chat`].
    ///
    /// # Errors
    /// See [`Sequence::chat`].
    pub async fn generate(
        &mut self,
        prompt: &str,
        options: &str,
        hook: Function,
    ) -> Result<String, JsValue> {
        let request = answer::Request::Text(prompt);
        Ok(self.answer(request, options, &hook).await?)
    }

    /// Takes a snapshot. Cheap.
    ///
    /// # Errors
    /// If the sequence is poisoned by a failed step.
    pub fn snapshot(&self) -> Result<Snapshot, JsValue> {
        Ok(Snapshot(self.session.snapshot().map_err(Failure::from)?))
    }

    /// The state before its last answer, if there was one.
    #[wasm_bindgen(js_name = lastPrompt)]
    pub fn last_prompt(&self) -> Option<Snapshot> {
        self.prompt.clone().map(Snapshot)
    }

    /// Restores a snapshot of this sequence or another one of the model.
    ///
    /// # Errors
    /// If the snapshot belongs to another model.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), JsValue> {
        Ok(self.session.restore(&snapshot.0).map_err(Failure::from)?)
    }

    /// Copies the sequence. Both continue independently.
    ///
    /// # Errors
    /// If there is no memory for its state.
    pub fn fork(&self) -> Result<Sequence, JsValue> {
        let session = self.session.fork().map_err(Failure::from)?;
        Ok(Self { shared: self.shared.clone(), session, prompt: self.prompt.clone() })
    }

    /// Exports the whole state.
    ///
    /// # Errors
    /// If the state can't be copied from its device.
    pub async fn save(&self) -> Result<Vec<u8>, JsValue> {
        let mut bytes = Vec::new();
        self.session.write_to_async(&mut bytes, None).await.map_err(Failure::from)?;
        Ok(bytes)
    }

    /// Number of tokens and size of the state as JSON.
    pub fn stats(&self) -> String {
        let (tokens, bytes) = (self.session.position(), self.session.state_bytes());
        json!({ "tokens": tokens, "stateBytes": bytes }).to_string()
    }

    /// The tokens so far.
    pub fn tokens(&self) -> Vec<u32> {
        self.session.tokens().to_vec()
    }
}

impl Sequence {
    pub(crate) fn new(shared: Rc<Shared>, session: Session) -> Self {
        Self { shared, session, prompt: None }
    }

    async fn answer(
        &mut self,
        request: answer::Request<'_>,
        options: &str,
        hook: &Function,
    ) -> Result<String, Failure> {
        let Self { shared, session, prompt } = self;
        answer::answer(shared, session, prompt, request, options, hook).await
    }

    /// Adds this sequence's state to the cache for other sequences.
    pub(crate) fn keep(&self) -> Result<(), Failure> {
        if let Some(cache) = self.shared.cache.borrow_mut().as_mut() {
            cache.insert(&self.session)?;
        }
        Ok(())
    }
}
