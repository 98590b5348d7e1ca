//! `kinglet chat`: a conversation through the model's chat template.
//!
//! [`conversation`] holds messages and session and answers a turn, [`interactive`] reads turns and
//! slash commands from a person, [`transcript`] is the file that a conversation is saved to.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use kinglet::PrefixCacheOptions;
use kinglet::text::StopTokens;

use crate::args::GlobalArgs;
use crate::atomic::AtomicFile;
use crate::error::CliError;
use crate::generation::{Limits, StopReason};
use crate::output::{Format, Output};
use crate::sampling_args::{SamplingArgs, StopArgs};
use crate::speculate_args::SpeculateArgs;
use crate::{load, report, template, tokens};

mod conversation;
mod interactive;
mod transcript;

use conversation::{Conversation, Setup};

/// Tokens of an answer where neither the command line nor the model says how many.
const MAX_TOKENS: usize = 2048;

const EXAMPLES: &str = "\
With a terminal, the conversation goes on until /quit; /help lists the commands. Ctrl-C stops an
answer. Without a terminal, the whole of standard input is one message, and only the answer is
printed; so with --prompt.

With --json, each line is an object: {\"event\":\"token\",\"id\":..,\"text\":..} for each token, and
{\"event\":\"done\",\"text\":..,\"stop_reason\":..,\"tokens\":{..},\"timings\":{..}} at the end.
stop_reason is stop_token, stop_string, max_tokens, context_full or interrupted.

Examples:
  kinglet chat
  kinglet chat --model DIR --system \"Answer in one sentence.\" --temperature 0.7 --stats
  kinglet chat --prompt \"Tell me a story about a dog who finds a boat.\" --seed 1
  cat letter.txt | kinglet chat > answer.txt";

/// Options of `chat`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ChatArgs {
    /// Answer this one message and end
    #[arg(
        long,
        short,
        value_name = "TEXT",
        conflicts_with = "interactive",
        allow_hyphen_values = true
    )]
    prompt: Option<String>,
    /// Instructions for the whole conversation
    #[arg(long, short, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Go on with a conversation that was saved
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    /// Save the conversation here at the end
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Which of the model's chat templates to use, by name, or a file (Jinja) to use instead of them
    #[arg(long, value_name = "NAME|FILE")]
    template: Option<String>,
    /// A variable for the template, as in enable_thinking=false; the value is JSON or text (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    template_var: Vec<(String, serde_json::Value)>,
    /// Read turns and commands line by line even without a terminal
    #[arg(long)]
    interactive: bool,
    /// Don't read or write the file of earlier input
    #[arg(long)]
    no_history: bool,
    /// Memory for what need not be computed again when a turn is rewritten or repeated, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    cache_memory: usize,
    /// A folder where beginnings of conversations are kept, so that later runs need not compute them either
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// The most that the files in the cache's folder may take, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 4096, requires = "cache_dir")]
    cache_disk: u64,
    /// Tell tokens per second and time to the first token after each answer, on standard error
    #[arg(long)]
    stats: bool,
    /// One JSON object per line: an event for each token, then one with text, counts and times
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stop: StopArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    speculate: SpeculateArgs,
}

fn variable(text: &str) -> Result<(String, serde_json::Value), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_string(), value))
}

/// Runs the command.
///
/// # Errors
/// What is wrong with options, files or model; [`CliError::Interrupted`] after Ctrl-C where nobody could go on.
pub(crate) fn run(global: &GlobalArgs, args: ChatArgs) -> Result<(), CliError> {
    let interactive = args.interactive || (args.prompt.is_none() && io::stdin().is_terminal());
    // What can be told without the model is told before it is loaded.
    let loaded = args.load.as_deref().map(transcript::load).transpose()?;
    let message = match (&args.prompt, interactive) {
        (Some(prompt), _) => Some(prompt.clone()),
        (None, true) => None,
        (None, false) => Some(tokens::read_stdin()?),
    };
    if message.as_deref().is_some_and(|message| message.trim().is_empty()) {
        let message = "there is no message to answer: give one with --prompt or on standard input";
        return Err(CliError::Usage(message.into()));
    }
    if let Some(path) = &args.save {
        // A conversation is not to be lost because it has no place.
        AtomicFile::create(path)?;
    }
    let mut conversation = Conversation::new(setup(global, &args)?)?;
    if let Some(messages) = loaded {
        conversation.replace(messages);
    }
    if let Some(system) = &args.system {
        conversation.set_system(Some(system));
    }
    let mut output = Output::new(if args.json { Format::Json } else { Format::Text });
    let result = match message {
        // The line break at the end of a pipe is not part of the message.
        Some(message) => {
            let message = message.strip_suffix('\n').unwrap_or(&message);
            let message = message.strip_suffix('\r').unwrap_or(message);
            one_shot(&mut conversation, message, args.stats, &mut output)
        }
        None => {
            let history = (!args.no_history).then(interactive::history_file).flatten();
            let options = interactive::Options { stats: args.stats, verbose: global.verbose };
            interactive::run(&mut conversation, history.as_deref(), options, &mut output)
        }
    };
    conversation.persist();
    // A message that got no answer must not replace what was saved before.
    let failed = result.as_ref().is_err_and(|error| !error.is_stop());
    if let Some(path) = args.save.as_ref().filter(|_| interactive || !failed) {
        transcript::save(path, conversation.model_name(), conversation.messages())?;
    }
    result
}

fn one_shot(
    conversation: &mut Conversation,
    message: &str,
    stats: bool,
    output: &mut Output,
) -> Result<(), CliError> {
    let answer = conversation.ask(message, output)?;
    if stats {
        report::tell(&answer.stats.to_string());
    }
    match answer.stop {
        StopReason::Interrupted => Err(CliError::Interrupted),
        _ => Ok(()),
    }
}

/// Loads what a conversation needs.
fn setup(global: &GlobalArgs, args: &ChatArgs) -> Result<Setup, CliError> {
    let model = load::model(global, |options| options)?;
    let tokenizer = load::tokenizer(&model)?;
    let (template, template_name) = template::load(model.folder(), args.template.as_deref())?;
    let (config, mut stop) = load::defaults(model.folder(), Some(&tokenizer))?;
    // Where the files disagree about the end of a turn, either ends it.
    if let Some(eos) = tokenizer.eos_id() {
        stop.insert(eos);
    }
    if args.stop.ignore_eos {
        stop = StopTokens::default();
    }
    let speculation = args.speculate.speculation(global, &model)?;
    let limits = Limits {
        max_tokens: load::max_tokens(&config, args.stop.max_tokens, MAX_TOKENS),
        context: load::context_limit(&model, args.stop.context),
    };
    let sampling = args.sampling.options(&config, Some(&tokenizer), model.folder())?;
    let stop_strings = load::stop_strings(&config, &args.stop.stop);
    let variables = args.template_var.iter().cloned().collect();
    let seed = args.sampling.seed();
    let mut cache = PrefixCacheOptions::new()
        .max_bytes(args.cache_memory.saturating_mul(1 << 20))
        .max_disk_bytes(args.cache_disk.saturating_mul(1 << 20));
    cache.folder = args.cache_dir.clone();
    Ok(Setup {
        speculation,
        model,
        tokenizer,
        template,
        template_name,
        stop,
        stop_strings,
        limits,
        sampling,
        variables,
        cache,
        seed,
    })
}
