//! The options that let tokens be guessed, and what guesses them.

use std::path::PathBuf;

use clap::Args;
use kinglet::Model;
use kinglet::answer::DEFAULT_DRAFT_TOKENS;
use kinglet::speculate::{DraftModel, Drafter, PromptLookup, check_tokenizers};

use crate::args::GlobalArgs;
use crate::error::CliError;
use crate::load;

/// Most guesses of a step where the command line doesn't say.
const DRAFT_TOKENS: u16 = DEFAULT_DRAFT_TOKENS as u16;

/// How tokens are guessed.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Speculation (the answer stays what it is)")]
pub(crate) struct SpeculateArgs {
    /// Guess tokens and verify several in a step [default: one token a step]
    ///
    /// `ngram` guesses what followed the same words before; a folder is a smaller model with the same tokenizer.
    #[arg(long, value_name = "ngram|DIR")]
    speculate: Option<String>,
    /// Most guesses of a step
    #[arg(long, value_name = "N", default_value_t = DRAFT_TOKENS, requires = "speculate", value_parser = clap::value_parser!(u16).range(1..=64))]
    draft_tokens: u16,
}

/// What guesses, and how much at a time.
pub(crate) struct Speculation {
    pub(crate) drafter: Box<dyn Drafter>,
    pub(crate) most: usize,
}

impl SpeculateArgs {
    /// What was asked for, if anything, to guess for `model`.
    ///
    /// # Errors
    /// When the smaller model can't be opened, or has another tokenizer.
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
