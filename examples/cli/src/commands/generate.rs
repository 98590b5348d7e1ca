//! `kinglet generate`: continues a text or a sequence of tokens, without a chat template.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueHint};
use kinglet::answer::{AnswerDefaults, AnswerPrompt};
use kinglet::text::EncodeOptions;

use crate::args::GlobalArgs;
use crate::error::CliError;
use crate::generation::{Question, StopReason};
use crate::output::{Format, Output};
use crate::sampling_args::{SamplingArgs, StopArgs};
use crate::speculate_args::SpeculateArgs;
use crate::{interrupt, load, report, tokens};

const EXAMPLES: &str = "\
Prints only the continuation, as it is generated. A model without tokenizer.json
needs --tokens, and prints token ids.

Examples:
  kinglet generate --prompt \"Once upon a time\" --max-tokens 100
  kinglet generate --prompt-file notes.txt --temperature 0.7 --top-p 0.9 --seed 1
  kinglet generate --tokens 1,2,3 --greedy --json";

/// Options of `generate`.
#[derive(Args)]
// clap's own usage line is wider than a terminal.
#[command(after_help = EXAMPLES, override_usage = "kinglet generate [OPTIONS] <--prompt TEXT|--prompt-file F|--tokens IDS>")]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    prompt: Prompt,
    /// Print special tokens
    #[arg(long)]
    special: bool,
    /// Print tokens per second and time to the first token to standard error
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

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Prompt {
    /// Text to continue
    #[arg(long, short, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// File with the text to continue; - is standard input
    #[arg(long, short = 'f', value_name = "FILE", value_hint = ValueHint::FilePath)]
    prompt_file: Option<PathBuf>,
    /// Token ids to continue, as in 1,2,3
    #[arg(long, value_name = "IDS")]
    tokens: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// Errors of options, files or model; [`CliError::Interrupted`] after Ctrl-C.
pub(crate) fn run(global: &GlobalArgs, args: GenerateArgs) -> Result<(), CliError> {
    let begun = Instant::now();
    let text = match (&args.prompt.prompt, &args.prompt.prompt_file) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(path)) => Some(tokens::read_text(path)?),
        (None, None) => None,
    };
    let ids = args.prompt.tokens.as_deref().map(tokens::parse).transpose();
    let ids = ids.map_err(|problem| CliError::Usage(format!("--tokens: {problem}")))?;
    let model = load::model(global, |options| args.speculate.adjust(options))?;
    let tokenizer = match text.is_some() || load::has_tokenizer(model.folder()) {
        true => Some(load::tokenizer(&model)?),
        false => None,
    };
    let prompt = match (&text, &tokenizer, ids) {
        (Some(text), Some(tokenizer), _) => tokenizer.encode(text, EncodeOptions::default())?,
        (_, _, ids) => ids.unwrap_or_default(),
    };
    if tokenizer.is_none() && !args.stop.stop.is_empty() {
        let message = "--stop is text, but the model has no tokenizer.json";
        return Err(CliError::Usage(message.into()));
    }
    let defaults = AnswerDefaults::from_folder(model.folder(), tokenizer)?;
    let sampling = args.sampling.sampling(&defaults, model.folder())?;
    // The session is not used after the answer, so its last token need not be computed.
    let options = args.stop.options(sampling, args.sampling.seed());
    let options = options.show_special(args.special).keep_last(false);
    let mut speculation = args.speculate.speculation(global, &model)?;
    let _guard = interrupt::guard();
    let mut session = model.session()?;
    log::info!("loaded and tokenized in {:.2} s", begun.elapsed().as_secs_f64());
    let mut output = Output::new(if args.json { Format::Json } else { Format::Text });
    let question = Question {
        session: &mut session,
        cache: None,
        defaults: &defaults,
        prompt: AnswerPrompt::text(prompt),
        options: &options,
        speculation: speculation.as_mut(),
        random: None,
    };
    let answer = question.answer(&mut output)?;
    if args.stats {
        report::aside(&answer.stats.to_string());
    }
    match answer.stop {
        StopReason::Interrupted => Err(CliError::Interrupted),
        _ => Ok(()),
    }
}
