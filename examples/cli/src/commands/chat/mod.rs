//! `kinglet chat`: a conversation through the model's chat template.
//!
//! [`conversation`] holds messages and session and answers a turn, [`interactive`] leads through turns and
//! slash commands ([`commands`], [`settings`]), which [`input`] reads from a person with the help of [`completion`];
//! [`transcript`] is the file that a conversation is saved to.

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
With a terminal, the conversation goes on until /quit; /help lists the commands. Ctrl-C stops an
answer, and what was said until then stays. Without a terminal, the whole of standard input is one message, and only the answer is
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
    /// Save the conversation here, after each answer and at the end
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Let --save replace a file that is there already
    #[arg(long, requires = "save")]
    force: bool,
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

/// What a user is told about a conversation that is longer than the model was made for.
fn too_long((held, most): (usize, usize)) -> String {
    format!(
        "the conversation has {held} tokens, and the model was made for {most}: answers may get worse from here on"
    )
}

/// Where the conversation is saved.
struct Saving {
    /// What `--save` names.
    file: Option<PathBuf>,
    /// What may be replaced.
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

    /// Saves to another file, which must be new or this conversation's, unless it is to be replaced.
    fn save_to(
        &mut self,
        path: &Path,
        replace: bool,
        conversation: &Conversation,
    ) -> Result<(), CliError> {
        if !replace {
            self.own.check(path, "/save! with the same name replaces it")?;
        }
        transcript::save(path, conversation.model_name(), conversation.messages())?;
        self.own.add(path);
        Ok(())
    }
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
    let mut own = Own::default();
    if let Some(path) = &args.load {
        own.add(&paths::expand(path));
    }
    let file = args.save.as_deref().map(paths::expand);
    if let Some(path) = &file {
        if !args.force {
            own.check(path, "--force replaces it, --load with the same file goes on with it")?;
        }
        // A conversation is not to be lost because it has no place.
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
    // Ctrl-C that comes a moment too late for an answer must not end the conversation, nor keep it from being saved.
    let _guard = interrupt::guard();
    let result = match message {
        // The line break at the end of a pipe is not part of the message.
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
    // A message that got no answer must not replace what was saved before.
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

/// Opens models as the command line says.
struct Maker<'a> {
    global: &'a GlobalArgs,
    args: &'a ChatArgs,
}

impl Maker<'_> {
    /// Loads what a conversation needs: the model that the command line names, or another.
    fn setup(&self, other: Option<&Path>, settings: &Settings) -> Result<Setup, CliError> {
        let Self { global, args } = self;
        let model = match other {
            Some(folder) => load::model_in(folder, global, |options| options)?,
            None => load::model(global, |options| options)?,
        };
        let tokenizer = load::tokenizer(&model)?;
        let given = args.template.as_deref();
        let (template, template_name) = match (given, other) {
            // A template that was given for another model is better than none.
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
