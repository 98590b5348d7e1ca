//! Tokens that the device chooses in its self-test, held against what the sampler of the host would make of the same logits.

use super::super::program::{Program, Recorder};
use super::super::readback::Readback;
use super::super::sample::Sampling;
use super::probe::VOCAB;
use crate::Error;
use crate::backend::executable::TokenChoice;
use crate::sampling::{Sampler, SamplingError, SamplingOptions};

/// Where each token of the test falls in the cumulated probabilities.
const NUMBERS: [f64; 3] = [0.03, 0.47, 0.91];
/// How far a probability may be off.
const TOLERANCE: f64 = 1e-3;
/// Bytes that a token is read back in.
const BYTES: u64 = 16;

/// A way of choosing for each kernel, and for each bound on what is chosen from.
fn ways() -> Vec<SamplingOptions> {
    let plain = SamplingOptions::default();
    vec![
        SamplingOptions::greedy(),
        SamplingOptions { temperature: 0.8, ..plain.clone() },
        SamplingOptions { temperature: 1.5, min_p: 0.05, ..plain.clone() },
        SamplingOptions { temperature: 2.0, top_k: 20, ..plain.clone() },
        SamplingOptions { top_p: 0.913, ..plain },
    ]
}

/// What is wrong with the tokens that the device chooses, if anything is.
///
/// # Errors
/// When the device fails.
pub(super) async fn wrong(program: &Program) -> Result<Option<String>, Error> {
    let Some(sampling) = program.sampling.as_deref() else { return Ok(None) };
    // In disorder, and none twice.
    let logits: Vec<f32> = (0..VOCAB).map(|i| (i * 89 % VOCAB) as f32 * 0.03 - 2.0).collect();
    for options in ways() {
        for number in NUMBERS {
            let Some(mut choice) = options.choice(VOCAB).filter(|choice| sampling.can(choice))
            else {
                continue;
            };
            if let TokenChoice::Drawn(draw) = &mut choice {
                draw.number = number;
            }
            let token = chosen(program, sampling, &logits, &choice).await?;
            if falls_on(&options, &choice, &logits, token) != Ok(true) {
                return Ok(Some("tokens are not those that were to be chosen".into()));
            }
        }
    }
    Ok(None)
}

/// What the device makes of `logits`.
async fn chosen(
    program: &Program,
    sampling: &Sampling,
    logits: &[f32],
    choice: &TokenChoice,
) -> Result<u32, Error> {
    let (device, memory) = (&program.device, &program.memory);
    let queue = &device.queue;
    let staging = program.spare_tokens.take(device, BYTES)?;
    queue.write_buffer(&memory.logits, 0, bytemuck::cast_slice(logits));
    // What stays there if nothing is chosen.
    queue.write_buffer(&memory.tokens, 0, &u32::MAX.to_le_bytes());
    program.write_steps(&[[0, 1, 0, 0]], 0);
    if let Some(draw) = Sampling::draw_bytes(choice) {
        queue.write_buffer(&sampling.draw, 0, &draw);
    }
    let mut encoder = device.device.create_command_encoder(&Default::default());
    let mut recorder = Recorder::new(&mut encoder, None);
    for dispatch in sampling.dispatches(choice) {
        recorder.record(dispatch, dispatch.bind_group.as_ref(), 0, 1);
    }
    drop(recorder);
    encoder.copy_buffer_to_buffer(&memory.tokens, 0, &staging, 0, Some(BYTES));
    let readback = Readback::new(queue.submit([encoder.finish()]), vec![(staging, BYTES)]);
    let mut token = u32::MAX;
    let take = |words: &[u32]| token = words.first().copied().unwrap_or(u32::MAX);
    readback.read(device, &program.spare_tokens, take).await?;
    Ok(token)
}

/// Whether `choice`, which is that of `options`, falls on `token` or so near to it that rounding decides.
fn falls_on(
    options: &SamplingOptions,
    choice: &TokenChoice,
    logits: &[f32],
    token: u32,
) -> Result<bool, SamplingError> {
    let mut probabilities = Sampler::new(options.clone(), 0)?.distribution(logits)?;
    let TokenChoice::Drawn(draw) = choice else {
        return Ok(probabilities.first().is_some_and(|(first, _)| *first == token));
    };
    if !draw.by_rank() {
        probabilities.sort_unstable_by_key(|(id, _)| *id);
    }
    let mut sum = 0.0;
    Ok(probabilities.iter().any(|(id, probability)| {
        let start = sum;
        sum += f64::from(*probability);
        let near = start - TOLERANCE..sum + TOLERANCE;
        *id == token && near.contains(&draw.number)
    }))
}
