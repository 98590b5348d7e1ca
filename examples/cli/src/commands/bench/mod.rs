//! `kinglet bench`: prefill and decode speed, as tokens per second and as a share of what the memory gives.
//!
//! Every round runs each test once and measures the memory's read bandwidth before and after it, so that a machine
//! whose speed drifts is compared with itself; medians over the rounds are reported. On a device its own memory is measured,
//! with a kernel that copies.

mod memory;
mod profile;
mod speculation;
mod together;

use std::path::PathBuf;
use std::time::Instant;

use kinglet::sampling::{Sampler, SamplingOptions};
use kinglet::{Error, GenerateOptions, Logits, Model, Run, Session, Traffic};
use serde_json::json;

use self::memory::{Memory, peak_rss};
use crate::args::GlobalArgs;
use crate::error::CliError;
use crate::load;
use crate::speculate_args::SpeculateArgs;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Tokens of a prefill test; 0 for none
    #[arg(long, default_value_t = 512, value_name = "TOKENS")]
    pub(crate) prefill: usize,
    /// Tokens of a decode test; 0 for none
    #[arg(long, default_value_t = 128, value_name = "TOKENS")]
    pub(crate) decode: usize,
    /// Tokens already in the context, for each of which decode is measured
    #[arg(long, default_value = "0", value_delimiter = ',', value_name = "TOKENS,..")]
    pub(crate) depth: Vec<usize>,
    /// Sessions that decode together, for each number of which it is measured too
    #[arg(long, value_delimiter = ',', value_name = "SESSIONS,..", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) sessions: Vec<u16>,
    /// Rounds; the median is reported
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Say how long each kernel takes on the device, in a step of prefill and in one of decode
    #[arg(long)]
    pub(crate) profile: bool,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    /// With --speculate: the text whose continuation is measured, else tokens that look like one
    #[arg(long, value_name = "FILE", requires = "speculate")]
    pub(crate) prompt_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) speculate: SpeculateArgs,
}

/// One measured thing.
struct Test {
    name: &'static str,
    tokens: usize,
    depth: usize,
    /// How many sessions do it together.
    sessions: usize,
    /// Bytes that a token must move; for prefill none are stated, since it computes.
    bytes_per_token: Option<u64>,
    /// Tokens per second of each round.
    rates: Vec<f64>,
    /// Share of the bandwidth of each round.
    shares: Vec<f64>,
}

/// Token ids that look like text in that they vary: experts and embedding rows are not always the same.
fn token(index: usize, vocab: usize) -> u32 {
    let mixed = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    (mixed % vocab as u64) as u32
}

/// Runs the measurements and prints a row a test.
///
/// # Errors
/// What the engine reports: a context that doesn't fit into memory, say.
pub(crate) fn run(global: &GlobalArgs, args: &BenchArgs) -> Result<(), CliError> {
    let model = &load::model(global, |options| options)?;
    let vocab = model.vocab();
    if args.profile {
        return profile::run(model, args);
    }
    if let Some(speculation) = args.speculate.speculation(global, model)? {
        return speculation::run(model, args, speculation);
    }
    let on_host = model.dispatches(1) == 0;
    let memory = on_host.then(|| Memory::new(model.threads()));
    let read = || match &memory {
        Some(memory) => Ok(memory.read()),
        None => model.memory_bandwidth().map(Option::unwrap_or_default),
    };
    let mut tests = Vec::new();
    let mut sessions: Vec<Option<Session>> = Vec::new();
    if args.prefill > 0 {
        tests.push(Test::new("prefill", args.prefill, 0, None));
        sessions.push(None);
    }
    for &depth in &args.depth {
        if args.decode == 0 {
            continue;
        }
        let bytes = Traffic::of_decode(model.plan(), model.weights(), depth + args.decode / 2)?;
        tests.push(Test::new("decode", args.decode, depth, Some(bytes.total())));
        let mut session = model.session()?;
        if depth > 0 {
            let context: Vec<u32> = (0..depth).map(|i| token(i, vocab)).collect();
            let run = Run { session: &mut session, tokens: &context, logits: Logits::None };
            model.step(&mut [run])?;
        }
        sessions.push(Some(session));
    }
    for &count in args.sessions.iter().filter(|_| args.decode > 0) {
        let one = Traffic::of_decode(model.plan(), model.weights(), args.decode / 2)?;
        // Which experts several tokens use is not known.
        let bytes = together::bytes_per_token(model, one, usize::from(count));
        let mut test = Test::new("together", args.decode, 0, bytes);
        test.sessions = usize::from(count);
        tests.push(test);
        sessions.push(None);
    }
    // The first round warms caches and page tables, and is not counted.
    let mut bandwidths = Vec::new();
    for round in 0..=args.rounds.max(1) {
        let mut before = read()?;
        for (test, start) in tests.iter_mut().zip(&sessions) {
            let rate = match start {
                Some(session) => decode(&mut session.fork()?, test.tokens)?,
                None if test.name == "together" => {
                    together::decode(model, test.sessions, test.tokens)?
                }
                None => prefill(model, test.tokens)?,
            };
            let after = read()?;
            if round > 0 {
                test.rates.push(rate);
                let moved = test.bytes_per_token.unwrap_or(0) as f64 * rate;
                let bandwidth = (before + after) / 2.0;
                test.shares.push(moved / bandwidth);
                bandwidths.push(bandwidth);
            }
            before = after;
        }
    }
    let bandwidth = median(&bandwidths);
    let on_device = model.decodes_ahead();
    if !args.json {
        println!("{}: {}", model.folder().display(), model.describe());
        let rounds = args.rounds.max(1);
        let what = if on_host { "read" } else { "copy" };
        println!("memory {what} bandwidth {:.1} GB/s, {rounds} rounds", bandwidth / 1e9);
        if !on_host {
            println!("{} kernels for a token", model.dispatches(1));
        }
        if on_device && args.decode > 0 {
            println!("decode: greedy, tokens chosen on the device and read behind it");
        }
        println!(
            "test      sessions tokens   depth      tokens/s  (min .. max)            MB/token     GB/s   share"
        );
    }
    for test in &tests {
        test.print(args.json, on_device, bandwidth, memory.as_ref());
    }
    Ok(())
}

fn prefill(model: &Model, tokens: usize) -> Result<f64, Error> {
    let ids: Vec<u32> = (0..tokens).map(|i| token(i, model.vocab())).collect();
    let mut session = model.session()?;
    let start = Instant::now();
    session.feed(&ids)?;
    Ok(tokens as f64 / start.elapsed().as_secs_f64())
}

/// Tokens per second, one after the other: on a device that chooses tokens by itself greedily and read behind it, as
/// `generate` does; elsewhere given ones, with nothing chosen.
fn decode(session: &mut Session, tokens: usize) -> Result<f64, Error> {
    if session.model().decodes_ahead() {
        let first = token(session.position(), session.model().vocab());
        session.feed(&[first])?;
        let mut sampler = Sampler::new(SamplingOptions::greedy(), 0)?;
        let mut generation = session.generate(&mut sampler, GenerateOptions::new());
        generation.next_token()?;
        let start = Instant::now();
        for _ in 0..tokens {
            generation.next_token()?;
        }
        return Ok(tokens as f64 / start.elapsed().as_secs_f64());
    }
    let vocab = session.model().vocab();
    let first = session.position();
    let start = Instant::now();
    for i in 0..tokens {
        session.feed(&[token(first + i, vocab)])?;
    }
    Ok(tokens as f64 / start.elapsed().as_secs_f64())
}

impl Test {
    fn new(name: &'static str, tokens: usize, depth: usize, bytes_per_token: Option<u64>) -> Self {
        let (rates, shares) = (Vec::new(), Vec::new());
        Self { name, tokens, depth, sessions: 1, bytes_per_token, rates, shares }
    }

    fn print(&self, as_json: bool, on_device: bool, bandwidth: f64, memory: Option<&Memory>) {
        let rate = median(&self.rates);
        let least = self.rates.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.rates.iter().copied().fold(0.0, f64::max);
        let moved = self.bytes_per_token.map(|bytes| bytes as f64 * rate / 1e9);
        let share = self.bytes_per_token.map(|_| median(&self.shares));
        if as_json {
            let row = json!({
                "test": self.name,
                "tokens": self.tokens,
                "depth": self.depth,
                "sessions": self.sessions,
                "tokens_per_second": rate,
                "tokens_per_second_min": least,
                "tokens_per_second_max": most,
                "rounds": self.rates.len(),
                "chosen_on_device": self.name == "decode" && on_device,
                "bytes_per_token": self.bytes_per_token,
                "gb_per_second": moved,
                "bandwidth_gb_per_second": bandwidth / 1e9,
                "bandwidth_fraction": share,
                "peak_rss_bytes": peak_rss().map(|peak| peak.saturating_sub(memory.map_or(0, Memory::bytes))),
            });
            println!("{row}");
            return;
        }
        let number = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.1}"));
        println!(
            "{:<9} {:>8} {:>6} {:>7} {:>13.1}  ({least:.1} .. {most:.1}){:>16} {:>8} {:>7}",
            self.name,
            self.sessions,
            self.tokens,
            self.depth,
            rate,
            number(self.bytes_per_token.map(|bytes| bytes as f64 / 1e6)),
            number(moved),
            share.map_or("-".into(), |share| format!("{:.0} %", 100.0 * share)),
        );
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}
