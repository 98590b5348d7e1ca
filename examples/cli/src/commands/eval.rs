//! `kinglet eval`: perplexity on a text, and the divergence from a reference model.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use kinglet::eval::{EvalOptions, Evaluation, TextTokens, evaluate};
use kinglet::text::Tokenizer;
use kinglet::{CacheType, ModelOptions, StateType};
use serde_json::{Value, json};

use crate::args::{GlobalArgs, count};
use crate::error::CliError;
use crate::output::{Format, Output};
use crate::progress::{Progress, Unit};
use crate::table::wrapped;
use crate::{interrupt, load, table, tokens};

const EXAMPLES: &str = "\
The text is split into windows of --context tokens, one every --stride tokens.
Each window starts from an empty state, and its last min(stride, context - 1 -
context/2) predictions count. The defaults count the same predictions as
llama.cpp's llama-perplexity. Perplexities are comparable only with the same
tokenizer.

With --reference, usually the model before quantization, it also prints
KL(reference || model) in nats, and how often both predict the same token.

Examples:
  kinglet eval --model DIR --text wiki.test.raw
  kinglet eval --model DIR-4bit --reference DIR --text wiki.test.raw
  kinglet eval --model DIR --text book.txt --limit 50000
  kinglet eval --model DIR --text book.txt --context 2048 --stride 512 --json";

/// Options of `eval`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EvalArgs {
    /// Text to evaluate on, UTF-8; - is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    text: PathBuf,
    /// Folder of a reference model to compare with [default: none]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    reference: Option<PathBuf>,
    /// Tokens of a window
    #[arg(long, value_name = "N", default_value_t = EvalOptions::default().context, value_parser = count())]
    context: usize,
    /// Tokens from one window to the next [default: --context]
    #[arg(long, value_name = "N", value_parser = count())]
    stride: Option<usize>,
    /// Use only this many tokens of the text [default: all]
    #[arg(long, value_name = "TOKENS", value_parser = count())]
    limit: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Errors of options, files or models; [`CliError::Interrupted`] after Ctrl-C.
pub(crate) fn run(global: &GlobalArgs, args: &EvalArgs) -> Result<(), CliError> {
    let text = tokens::read_text(&args.text)?;
    let model = load::model(global, |options| options)?;
    let ids = TextTokens::new(&load::tokenizer(&model)?, &text)?;
    let reference = args.reference.as_deref();
    // The reference always uses full-precision caches and states.
    let exact =
        |options: ModelOptions| options.cache_type(CacheType::F32).state_type(StateType::F32);
    let reference = reference.map(|folder| load::model_in(folder, global, exact)).transpose()?;
    if let Some(reference) = &reference {
        // A reference without a tokenizer is compared only by vocabulary size.
        if load::has_tokenizer(reference.folder()) {
            let tokenizer = Tokenizer::from_folder(reference.folder())?;
            ids.check_same(&TextTokens::new(&tokenizer, &text)?)?;
        }
    }
    drop(text);
    let options = EvalOptions { context: args.context, stride: args.stride, limit: args.limit };
    let _guard = interrupt::guard();
    let mut progress = Progress::new("evaluating", Unit::Tokens);
    let result = evaluate(&model, reference.as_ref(), &ids, &options, &mut |done, total| {
        progress.set(done, total);
        !interrupt::hit()
    });
    drop(progress);
    let result = result?;
    let mut output = Output::new(if args.json { Format::Json } else { Format::Text });
    match args.json {
        true => output.event(&to_json(&result, &options)),
        false => output.styled(&report(&result)),
    }
}

fn report(result: &Evaluation) -> String {
    let Evaluation { predictions, windows, nll, nll_error, .. } = result;
    let perplexity = result.perplexity();
    let mut rows = vec![
        ("predictions", format!("{predictions} in {windows} windows")),
        ("perplexity", format!("{perplexity:.4} ± {:.4}", perplexity * nll_error)),
        ("  -ln p", format!("{nll:.5} nats per token")),
    ];
    if let Some(comparison) = &result.comparison {
        let divergence = &comparison.divergence;
        let reference = comparison.reference_nll.exp();
        let ratio = perplexity / reference;
        let (mean, error) = (divergence.mean, comparison.divergence_error);
        rows.extend([
            ("reference", format!("perplexity {reference:.4}, ratio {ratio:.5}")),
            ("ln p, difference", format!("{:+.6}", comparison.log_prob_difference)),
            ("KL, mean", format!("{mean:.6} ± {error:.6} nats")),
            ("KL, median", format!("{:.6}", divergence.median)),
            ("KL, 99 %", format!("{:.6}", divergence.percentile_99)),
            ("KL, max", format!("{:.6}", divergence.max)),
            ("same most likely", format!("{:.2} %", 100.0 * comparison.same_top)),
        ]);
    }
    let width = table::width();
    rows.iter().map(|(what, value)| wrapped(&format!("{what:<21}{value}"), "    ", width)).collect()
}

fn to_json(result: &Evaluation, options: &EvalOptions) -> Value {
    let mut object = json!({
        "context": options.context,
        "stride": options.stride.unwrap_or(options.context),
        "windows": result.windows,
        "predictions": result.predictions,
        "nll": result.nll,
        "nll_error": result.nll_error,
        "perplexity": result.perplexity(),
    });
    if let (Some(comparison), Some(object)) = (&result.comparison, object.as_object_mut()) {
        let divergence = &comparison.divergence;
        object.insert(
            "reference".into(),
            json!({
                "nll": comparison.reference_nll,
                "perplexity": comparison.reference_nll.exp(),
                "log_prob_difference": comparison.log_prob_difference,
                "kl_mean": divergence.mean,
                "kl_error": comparison.divergence_error,
                "kl_median": divergence.median,
                "kl_99": divergence.percentile_99,
                "kl_max": divergence.max,
                "same_top": comparison.same_top,
            }),
        );
    }
    object
}
