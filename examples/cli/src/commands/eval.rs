//! `kinglet eval`: perplexity on a text, and the distance from a reference model.

use std::path::PathBuf;

use clap::Args;
use kinglet::eval::{EvalOptions, Evaluation, TextTokens, evaluate};
use kinglet::text::Tokenizer;
use kinglet::{CacheType, ModelOptions, StateType};
use serde_json::{Value, json};

use crate::args::GlobalArgs;
use crate::error::CliError;
use crate::progress::{Progress, Unit};
use crate::{interrupt, load, tokens};

const EXAMPLES: &str = "\
The text is cut into windows of --context tokens that begin every --stride tokens; each is read from an
empty state. The last min(stride, context - 1 - context/2) predictions of a window count. By
default that is what llama.cpp's llama-perplexity counts. Perplexities are comparable only with
the same tokenizer.

With --reference, usually the model before it was quantized: KL(reference || model) in nats, and how often
both find the same token most likely.

Examples:
  kinglet eval --model DIR --text wiki.test.raw
  kinglet eval --model DIR-4bit --reference DIR --text wiki.test.raw --limit 50000
  kinglet eval --model DIR --text book.txt --context 2048 --stride 512 --json";

/// Options of `eval`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EvalArgs {
    /// The text, UTF-8; - is standard input
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Folder of a model to compare with
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,
    /// Tokens of a window
    #[arg(long, value_name = "N", default_value_t = EvalOptions::default().context)]
    context: usize,
    /// Tokens from one window to the next; those of a window if not given
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Only so many tokens of the text
    #[arg(long, value_name = "TOKENS")]
    limit: Option<usize>,
    /// A JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with options, files or models; [`CliError::Interrupted`] after Ctrl-C.
pub(crate) fn run(global: &GlobalArgs, args: &EvalArgs) -> Result<(), CliError> {
    let text = tokens::read_text(&args.text)?;
    let model = load::model(global, |options| options)?;
    let ids = TextTokens::new(&load::tokenizer(&model)?, &text)?;
    let reference = args.reference.as_deref();
    // What is compared with keeps what it remembers as it was computed.
    let exact =
        |options: ModelOptions| options.cache_type(CacheType::F32).state_type(StateType::F32);
    let reference = reference.map(|folder| load::model_in(folder, global, exact)).transpose()?;
    if let Some(reference) = &reference {
        // Without a tokenizer of its own, a reference is taken at its size.
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
    if args.json {
        println!("{}", to_json(&result, &options));
    } else {
        print(&result);
    }
    Ok(())
}

fn print(result: &Evaluation) {
    let Evaluation { predictions, windows, nll, nll_error, .. } = result;
    println!("predictions          {predictions} in {windows} windows");
    let perplexity = result.perplexity();
    println!("perplexity           {perplexity:.4} ± {:.4}", perplexity * nll_error);
    println!("  -ln p              {nll:.5} nats a token");
    if let Some(comparison) = &result.comparison {
        let divergence = &comparison.divergence;
        let reference = comparison.reference_nll.exp();
        println!(
            "reference            perplexity {reference:.4}, ratio {:.5}",
            perplexity / reference
        );
        println!("ln p, difference     {:+.6}", comparison.log_prob_difference);
        let (mean, error) = (divergence.mean, comparison.divergence_error);
        println!("KL, mean             {mean:.6} ± {error:.6} nats");
        println!("KL, median           {:.6}", divergence.median);
        println!("KL, 99 %             {:.6}", divergence.percentile_99);
        println!("KL, max              {:.6}", divergence.max);
        println!("same most likely     {:.2} %", 100.0 * comparison.same_top);
    }
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
