//! A sequence of tokens and its state: answers, snapshots, bytes to keep.

use std::rc::Rc;

use js_sys::Function;
use kinglet::{Session, Snapshot as CoreSnapshot};
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::answer;
use crate::engine::Shared;
use crate::error::Failure;

/// A sequence of tokens with its state.
#[wasm_bindgen]
pub struct Sequence {
    shared: Rc<Shared>,
    session: Session,
    /// What it was before its last answer.
    prompt: Option<CoreSnapshot>,
}

/// What a sequence was at a moment.
#[wasm_bindgen]
pub struct Snapshot(CoreSnapshot);

#[wasm_bindgen]
impl Snapshot {
    /// Tokens that the sequence had taken.
    pub fn position(&self) -> usize {
        self.0.position()
    }

    /// All of it, to be kept elsewhere.
    ///
    /// # Errors
    /// When the state can't be copied from its device.
    pub async fn save(&self) -> Result<Vec<u8>, JsValue> {
        let mut bytes = Vec::new();
        self.0.write_to_async(&mut bytes).await.map_err(Failure::from)?;
        Ok(bytes)
    }
}

#[wasm_bindgen]
impl Sequence {
    /// Answers `messages` (JSON, a list). `options` is JSON, see [`answer::Options`](crate::answer). `hook` is called with what happens; what
    /// it returns, or what the promise that it returns gives, ends the answer where it is true. Gives how it ended: JSON.
    ///
    /// # Errors
    /// The engine's, the template's and what `hook` throws.
    pub async fn chat(
        &mut self,
        messages: &str,
        options: &str,
        hook: Function,
    ) -> Result<String, JsValue> {
        let request = answer::Request::Chat(messages);
        Ok(self.answer(request, options, &hook).await?)
    }

    /// Continues `prompt`, a text as it is. Else as [`Sequence::chat`].
    ///
    /// # Errors
    /// As [`Sequence::chat`].
    pub async fn generate(
        &mut self,
        prompt: &str,
        options: &str,
        hook: Function,
    ) -> Result<String, JsValue> {
        let request = answer::Request::Text(prompt);
        Ok(self.answer(request, options, &hook).await?)
    }

    /// What the sequence is now. Cheap.
    ///
    /// # Errors
    /// When a step of it has failed half-way.
    pub fn snapshot(&self) -> Result<Snapshot, JsValue> {
        Ok(Snapshot(self.session.snapshot().map_err(Failure::from)?))
    }

    /// What the sequence was before its last answer, if it gave one.
    #[wasm_bindgen(js_name = lastPrompt)]
    pub fn last_prompt(&self) -> Option<Snapshot> {
        self.prompt.clone().map(Snapshot)
    }

    /// Makes the sequence what it, or another of the model, was.
    ///
    /// # Errors
    /// When the snapshot is another model's.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), JsValue> {
        Ok(self.session.restore(&snapshot.0).map_err(Failure::from)?)
    }

    /// A second sequence that goes on from here by itself.
    ///
    /// # Errors
    /// When there is no memory for its state.
    pub fn fork(&self) -> Result<Sequence, JsValue> {
        let session = self.session.fork().map_err(Failure::from)?;
        Ok(Self { shared: self.shared.clone(), session, prompt: self.prompt.clone() })
    }

    /// All of it, to be kept elsewhere.
    ///
    /// # Errors
    /// When the state can't be copied from its device.
    pub async fn save(&self) -> Result<Vec<u8>, JsValue> {
        let mut bytes = Vec::new();
        self.session.write_to_async(&mut bytes, None).await.map_err(Failure::from)?;
        Ok(bytes)
    }

    /// Tokens and bytes of state: JSON.
    pub fn stats(&self) -> String {
        let (tokens, bytes) = (self.session.position(), self.session.state_bytes());
        json!({ "tokens": tokens, "stateBytes": bytes }).to_string()
    }

    /// The tokens taken so far.
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

    /// Lets other sequences begin with what this one holds.
    pub(crate) fn keep(&self) -> Result<(), Failure> {
        if let Some(cache) = self.shared.cache.borrow_mut().as_mut() {
            cache.insert(&self.session)?;
        }
        Ok(())
    }
}
