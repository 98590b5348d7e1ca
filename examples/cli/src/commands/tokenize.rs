//! `kinglet tokenize`: text to token ids and back. Needs only the tokenizer, no weights.

use std::path::PathBuf;

use clap::Args;
use kinglet::text::{ChatOptions, EncodeOptions, Message, Tokenizer};
use serde_json::json;

use crate::args::ModelArgs;
use crate::error::CliError;
use crate::output::{Format, Output};
use crate::{model_folder, template, tokens};

const EXAMPLES: &str = "\
Prints token ids as in 1,2,3, the form that --tokens of other commands takes.
The text is read from standard input if it is not given.

Examples:
  kinglet tokenize \"Hello there\"
  kinglet tokenize --pieces --chat \"Hello there\"     what a chat sends
  kinglet tokenize --decode 15,27,3
  kinglet tokenize --json < book.txt";

/// Options of `tokenize`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TokenizeArgs {
    /// Text to tokenize
    #[arg(value_name = "TEXT", conflicts_with_all = ["file", "decode"], allow_hyphen_values = true)]
    text: Option<String>,
    /// File with the text; - is standard input
    #[arg(long, short, value_name = "FILE", conflicts_with = "decode")]
    file: Option<PathBuf>,
    /// Convert these token ids to text
    #[arg(long, value_name = "IDS", conflicts_with_all = ["chat", "system", "template", "no_special", "pieces"])]
    decode: Option<String>,
    /// Render the text as a user's message with the model's chat template first
    #[arg(long)]
    chat: bool,
    /// System prompt before the message
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Name of one of the model's chat templates, or a Jinja file to use instead of them
    #[arg(long, value_name = "NAME|FILE", requires = "chat")]
    template: Option<String>,
    /// Don't add the tokens that begin or end a text
    #[arg(long)]
    no_special: bool,
    /// Print a line per token: its id, a tab, its text
    #[arg(long, conflicts_with = "json")]
    pieces: bool,
    /// Print one JSON object with text, ids and pieces
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Errors of options, files or tokenizer.
pub(crate) fn run(model: &ModelArgs, args: TokenizeArgs) -> Result<(), CliError> {
    let folder = model_folder::find(model.model.as_deref())?;
    let tokenizer = Tokenizer::from_folder(&folder)?;
    let mut output = Output::new(if args.json { Format::Json } else { Format::Text });
    if let Some(ids) = &args.decode {
        let ids = tokens::parse(ids)
            .map_err(|problem| CliError::Usage(format!("--decode: {problem}")))?;
        check_ids(&tokenizer, &ids)?;
        let text = tokenizer.decode(&ids, false)?;
        return match args.json {
            true => output.event(&json(&tokenizer, &text, &ids)),
            false => output.text(&format!("{text}\n")),
        };
    }
    let text = match (args.text, &args.file) {
        (Some(text), _) => text,
        (None, Some(path)) => tokens::read_text(path)?,
        (None, None) => tokens::read_stdin()?,
    };
    let (text, ids) = if args.chat {
        let (template, name) = template::load(&folder, args.template.as_deref())?;
        let mut messages: Vec<Message> = args.system.into_iter().map(Message::system).collect();
        messages.push(Message::user(text));
        let options =
            ChatOptions { template: name, now: template::now(), ..ChatOptions::default() };
        let text = template.render(&messages, &options)?;
        let plain = EncodeOptions { add_special_tokens: false, parse_special_tokens: true };
        let ids = tokenizer.encode(&text, plain)?;
        (text, ids)
    } else {
        let options =
            EncodeOptions { add_special_tokens: !args.no_special, parse_special_tokens: true };
        let ids = tokenizer.encode(&text, options)?;
        (text, ids)
    };
    if args.json {
        return output.event(&json(&tokenizer, &text, &ids));
    }
    if args.pieces {
        for (id, piece) in ids.iter().zip(pieces(&tokenizer, &ids)) {
            output.text(&format!("{id}\t{}\n", piece.unwrap_or_default()))?;
        }
        return Ok(());
    }
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    output.text(&format!("{}\n", ids.join(",")))
}

/// Refuses ids that the tokenizer lacks: here the user typed them, so they are mistakes.
fn check_ids(tokenizer: &Tokenizer, ids: &[u32]) -> Result<(), CliError> {
    match ids.iter().find(|&&id| tokenizer.id_to_token(id).is_none()) {
        Some(id) => Err(CliError::Usage(format!(
            "--decode: the tokenizer has no token {id}: it has {} tokens, the largest id is {}",
            tokenizer.vocab_size(),
            tokenizer.largest_id().unwrap_or_default()
        ))),
        None => Ok(()),
    }
}

/// The tokens as spelled in the vocabulary (`Ġthe`).
fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<Option<String>> {
    ids.iter().map(|&id| tokenizer.id_to_token(id)).collect()
}

fn json(tokenizer: &Tokenizer, text: &str, ids: &[u32]) -> serde_json::Value {
    json!({ "text": text, "count": ids.len(), "ids": ids, "pieces": pieces(tokenizer, ids) })
}
