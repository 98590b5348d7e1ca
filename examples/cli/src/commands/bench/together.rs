//! `kinglet bench --sessions`: decode speed of sessions that share their steps.

use std::time::Instant;

use kinglet::sampling::{Sampler, SamplingOptions};
use kinglet::{Batch, BatchOptions, GenerateOptions, Model, Outcome, Traffic};

use super::{go_on, token};
use crate::error::CliError;

/// Minimum number of bytes that a step moves per token; all tokens share the weights. `None` for a
/// mixture of experts with several sessions, since which experts they share is unknown.
pub(super) fn bytes_per_token(model: &Model, one: Traffic, sessions: usize) -> Option<u64> {
    let chooses = model.plan().ops.iter().any(|op| matches!(op, kinglet::op::Op::MoeUp(_)));
    let own = one.state + one.key_value;
    (!chooses || sessions == 1).then(|| own + one.weights / sessions as u64)
}

/// Decode speed of all sessions together, in tokens per second: greedy, from prompts of one token,
/// which are not counted.
pub(super) fn decode(
    model: &Model,
    sessions: usize,
    tokens: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<f64, CliError> {
    let mut batch = Batch::new(model, BatchOptions::new().sequences(sessions));
    let options = GenerateOptions::new().max_tokens(tokens + 1);
    for index in 0..sessions {
        let sampler = Sampler::new(SamplingOptions::greedy(), 0)?;
        let prompt = [token(index, model.vocab())];
        go_on()?;
        batch.join(model.session()?, &prompt, sampler, options)?;
    }
    batch.step()?;
    let start = Instant::now();
    let mut generated = 0u64;
    while batch.is_busy() {
        go_on()?;
        for event in batch.step()? {
            match event.outcome {
                Outcome::Token(_) => generated += 1,
                Outcome::Failed(error) => return Err(error.into()),
                _ => {}
            }
        }
        progress(generated);
    }
    Ok(generated as f64 / start.elapsed().as_secs_f64())
}
