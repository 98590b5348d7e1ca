//! Compares tokens that the device chooses with what the host's sampler makes of the same logits.

use super::super::api::{Commands, Gpu, Launches};
use super::super::program::Program;
use super::super::readback::Readback;
use super::super::recording::Step;
use super::super::sample::Sampling;
use super::probe::VOCAB;
use crate::Error;
use crate::backend::executable::TokenChoice;
use crate::sampling::{Sampler, SamplingError, SamplingOptions};

/// Where each token of the test falls in the cumulated probabilities.
const NUMBERS: [f64; 3] = [0.03, 0.47, 0.91];
/// Tolerance of a probability.
const TOLERANCE: f64 = 1e-3;
/// Size of the staging memory of a token, in bytes.
const BYTES: u64 = 16;

/// Options for each kernel, and for each limit on the candidates.
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
pub(super) async fn wrong<A: Gpu>(program: &Program<A>) -> Result<Option<String>, Error> {
    let Some(sampling) = program.recording.sampling else { return Ok(None) };
    // Unsorted, and all different.
    let logits: Vec<f32> = (0..VOCAB).map(|i| (i * 89 % VOCAB) as f32 * 0.03 - 2.0).collect();
    for options in ways() {
        for number in NUMBERS {
            let Some(mut choice) = options.choice(VOCAB).filter(Sampling::can) else {
                continue;
            };
            if let TokenChoice::Drawn(draw) = &mut choice {
                draw.number = number;
            }
            let token = chosen(program, &sampling, &logits, &choice).await?;
            if falls_on(&options, &choice, &logits, token) != Ok(true) {
                return Ok(Some("tokens are not those that were to be chosen".into()));
            }
        }
    }
    Ok(None)
}

/// The token that the device chooses by `logits`.
async fn chosen<A: Gpu>(
    program: &Program<A>,
    sampling: &Sampling,
    logits: &[f32],
    choice: &TokenChoice,
) -> Result<u32, Error> {
    let (device, recording) = (&*program.device, &program.recording);
    let staging = program.token_staging.take(device, BYTES)?;
    program.write(recording.memory.logits, logits);
    // Stays there if nothing is chosen.
    program.write(recording.memory.tokens, &[u32::MAX]);
    program.write_steps(&[Step { tokens: 1, ..Step::default() }], 0);
    if let Some(draw) = Sampling::draw_bytes(choice) {
        program.write(sampling.draw, &draw);
    }
    let mut calls = Vec::new();
    recording.sampling(sampling.launches(choice), 0, &mut calls);
    let mut commands = device.commands();
    let launches = Launches { calls: &calls, ready: &program.ready, sessions: &[] };
    commands.launch(&launches, None);
    commands.fetch(program.buffer(recording.memory.tokens), 0, &staging, 0, BYTES);
    let readback = Readback::new(commands.submit(), vec![(staging, BYTES)]);
    let mut token = u32::MAX;
    let take = |words: &[u32]| token = words.first().copied().unwrap_or(u32::MAX);
    readback.read(device, &program.token_staging, take).await?;
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
