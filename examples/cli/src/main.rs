//! `kinglet`: the command line of the Kinglet inference engine.
//!
//! One file per command in [`commands`]. To add one: a `mod` line there, a variant of [`Command`],
//! and a line in [`run`]. Shared modules: [`model_folder`] (which model), [`load`] (opening it),
//! [`sampling_args`] (sampling options), [`generation`] (the loop from prompt to answer),
//! [`output`] (standard output), [`wrap`] (line wrapping on a [`terminal`]), [`table`] (tables that
//! fit the terminal), [`interrupt`] (Ctrl-C), [`atomic`] (atomic file writes), [`paths`] (paths as
//! people type them), [`error`].

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::builder::styling::AnsiColor;
use clap::builder::{Resettable, StyledStr, Styles};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

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
mod table;
mod template;
mod terminal;
mod tokens;
mod wrap;

use args::{GlobalArgs, ModelArgs};
use error::CliError;

const EXAMPLES: &str = "\
Examples:
  kinglet chat                                  talk to the demo model
  kinglet chat --model ~/models/granite-4.0-h   talk to a checkpoint from the hub
  echo \"What is a fjord?\" | kinglet chat        one question, one answer
  kinglet generate --prompt \"Once upon a time\"  continue a text
  kinglet tokenize \"Hello there\"                convert text to token ids
  kinglet logits --tokens 1,2,3 --out l.safetensors
  kinglet inspect --context 32768               show a model's structure
  kinglet quantize --model DIR --out DIR-4bit   quantize to a quarter of the size

A model is a folder as downloaded from the hub: config.json, *.safetensors,
tokenizer.json. Without --model, the folder in the environment variable
KINGLET_MODEL is used, or else the demo model that comes with Kinglet.

In --json output, integers from 2^53 on are strings, since JavaScript would
round them.
Colors follow the terminal, NO_COLOR and CLICOLOR_FORCE.

Exit codes: 0 success, 1 error (one line on standard error says what to do),
2 invalid command line, 130 interrupted with Ctrl-C.";

const HINT: &str =
    "`kinglet COMMAND --help` shows details and examples. `kinglet chat` talks to the demo model.";

/// Runs recurrent and hybrid language models on your own machine.
#[derive(Parser)]
#[command(name = "kinglet", version, max_term_width = 100, styles = STYLES)]
#[command(after_help = HINT, after_long_help = EXAMPLES)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    /// Print more to standard error: whole errors, progress (-vv: more)
    #[arg(long, short, global = true, action = clap::ArgAction::Count, display_order = 990)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

#[derive(Subcommand)]
enum Command {
    /// Talk to a model
    Chat(Running<commands::chat::ChatArgs>),
    /// Continue a text or a sequence of tokens
    Generate(Running<commands::generate::GenerateArgs>),
    /// Write the logits after each token to a file, for comparisons
    Logits(Running<commands::logits::LogitsArgs>),
    /// Convert text to token ids, or token ids to text
    Tokenize(Looking<commands::tokenize::TokenizeArgs>),
    /// Show a model's structure: blocks, parameters, memory, ops
    Inspect(Looking<commands::inspect::InspectArgs>),
    /// Find how a model fits a device: bits of weights and states for a memory size
    Fit(Looking<commands::fit::FitArgs>),
    /// Measure how well a model predicts a text, and how far it is from a reference
    Eval(Running<commands::eval::EvalArgs>),
    /// Write a checkpoint with random weights, from a preset or a config
    Init(commands::init::InitArgs),
    /// Write a checkpoint with fewer bits per weight
    Quantize(Looking<commands::quantize::QuantizeArgs>),
    /// Measure prefill and decode speed, in tokens per second and relative to memory bandwidth
    Bench(Running<commands::bench::BenchArgs>),
    /// List what models can run on: the CPU and the adapters of the wgpu backend
    Devices(commands::devices::DevicesArgs),
    /// Print a shell's completion script
    Completions(commands::completions::CompletionsArgs),
}

/// A command that runs a model.
#[derive(Args)]
struct Running<A: Args> {
    #[command(flatten)]
    args: A,
    #[command(flatten)]
    global: GlobalArgs,
}

/// A command that only reads a model's files.
#[derive(Args)]
struct Looking<A: Args> {
    #[command(flatten)]
    args: A,
    #[command(flatten)]
    model: ModelArgs,
}

impl<A: Args> Running<A> {
    fn split(self, verbose: u8) -> (GlobalArgs, A) {
        (GlobalArgs { verbose, ..self.global }, self.args)
    }
}

/// The command line. `-h` is brief; `--help` is complete, with examples. Every option with a value
/// states its default.
fn command_line() -> clap::Command {
    let state_default = |option: clap::Arg| {
        let states = |help: Option<&StyledStr>| {
            help.is_some_and(|help| help.to_string().contains("[default: "))
        };
        let has_default = !option.get_default_values().is_empty()
            || states(option.get_help())
            || states(option.get_long_help());
        if !option.get_action().takes_values() || option.is_required_set() || has_default {
            return option;
        }
        let add = |help: &StyledStr| format!("{help} [default: none]");
        let (short, long) = (option.get_help().map(add), option.get_long_help().map(add));
        let option = match short {
            Some(short) => option.help(short),
            None => option,
        };
        match long {
            Some(long) => option.long_help(long),
            None => option,
        }
    };
    Cli::command().mut_subcommands(|command| {
        let command = match command.get_after_help().cloned() {
            Some(examples) => command.after_help(Resettable::Reset).after_long_help(examples),
            None => command,
        };
        command.mut_args(state_default)
    })
}

fn run(cli: Cli) -> Result<(), CliError> {
    interrupt::install()?;
    let verbose = cli.verbose;
    match cli.command {
        Command::Chat(run) => {
            let (global, args) = run.split(verbose);
            commands::chat::run(&global, args)
        }
        Command::Generate(run) => {
            let (global, args) = run.split(verbose);
            commands::generate::run(&global, args)
        }
        Command::Logits(run) => commands::logits::run(&run.global, &run.args),
        Command::Tokenize(look) => commands::tokenize::run(&look.model, look.args),
        Command::Inspect(look) => commands::inspect::run(&look.model, &look.args),
        Command::Fit(look) => commands::fit::run(&look.model, &look.args),
        Command::Eval(run) => commands::eval::run(&run.global, &run.args),
        Command::Init(args) => commands::init::run(&args),
        Command::Quantize(look) => commands::quantize::run(&look.model, &look.args),
        Command::Bench(run) => commands::bench::run(&run.global, &run.args),
        Command::Devices(args) => commands::devices::run(&args),
        Command::Completions(args) => commands::completions::run(&args, command_line()),
    }
}

fn main() -> ExitCode {
    report::keep_panics_quiet();
    let mut command = command_line();
    let parsed = command.try_get_matches_from_mut(std::env::args_os());
    let parsed = parsed.and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return report::usage(&error, &command),
    };
    let verbose = cli.verbose;
    start_logging(verbose);
    match std::panic::catch_unwind(AssertUnwindSafe(|| run(cli))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => report::error(&error, verbose),
        Err(_) => report::error(&CliError::Internal { panic: report::last_panic() }, verbose),
    }
}

/// Logs to standard error: warnings, and with `-v` more, including other libraries' messages.
/// `RUST_LOG` refines it.
fn start_logging(verbose: u8) {
    let (own, others) = match verbose {
        0 => (log::LevelFilter::Warn, log::LevelFilter::Off),
        1 => (log::LevelFilter::Info, log::LevelFilter::Warn),
        2 => (log::LevelFilter::Debug, log::LevelFilter::Warn),
        _ => (log::LevelFilter::Trace, log::LevelFilter::Warn),
    };
    env_logger::Builder::new()
        .filter_level(others)
        .filter_module("kinglet", own)
        .format(|_, record| {
            report::log(record);
            Ok(())
        })
        .parse_default_env()
        .init();
}
