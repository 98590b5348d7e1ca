//! What a model's files say about its answers, gathered once.

use std::path::Path;

use super::AnswerError;
use crate::Model;
use crate::text::{GenerationConfig, StopTokens, TextError, Tokenizer};

/// The most tokens of an answer where neither the options nor the model say.
pub const DEFAULT_MAX_TOKENS: usize = 2048;

/// What a model's files say about its answers. A value that is made once for a model, and cloned at little cost.
#[derive(Clone, Debug, Default)]
pub struct AnswerDefaults {
    /// What makes text of tokens; without one, answers are ids alone.
    pub tokenizer: Option<Tokenizer>,
    /// `generation_config.json`.
    pub config: GenerationConfig,
    /// The tokens that end an answer.
    pub stop_tokens: StopTokens,
}

impl AnswerDefaults {
    /// Those of an open model: of its folder or of its mounted files. A model without `tokenizer.json` has no tokenizer; one that is there must
    /// be sound.
    ///
    /// # Errors
    /// When a file that is there is broken.
    pub fn of(model: &Model) -> Result<Self, TextError> {
        let folder = model.folder();
        let tokenizer = match crate::files::small_file::exists(&folder.join("tokenizer.json")) {
            true => Some(Tokenizer::from_folder(folder)?.for_embedding(model.vocab())),
            false => None,
        };
        Self::from_folder(folder, tokenizer)
    }

    /// Those of a model folder, with a tokenizer that is there already.
    ///
    /// Where the files disagree about the token that ends a turn, each of them ends an answer.
    ///
    /// # Errors
    /// When a file that is there is broken.
    pub fn from_folder(folder: &Path, tokenizer: Option<Tokenizer>) -> Result<Self, TextError> {
        let config = GenerationConfig::from_folder(folder)?;
        let mut stop_tokens = StopTokens::from_folder(folder, tokenizer.as_ref())?;
        if let Some(eos) = tokenizer.as_ref().and_then(Tokenizer::eos_id) {
            stop_tokens.insert(eos);
        }
        Ok(Self { tokenizer, config, stop_tokens })
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`AnswerError::NoTokenizer`].
    pub fn require_tokenizer(&self) -> Result<&Tokenizer, AnswerError> {
        self.tokenizer.as_ref().ok_or(AnswerError::NoTokenizer { what: "texts" })
    }

    /// The most tokens of an answer of which `given` are asked for.
    pub fn max_tokens(&self, given: Option<usize>) -> usize {
        let configured = self.config.max_new_tokens.filter(|&most| most > 0);
        let configured = configured.and_then(|most| usize::try_from(most).ok());
        given.or(configured).unwrap_or(DEFAULT_MAX_TOKENS)
    }
}

/// The most tokens that the positions of a model were made for. Recurrent layers, and attention without positions, have no such end.
pub fn model_context(model: &Model) -> Option<usize> {
    let mut branches = model.spec().blocks.iter().flat_map(|block| &block.branches);
    model
        .spec()
        .max_positions
        .filter(|_| branches.any(|branch| branch.mixer.layer().rope().is_some()))
}
