//! Options for speculation.

use std::path::PathBuf;

use clap::Args;
use kinglet::Model;
use kinglet::answer::DEFAULT_DRAFT_TOKENS;
use kinglet::speculate::{DraftModel, Drafter, PromptLookup, check_tokenizers};

use crate::args::GlobalArgs;
use crate::error::CliError;
use crate::load;

/// Default number of tokens drafted in a step.
const DRAFT_TOKENS: u16 = DEFAULT_DRAFT_TOKENS as u16;

/// How tokens are drafted.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Speculation (does not change the answer)")]
pub(crate) struct SpeculateArgs {
    /// Draft tokens and verify several in a step [default: one token a step]
    ///
    /// `ngram` drafts what followed the same words before; a folder names a smaller model with the
    /// same tokenizer.
    #[arg(long, value_name = "ngram|DIR")]
    speculate: Option<String>,
    /// Maximum number of tokens drafted in a step
    #[arg(long, value_name = "N", default_value_t = DRAFT_TOKENS, requires = "speculate", value_parser = clap::value_parser!(u16).range(1..=64))]
    draft_tokens: u16,
}

/// A drafter, and the maximum number of tokens it drafts at a time.
pub(crate) struct Speculation {
    pub(crate) drafter: Box<dyn Drafter>,
    pub(crate) most: usize,
}

impl SpeculateArgs {
    /// Creates the requested drafter for `model`, if any.
    ///
    /// # Errors
    /// If the smaller model can't be opened, or has a different tokenizer.
    pub(crate) fn speculation(
        &self,
        global: &GlobalArgs,
        model: &Model,
    ) -> Result<Option<Speculation>, CliError> {
        let drafter: Box<dyn Drafter> = match self.speculate.as_deref() {
            None => return Ok(None),
            Some("ngram") => Box::new(PromptLookup::default()),
            Some(folder) => {
                let draft = load::model_in(&PathBuf::from(folder), global, |options| options)?;
                if load::has_tokenizer(draft.folder()) && load::has_tokenizer(model.folder()) {
                    let (own, others) = (load::tokenizer(model)?, load::tokenizer(&draft)?);
                    check_tokenizers(&others, &own).map_err(|error| {
                        CliError::Usage(format!("--speculate {folder}: {error}"))
                    })?;
                }
                Box::new(DraftModel::new(&draft, model)?)
            }
        };
        Ok(Some(Speculation { drafter, most: usize::from(self.draft_tokens) }))
    }
}
