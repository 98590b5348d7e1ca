//! `kinglet`: the command line of the Kinglet inference engine.
//!
//! One file per command in [`commands`]. To add one: a `mod` line there, a variant of [`Command`]
//! and its line in [`run`]. What commands share: [`model_folder`] (which model), [`load`] (opening it),
//! [`sampling_args`] (how tokens are chosen), [`generation`] (the loop from prompt to answer),
//! [`output`] (what goes to standard output), [`wrap`] (its lines on a [`terminal`]), [`interrupt`] (Ctrl-C), [`atomic`]
//! (files that are written whole or not at all), [`paths`] (as people type them), [`error`].

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod args;
mod atomic;
mod commands;
mod error;
mod generation;
mod interrupt;
mod load;
mod model_folder;
mod output;
mod paths;
mod progress;
mod report;
mod sampling_args;
mod speculate_args;
mod stats;
mod terminal;
mod tokens;
mod wrap;

use args::GlobalArgs;
use error::CliError;

const EXAMPLES: &str = "\
Examples:
  kinglet chat                                  talk to the demo model
  kinglet chat --model ~/models/granite-4.0-h   talk to a checkpoint from the hub
  echo \"What is a fjord?\" | kinglet chat        one question, only the answer is printed
  kinglet generate --prompt \"Once upon a time\"  continue a text
  kinglet tokenize \"Hello there\"                text to token ids
  kinglet logits --tokens 1,2,3 --out l.safetensors
  kinglet inspect --context 32768               what a model is made of, and the memory it takes
  kinglet quantize --model DIR --out DIR-4bit   a checkpoint of a quarter of the size

A model is a folder as it comes from the hub: config.json, *.safetensors, tokenizer.json.
Without --model, the folder in the environment variable KINGLET_MODEL is used, else the demo
model that comes with Kinglet.

Exit codes: 0 all went well, 1 an error (one line on standard error says what to do),
2 the command line was wrong, 130 interrupted with Ctrl-C.";

/// Runs recurrent and hybrid language models on your own machine.
#[derive(Parser)]
#[command(name = "kinglet", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Talk to a model
    Chat(commands::chat::ChatArgs),
    /// Continue a text or a sequence of tokens
    Generate(commands::generate::GenerateArgs),
    /// Write the logits after each token to a file, to compare them with anything
    Logits(commands::logits::LogitsArgs),
    /// Turn text into token ids, or token ids into text
    Tokenize(commands::tokenize::TokenizeArgs),
    /// Say what a model is made of: blocks, parameters, memory, the ops that it runs as
    Inspect(commands::inspect::InspectArgs),
    /// Say how well a model predicts a text, and how far it is from a reference
    Eval(commands::eval::EvalArgs),
    /// Write a checkpoint in fewer bits per weight
    Quantize(commands::quantize::QuantizeArgs),
    /// Measure prefill and decode, in tokens per second and as a share of the memory's bandwidth
    Bench(commands::bench::BenchArgs),
    /// Say what can compute here: the processor and the adapters of the wgpu backend
    Devices(commands::devices::DevicesArgs),
}

fn run(cli: Cli) -> Result<(), CliError> {
    interrupt::install()?;
    let global = &cli.global;
    match cli.command {
        Command::Chat(args) => commands::chat::run(global, args),
        Command::Generate(args) => commands::generate::run(global, args),
        Command::Logits(args) => commands::logits::run(global, &args),
        Command::Tokenize(args) => commands::tokenize::run(global, args),
        Command::Inspect(args) => commands::inspect::run(global, &args),
        Command::Eval(args) => commands::eval::run(global, &args),
        Command::Quantize(args) => commands::quantize::run(global, &args),
        Command::Bench(args) => commands::bench::run(global, &args),
        Command::Devices(args) => commands::devices::run(&args),
    }
}

fn main() -> ExitCode {
    report::keep_panics_quiet();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return report::usage(&error),
    };
    let verbose = cli.global.verbose;
    start_logging(verbose);
    match std::panic::catch_unwind(AssertUnwindSafe(|| run(cli))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => report::error(&error, verbose),
        Err(_) => report::error(&CliError::Internal { panic: report::last_panic() }, verbose),
    }
}

/// To standard error: warnings, with `-v` more. `RUST_LOG` refines it.
fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        2 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    };
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .filter_module("kinglet", level)
        .parse_default_env()
        .init();
}
