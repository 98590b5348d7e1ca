//! `kinglet bench`: prefill and decode speed, in tokens per second and as a share of memory
//! bandwidth.
//!
//! Each round measures the memory's read bandwidth before and after the test, so a machine whose
//! speed drifts is compared with itself. Each test's medians over the rounds are printed when it is
//! done. On a device its own memory is measured, with a copy kernel.

mod memory;
mod profile;
mod rows;
mod speculation;
mod together;

use std::path::PathBuf;
use std::time::Instant;

use clap::ValueHint;
use kinglet::sampling::{Sampler, SamplingOptions};
use kinglet::{GenerateOptions, Logits, Model, Run, Session, Traffic};

use self::memory::{Memory, peak_rss};
use self::rows::Measured;
use crate::args::{GlobalArgs, count, count_or_none};
use crate::error::CliError;
use crate::output::{Format, Output, escape};
use crate::progress::{Progress, Unit};
use crate::speculate_args::SpeculateArgs;
use crate::table::{self, bytes, title, wrapped};
use crate::{interrupt, load};

const EXAMPLES: &str = "\
Each row is printed when it is measured: the median of the rounds. The bytes of
a token are all weights and states that it must move. The share is relative to
the memory bandwidth (of), which is measured before and after every round.

Examples:
  kinglet bench
  kinglet bench --model DIR --prefill 2048 --depth 0,4096 --rounds 3
  kinglet bench --model DIR --sessions 1,4,16     several sessions together
  kinglet bench --speculate ngram --prompt-file notes.txt
  kinglet bench --profile                         time each kernel, or each op on the CPU";

/// Options of `bench`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchArgs {
    /// Tokens of the prefill test; 0 skips it
    #[arg(long, default_value_t = 512, value_name = "TOKENS", value_parser = count_or_none())]
    pub(crate) prefill: usize,
    /// Tokens of the decode test; 0 skips it
    #[arg(long, default_value_t = 128, value_name = "TOKENS", value_parser = count_or_none())]
    pub(crate) decode: usize,
    /// Tokens already in the context; decode is measured for each number
    #[arg(long, default_value = "0", value_delimiter = ',', value_name = "TOKENS,..", value_parser = count_or_none())]
    pub(crate) depth: Vec<usize>,
    /// Numbers of sessions that decode together, measured in addition [default: none]
    #[arg(long, value_delimiter = ',', value_name = "SESSIONS,..", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) sessions: Vec<u16>,
    /// Rounds; the median is reported
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = count())]
    pub(crate) rounds: usize,
    /// Time each kernel (on the CPU, each op) of a prefill step and a decode step
    #[arg(long)]
    pub(crate) profile: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
    /// With --speculate: file with the text to continue [default: token ids that vary like text]
    #[arg(long, value_name = "FILE", requires = "speculate", value_hint = ValueHint::FilePath)]
    pub(crate) prompt_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) speculate: SpeculateArgs,
}

/// A measurement.
struct Test {
    name: &'static str,
    tokens: usize,
    depth: usize,
    /// Number of sessions that run together.
    sessions: usize,
    /// Bytes that a token must move; `None` for prefill, which is limited by computation.
    bytes_per_token: Option<u64>,
    /// Kernels that a decode step launches; `None` for prefill and on the host.
    kernels: Option<usize>,
}

impl Test {
    fn new(name: &'static str, tokens: usize, depth: usize, bytes_per_token: Option<u64>) -> Self {
        Self { name, tokens, depth, sessions: 1, bytes_per_token, kernels: None }
    }

    fn title(&self) -> String {
        match self.name {
            "together" => format!("{} x {}", self.sessions, self.tokens),
            name => format!("{name} {}", self.tokens),
        }
    }
}

/// Tokens of a prompt between two checks for Ctrl-C, the size of a step: on the CPU, and on a
/// device.
const PIECES: (usize, usize) = (512, 2048);

/// Token ids that vary like text, so that different experts and embedding rows are used.
fn token(index: usize, vocab: usize) -> u32 {
    let mixed = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    (mixed % vocab as u64) as u32
}

/// Runs the tests and prints a row after each.
///
/// # Errors
/// Errors of the engine; sizes that exceed the memory; [`CliError::Interrupted`] after Ctrl-C.
pub(crate) fn run(global: &GlobalArgs, args: &BenchArgs) -> Result<(), CliError> {
    let model = &load::model(global, |options| args.speculate.adjust(options))?;
    let _guard = interrupt::guard();
    let mut output = Output::new(if args.json { Format::Json } else { Format::Text });
    check_memory(model, args)?;
    if args.profile {
        return profile::run(model, args, &mut output);
    }
    if let Some(speculation) = args.speculate.speculation(global, model)? {
        return speculation::run(model, args, speculation, &mut output);
    }
    let on_host = model.dispatches(1) == 0;
    let memory = on_host.then(|| Memory::new(model.threads()));
    let width = table::width();
    if !args.json {
        output.styled(&heading(model, args, on_host, width))?;
    }
    for test in tests(model, args)? {
        let measured = measure(model, &test, args.rounds, memory.as_ref())?;
        if args.json {
            let own = memory.as_ref().map_or(0, Memory::bytes);
            let peak = peak_rss().map(|peak| peak.saturating_sub(own));
            output.event(&measured.json(model.decodes_ahead(), peak))?;
        } else {
            output.styled(&rows::row(&measured, width))?;
        }
    }
    Ok(())
}

fn heading(model: &Model, args: &BenchArgs, on_host: bool, width: usize) -> String {
    let mut text = title(&escape(&model.folder().display().to_string())) + "\n";
    let what = if on_host { "read" } else { "copy" };
    let rounds = if args.rounds == 1 { "round" } else { "rounds" };
    let mut about = format!(
        "{}; {} {rounds}, median; share: GB/s relative to a {what} of the memory",
        model.describe(),
        args.rounds
    );
    if !on_host {
        about += &format!("; {} kernels for a token", model.dispatches(1));
    }
    if model.decodes_ahead() && args.decode > 0 {
        about += "; decode is greedy, with tokens chosen on the device and read back later";
    }
    text += &wrapped(&about, "", width);
    text + &rows::header(width) + "\n"
}

/// The tests that the options ask for.
fn tests(model: &Model, args: &BenchArgs) -> Result<Vec<Test>, CliError> {
    let mut tests = Vec::new();
    if args.prefill > 0 {
        tests.push(Test::new("prefill", args.prefill, 0, None));
    }
    if args.decode == 0 {
        return Ok(tests);
    }
    for &depth in &args.depth {
        let bytes = Traffic::of_decode(model.plan(), model.weights(), depth + args.decode / 2)?;
        let mut test = Test::new("decode", args.decode, depth, Some(bytes.total()));
        test.kernels = Some(model.dispatches(1)).filter(|count| *count > 0);
        tests.push(test);
    }
    for &count in &args.sessions {
        let one = Traffic::of_decode(model.plan(), model.weights(), args.decode / 2)?;
        // For a mixture of experts this is unknown: it depends on which experts the tokens share.
        let bytes = together::bytes_per_token(model, one, usize::from(count));
        let mut test = Test::new("together", args.decode, 0, bytes);
        test.sessions = usize::from(count);
        let kernels = model.dispatches_together(&vec![1; test.sessions]);
        test.kernels = Some(kernels).filter(|count| *count > 0);
        tests.push(test);
    }
    Ok(tests)
}

/// Fails if the states of the tests don't fit the host's memory, before the system kills the
/// process for it.
fn check_memory(model: &Model, args: &BenchArgs) -> Result<(), CliError> {
    let Some(free) = load::available_memory().filter(|_| model.dispatches(1) == 0) else {
        return Ok(());
    };
    let deepest = args.depth.iter().copied().max().unwrap_or(0).saturating_add(args.decode);
    let alone = (1, deepest.max(args.prefill));
    let together = args.sessions.iter().map(|&count| (usize::from(count), args.decode));
    for (sessions, positions) in together.chain([alone]) {
        let each = model.plan().state_bytes(positions) as u64;
        let needed = each.saturating_mul(sessions as u64);
        if needed > free {
            let what =
                if sessions == 1 { "a session".into() } else { format!("{sessions} sessions") };
            return Err(CliError::Usage(format!(
                "{what} of {positions} tokens would take {}, but only {} are free: reduce the size",
                bytes(needed),
                bytes(free)
            )));
        }
    }
    Ok(())
}

/// Runs all rounds of a test. The first warms caches and page tables and is not counted.
fn measure<'a>(
    model: &Model,
    test: &'a Test,
    rounds: usize,
    memory: Option<&Memory>,
) -> Result<Measured<'a>, CliError> {
    let read = || match memory {
        Some(memory) => Ok(memory.read()),
        None => model.memory_bandwidth().map(Option::unwrap_or_default),
    };
    let mut start = None;
    if test.name == "decode" {
        let mut session = model.session()?;
        let mut progress =
            Progress::new(format!("{} tokens before decode", test.depth), Unit::Tokens);
        feed(&mut session, test.depth, Logits::None, &mut |done| {
            progress.set(done, test.depth as u64)
        })?;
        start = Some(session);
    }
    let mut progress = Progress::new(test.title(), Unit::Tokens);
    let each = test.tokens.saturating_mul(test.sessions) as u64;
    let total = each.saturating_mul(rounds as u64 + 1);
    let (mut rates, mut bandwidths) = (Vec::new(), Vec::new());
    let mut before = read()?;
    for round in 0..=rounds as u64 {
        let mut told = |done: u64| progress.set(round * each + done, total);
        let rate = match (&start, test.name) {
            (Some(session), _) => decode(&mut session.fork()?, test.tokens, &mut told)?,
            (None, "together") => together::decode(model, test.sessions, test.tokens, &mut told)?,
            (None, _) => prefill(model, test.tokens, &mut told)?,
        };
        let after = read()?;
        if round > 0 {
            rates.push(rate);
            bandwidths.push((before + after) / 2.0);
        }
        before = after;
    }
    Ok(Measured { test, rates, bandwidths, on_host: memory.is_some() })
}

/// Returns an error after Ctrl-C.
fn go_on() -> Result<(), CliError> {
    if interrupt::hit() { Err(CliError::Interrupted) } else { Ok(()) }
}

/// Feeds this number of tokens and computes the given logits.
fn feed(
    session: &mut Session,
    tokens: usize,
    logits: Logits,
    progress: &mut dyn FnMut(u64),
) -> Result<(), CliError> {
    let model = session.model().clone();
    let piece = if model.dispatches(1) == 0 { PIECES.0 } else { PIECES.1 };
    let mut fed = 0;
    while fed < tokens {
        go_on()?;
        let end = tokens.min(fed + piece);
        let ids: Vec<u32> = (fed..end).map(|index| token(index, model.vocab())).collect();
        let logits = if end == tokens { logits } else { Logits::None };
        model.step(&mut [Run { session, tokens: &ids, logits }])?;
        fed = end;
        progress(fed as u64);
    }
    Ok(())
}

fn prefill(model: &Model, tokens: usize, progress: &mut dyn FnMut(u64)) -> Result<f64, CliError> {
    let mut session = model.session()?;
    let start = Instant::now();
    feed(&mut session, tokens, Logits::Last, progress)?;
    Ok(tokens as f64 / start.elapsed().as_secs_f64())
}

/// Decode speed in tokens per second. A device that chooses tokens by itself decodes greedily ahead
/// of the host, as `generate` does; otherwise given tokens are fed and none are chosen.
fn decode(
    session: &mut Session,
    tokens: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<f64, CliError> {
    let vocab = session.model().vocab();
    let first = session.position();
    if session.model().decodes_ahead() {
        session.feed(&[token(first, vocab)])?;
        let mut sampler = Sampler::new(SamplingOptions::greedy(), 0)?;
        let mut generation = session.generate(&mut sampler, GenerateOptions::new());
        generation.next_token()?;
        let start = Instant::now();
        for done in 1..=tokens {
            go_on()?;
            generation.next_token()?;
            progress(done as u64);
        }
        return Ok(tokens as f64 / start.elapsed().as_secs_f64());
    }
    let start = Instant::now();
    for i in 0..tokens {
        go_on()?;
        session.feed(&[token(first + i, vocab)])?;
        progress(i as u64 + 1);
    }
    Ok(tokens as f64 / start.elapsed().as_secs_f64())
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
