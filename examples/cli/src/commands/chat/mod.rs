//! `kinglet chat`: a conversation with the model's chat template.
//!
//! [`conversation`] holds the messages and the session and answers a turn. [`interactive`] runs the
//! loop over turns and slash commands ([`commands`], [`settings`]), which [`input`] reads, with
//! completion from [`completion`]. [`transcript`] is the file format of saved conversations.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;
use kinglet::PrefixCacheOptions;

use crate::args::GlobalArgs;
use crate::atomic::AtomicFile;
use crate::error::CliError;
use crate::generation::StopReason;
use crate::output::{Format, Output};
use crate::sampling_args::{SamplingArgs, StopArgs};
use crate::speculate_args::SpeculateArgs;
use crate::{interrupt, load, paths, report, template, tokens};

mod commands;
mod completion;
mod conversation;
mod input;
mod interactive;
mod settings;
mod transcript;

use conversation::{Conversation, Setup};
use input::Input;
use interactive::Talk;
use settings::Settings;
use transcript::Own;

const EXAMPLES: &str = "\
In a terminal, the conversation continues until /quit; /help lists the commands.
Ctrl-C stops an answer and keeps what was generated. Without a terminal, or with
--prompt, there is one message (all of standard input, or the prompt), and only
the answer is printed.

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
    /// Answer this one message and quit
    #[arg(
        long,
        short,
        value_name = "TEXT",
        conflicts_with = "interactive",
        allow_hyphen_values = true
    )]
    prompt: Option<String>,
    /// System prompt of the conversation
    #[arg(long, short, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Continue a saved conversation
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    /// Save the conversation to this file, after each answer and at the end
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Let --save overwrite an existing file
    #[arg(long, requires = "save")]
    force: bool,
    /// Name of one of the model's chat templates, or a Jinja file to use instead of them
    #[arg(long, value_name = "NAME|FILE")]
    template: Option<String>,
    /// Variable for the template, as in enable_thinking=false; the value is JSON or text
    /// (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    template_var: Vec<(String, serde_json::Value)>,
    /// Read messages and commands line by line even without a terminal
    #[arg(long)]
    interactive: bool,
    /// Don't read or write the history file
    #[arg(long)]
    no_history: bool,
    /// Memory for states that speed up edited and repeated turns, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    cache_memory: usize,
    /// Folder for states of prompts, so that later runs need not compute them again
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Maximum size of the files in the cache folder, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 4096, requires = "cache_dir")]
    cache_disk: u64,
    /// Print tokens per second and time to the first token after each answer, to standard error
    #[arg(long)]
    stats: bool,
    /// Print one JSON object per line: an event for each token, then one with text, counts and
    /// times
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

/// The warning about a conversation that exceeds the model's context.
fn too_long((held, most): (usize, usize)) -> String {
    format!(
        "the conversation has {held} tokens, but the model was trained for {most}: answers may get worse"
    )
}

/// Where to save the conversation.
struct Saving {
    /// The file of `--save`.
    file: Option<PathBuf>,
    /// Files that may be overwritten.
    own: Own,
}

impl Saving {
    /// Saves to the file of `--save`, if there is one.
    fn save(&mut self, conversation: &Conversation) -> Result<(), CliError> {
        match &self.file {
            Some(path) => {
                transcript::save(path, conversation.model_name(), conversation.messages())
            }
            None => Ok(()),
        }
    }

    /// Saves to another file, which must be new or this conversation's own, unless `replace` is
    /// set.
    fn save_to(
        &mut self,
        path: &Path,
        replace: bool,
        conversation: &Conversation,
    ) -> Result<(), CliError> {
        if !replace {
            self.own.check(path, "use /save! to overwrite it")?;
        }
        transcript::save(path, conversation.model_name(), conversation.messages())?;
        self.own.add(path);
        Ok(())
    }
}

/// Runs the command.
///
/// # Errors
/// Errors of options, files or model; [`CliError::Interrupted`] after Ctrl-C if there was no one to
/// continue with.
pub(crate) fn run(global: &GlobalArgs, args: ChatArgs) -> Result<(), CliError> {
    let interactive = args.interactive || (args.prompt.is_none() && io::stdin().is_terminal());
    // Check what needs no model before loading it.
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
    let mut own = Own::default();
    if let Some(path) = &args.load {
        own.add(&paths::expand(path));
    }
    let file = args.save.as_deref().map(paths::expand);
    if let Some(path) = &file {
        if !args.force {
            own.check(
                path,
                "use --force to overwrite it, or --load with the same file to continue it",
            )?;
        }
        // Fail now rather than losing a conversation that can't be saved.
        AtomicFile::create(path)?;
    }
    if io::stdin().is_terminal() || io::stdout().is_terminal() {
        interrupt::watch_hangup()?;
    }
    let maker = Maker { global, args: &args };
    let settings = Settings {
        sampling: args.sampling.clone(),
        stop: args.stop.clone(),
        template_var: args.template_var.clone(),
        stats: args.stats,
    };
    let mut conversation = Conversation::new(maker.setup(None, &settings)?)?;
    if let Some(messages) = loaded {
        conversation.replace(messages);
    }
    if let Some(system) = &args.system {
        conversation.set_system(Some(system));
    }
    let mut saving = Saving { file, own };
    let mut output = Output::new(if args.json { Format::Json } else { Format::Text });
    let _keeper = interrupt::keep();
    // A Ctrl-C that comes just after an answer must not end the conversation or prevent saving it.
    let _guard = interrupt::guard();
    let result = match message {
        // The final line break of a pipe is not part of the message.
        Some(message) => {
            let message = message.strip_suffix('\n').unwrap_or(&message);
            let message = message.strip_suffix('\r').unwrap_or(message);
            one_shot(&mut conversation, message, args.stats, &mut output)
        }
        None => {
            let history = (!args.no_history).then(input::history_file).flatten();
            let talk = Talk {
                conversation: &mut conversation,
                maker,
                settings,
                saving: &mut saving,
                input: Input::new(history)?,
                output: &mut output,
                verbose: global.verbose,
                last: None,
                warned: false,
            };
            talk.run()
        }
    };
    // A message without an answer must not overwrite what was saved before.
    let failed = result.as_ref().is_err_and(|error| !error.is_stop());
    if interactive || !failed {
        saving.save(&conversation)?;
    }
    conversation.persist();
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
        report::aside(&answer.stats.to_string());
    }
    if let Some(long) = conversation.outgrown() {
        report::warning(&too_long(long));
    }
    match answer.stop {
        StopReason::Interrupted => Err(CliError::Interrupted),
        _ => Ok(()),
    }
}

/// Opens models with the options of the command line.
struct Maker<'a> {
    global: &'a GlobalArgs,
    args: &'a ChatArgs,
}

impl Maker<'_> {
    /// Loads a conversation's needs, with the model of the command line or another one.
    fn setup(&self, other: Option<&Path>, settings: &Settings) -> Result<Setup, CliError> {
        let Self { global, args } = self;
        let model = match other {
            Some(folder) => load::model_in(folder, global, |o| args.speculate.adjust(o))?,
            None => load::model(global, |options| args.speculate.adjust(options))?,
        };
        let tokenizer = load::tokenizer(&model)?;
        let given = args.template.as_deref();
        let (template, template_name) = match (given, other) {
            // For another model its own template is preferred to the given one.
            (Some(_), Some(_)) => template::load(model.folder(), None)
                .or_else(|_| template::load(model.folder(), given))?,
            (given, _) => template::load(model.folder(), given)?,
        };
        let speculation = args.speculate.speculation(global, &model)?;
        let choices = settings.choices(&model, &tokenizer, settings.sampling.seed())?;
        let mut cache = PrefixCacheOptions::new()
            .max_bytes(args.cache_memory.saturating_mul(1 << 20))
            .max_disk_bytes(args.cache_disk.saturating_mul(1 << 20));
        cache.folder = args.cache_dir.as_deref().map(paths::expand);
        Ok(Setup { model, tokenizer, template, template_name, choices, cache, speculation })
    }
}
