//! `kinglet bench --speculate`: the speed-up from drafted tokens, for the same answer.
//!
//! Both answers are greedy and continue the same text. Each round generates one and then the other,
//! so a machine whose speed drifts is compared with itself. On a device the answer without drafts
//! is decoded ahead of the host, as in `generate`.

use std::time::Instant;

use kinglet::sampling::{Sampler, SamplingOptions};
use kinglet::speculate::SpeculationStats;
use kinglet::text::EncodeOptions;
use kinglet::{GenerateOptions, Model, Session};
use serde_json::json;

use super::{BenchArgs, go_on, median, token};
use crate::error::CliError;
use crate::output::{Output, escape};
use crate::progress::{Progress, Unit};
use crate::speculate_args::{Source, Speculation};
use crate::table::{title, wrapped};
use crate::{load, table, tokens};

/// Tokens of the prompt if no text is given.
const PROMPT: usize = 64;

/// Measures, and prints a row.
///
/// # Errors
/// If the text can't be read; errors of the engine.
pub(super) fn run(
    model: &Model,
    args: &BenchArgs,
    with: Speculation,
    output: &mut Output,
) -> Result<(), CliError> {
    let Speculation { mut source, most } = with;
    let prompt = match &args.prompt_file {
        Some(path) => {
            load::tokenizer(model)?.encode(&tokens::read_text(path)?, EncodeOptions::default())?
        }
        None => (0..PROMPT).map(|index| token(index, model.vocab())).collect(),
    };
    let mut start = model.session()?;
    start.feed(&prompt)?;
    let count = args.decode.max(1);
    let (mut plain, mut guessed, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut stats = SpeculationStats::default();
    let mut same = true;
    let mut progress = Progress::new("decode, without and with drafts", Unit::Tokens);
    let total = (2 * count as u64).saturating_mul(args.rounds as u64 + 1);
    let mut done = 0;
    let mut told = || {
        done += 1;
        progress.set(done, total);
        go_on()
    };
    // The first round is not counted.
    for round in 0..=args.rounds {
        let without = answer(&mut start.fork()?, count, None, &mut told)?;
        let with = answer(&mut start.fork()?, count, Some((&mut source, most)), &mut told)?;
        same &= without.tokens == with.tokens;
        stats = with.stats;
        if round > 0 {
            plain.push(without.rate);
            guessed.push(with.rate);
            ratios.push(with.rate / without.rate);
        }
    }
    drop(progress);
    let (plain, guessed, ratio) = (median(&plain), median(&guessed), median(&ratios));
    let SpeculationStats { steps, drafted, accepted } = stats;
    if args.json {
        let row = json!({
            "test": "speculation",
            "tokens": count,
            "depth": prompt.len(),
            "tokens_per_second": guessed,
            "tokens_per_second_without": plain,
            "speed_up": ratio,
            "steps": steps,
            "drafted": drafted,
            "accepted": accepted,
            "same_answer": same,
            "rounds": ratios.len(),
        });
        output.event(&row)
    } else {
        let mut text = title(&escape(&model.folder().display().to_string())) + "\n";
        let width = table::width();
        let (rounds, before) = (ratios.len(), prompt.len());
        let mut lines = vec![
            format!(
                "{}; {count} tokens after {before}, greedy, rounds: {rounds}",
                model.describe()
            ),
            format!("without drafts {plain:>10.1} tokens/s"),
            format!("with drafts    {guessed:>10.1} tokens/s   x {ratio:.2}"),
            format!("{accepted} of {drafted} drafted tokens accepted, {steps} steps of the model"),
        ];
        if !same {
            // A step of several tokens rounds differently from steps of one.
            let why = "the answers differ: two tokens were equally probable up to rounding";
            lines.push(why.into());
        }
        text.extend(lines.iter().map(|line| wrapped(line, "  ", width)));
        output.styled(&text)
    }
}

struct Answer {
    tokens: Vec<u32>,
    /// Tokens per second.
    rate: f64,
    stats: SpeculationStats,
}

fn answer(
    session: &mut Session,
    count: usize,
    guesses: Option<(&mut Source, usize)>,
    told: &mut dyn FnMut() -> Result<(), CliError>,
) -> Result<Answer, CliError> {
    let mut sampler = Sampler::new(SamplingOptions::greedy(), 0).map_err(kinglet::Error::from)?;
    let prompt = session.tokens().to_vec();
    let mut generation = session.generate(&mut sampler, GenerateOptions::new());
    generation = match guesses {
        None => generation,
        Some((Source::Head, most)) => generation.speculate_with_head(most),
        Some((Source::Drafter(drafter), most)) => {
            // Let a draft model read the prompt first, which is not decoding.
            drafter.draft(&prompt, 1)?;
            generation.speculate(Box::new(&mut **drafter), most)
        }
    };
    // The first token is chosen from logits that are already computed.
    let mut tokens = Vec::with_capacity(count + 1);
    tokens.extend(generation.next_token()?);
    let start = Instant::now();
    for _ in 0..count {
        told()?;
        tokens.extend(generation.next_token()?);
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    let stats = generation.speculation().unwrap_or_default();
    generation.finish()?;
    Ok(Answer { tokens, rate, stats })
}
