//! Options for speculation.

use std::path::PathBuf;

use clap::Args;
use kinglet::answer::DEFAULT_DRAFT_TOKENS;
use kinglet::speculate::{DraftModel, Drafter, PromptLookup, check_tokenizers};
use kinglet::{Model, ModelOptions};

use crate::args::GlobalArgs;
use crate::error::CliError;
use crate::load;

/// Default number of tokens drafted in a step.
const DRAFT_TOKENS: u16 = DEFAULT_DRAFT_TOKENS as u16;
/// The same for a prediction head: it is trained to predict one token, and further ones are right
/// less often.
const HEAD_TOKENS: u16 = 2;

/// How tokens are drafted.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Speculation (does not change the answer)")]
pub(crate) struct SpeculateArgs {
    /// Draft tokens and verify several in a step [default: one token a step]
    ///
    /// `ngram` drafts what followed the same words before; `mtp` uses the model's own head for
    /// multi-token prediction (Qwen3-Next, Qwen 3.5); a folder names a smaller model with the same
    /// tokenizer.
    #[arg(long, value_name = "ngram|mtp|DIR")]
    speculate: Option<String>,
    /// Maximum number of tokens drafted in a step [default: 6, or 2 for mtp]
    #[arg(long, value_name = "N", requires = "speculate", value_parser = clap::value_parser!(u16).range(1..=64))]
    draft_tokens: Option<u16>,
}

/// Who drafts.
pub(crate) enum Source {
    /// A drafter.
    Drafter(Box<dyn Drafter>),
    /// The model's prediction head.
    Head,
}

/// Who drafts, and the maximum number of tokens drafted at a time.
pub(crate) struct Speculation {
    pub(crate) source: Source,
    pub(crate) most: usize,
}

impl SpeculateArgs {
    /// Adds what the model must load for it.
    pub(crate) fn adjust(&self, options: ModelOptions) -> ModelOptions {
        options.prediction_head(self.speculate.as_deref() == Some("mtp"))
    }

    /// Creates the requested drafter for `model`, if any. The model was opened with
    /// [`Self::adjust`].
    ///
    /// # Errors
    /// If the smaller model can't be opened, or has a different tokenizer.
    pub(crate) fn speculation(
        &self,
        global: &GlobalArgs,
        model: &Model,
    ) -> Result<Option<Speculation>, CliError> {
        let source = match self.speculate.as_deref() {
            None => return Ok(None),
            Some("ngram") => Source::Drafter(Box::new(PromptLookup::default())),
            Some("mtp") => Source::Head,
            Some(folder) => {
                let draft = load::model_in(&PathBuf::from(folder), global, |options| options)?;
                if load::has_tokenizer(draft.folder()) && load::has_tokenizer(model.folder()) {
                    let (own, others) = (load::tokenizer(model)?, load::tokenizer(&draft)?);
                    check_tokenizers(&others, &own).map_err(|error| {
                        CliError::Usage(format!("--speculate {folder}: {error}"))
                    })?;
                }
                Source::Drafter(Box::new(DraftModel::new(&draft, model)?))
            }
        };
        let default = match &source {
            Source::Drafter(_) => DRAFT_TOKENS,
            Source::Head => HEAD_TOKENS,
        };
        let most = usize::from(self.draft_tokens.unwrap_or(default));
        Ok(Some(Speculation { source, most }))
    }
}
