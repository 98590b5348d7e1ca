//! Measures the speed of a model.

use js_sys::Function;
use kinglet::GenerateOptions;
use kinglet::sampling::{Sampler, SamplingOptions};
use wasm_bindgen::prelude::*;

use crate::answer::Hook;
use crate::engine::Engine;
use crate::error::Failure;

/// Maximum number of tokens.
const MOST: usize = 24;

#[wasm_bindgen]
impl Engine {
    /// Generates some tokens, which are discarded, and calls `hook` after each until it returns
    /// true.
    ///
    /// # Errors
    /// Errors of the engine, and exceptions of `hook`.
    pub async fn pace(&self, hook: Function) -> Result<(), JsValue> {
        Ok(self.pace_in(&hook).await?)
    }

    async fn pace_in(&self, hook: &Function) -> Result<(), Failure> {
        let mut session = self.shared.model.session()?;
        let greedy = SamplingOptions::greedy();
        let mut sampler = Sampler::new(greedy, 0)?;
        session.feed_async(&[0]).await?;
        let mut generation =
            session.generate(&mut sampler, GenerateOptions::new().max_tokens(MOST));
        let told = async {
            while generation.next_token_async().await?.is_some() {
                if Hook(hook).tell("token", JsValue::NULL, JsValue::NULL).await? {
                    break;
                }
            }
            Ok::<(), Failure>(())
        }
        .await;
        let settled = generation.finish_async().await;
        told?;
        Ok(settled?)
    }
}
