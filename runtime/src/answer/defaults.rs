//! [`AnswerDefaults`]: the settings in a model's files that shape its answers.

use std::path::Path;

use super::AnswerError;
use crate::Model;
use crate::text::{GenerationConfig, StopTokens, TextError, Tokenizer};

/// Most tokens of an answer if neither the options nor the model set a limit.
pub const DEFAULT_MAX_TOKENS: usize = 2048;

/// The settings in a model's files that shape its answers. Load it once for a model; clones are
/// cheap.
#[derive(Clone, Debug, Default)]
pub struct AnswerDefaults {
    /// The tokenizer. Without one, answers are token ids only.
    pub tokenizer: Option<Tokenizer>,
    /// `generation_config.json`.
    pub config: GenerationConfig,
    /// The tokens that end an answer.
    pub stop_tokens: StopTokens,
}

impl AnswerDefaults {
    /// Loads the defaults of an open model, from its folder or its mounted files. `tokenizer.json`
    /// may be missing, but must not be broken.
    ///
    /// # Errors
    /// If a file exists but is broken.
    pub fn of(model: &Model) -> Result<Self, TextError> {
        let folder = model.folder();
        let tokenizer = match crate::files::small_file::exists(&folder.join("tokenizer.json")) {
            true => Some(Tokenizer::from_folder(folder)?.for_embedding(model.vocab())),
            false => None,
        };
        Self::from_folder(folder, tokenizer)
    }

    /// Loads the defaults of a model folder, with a tokenizer that is loaded already.
    ///
    /// If the files name different tokens that end a turn, each of them ends an answer.
    ///
    /// # Errors
    /// If a file exists but is broken.
    pub fn from_folder(folder: &Path, tokenizer: Option<Tokenizer>) -> Result<Self, TextError> {
        let config = GenerationConfig::from_folder(folder)?;
        let mut stop_tokens = StopTokens::from_folder(folder, tokenizer.as_ref())?;
        if let Some(eos) = tokenizer.as_ref().and_then(Tokenizer::eos_id) {
            stop_tokens.insert(eos);
        }
        Ok(Self { tokenizer, config, stop_tokens })
    }

    /// The tokenizer, or an error if the model has none.
    ///
    /// # Errors
    /// [`AnswerError::NoTokenizer`].
    pub fn require_tokenizer(&self) -> Result<&Tokenizer, AnswerError> {
        self.tokenizer.as_ref().ok_or(AnswerError::NoTokenizer { what: "texts" })
    }

    /// Most tokens of an answer: `given`, else the model's own limit, else [`DEFAULT_MAX_TOKENS`].
    pub fn max_tokens(&self, given: Option<usize>) -> usize {
        let configured = self.config.max_new_tokens.filter(|&most| most > 0);
        let configured = configured.and_then(|most| usize::try_from(most).ok());
        given.or(configured).unwrap_or(DEFAULT_MAX_TOKENS)
    }
}

/// The number of positions that the model was trained for. `None` if nothing bounds it, as with
/// recurrent layers or attention without positions.
pub fn model_context(model: &Model) -> Option<usize> {
    let mut branches = model.spec().blocks.iter().flat_map(|block| &block.branches);
    model
        .spec()
        .max_positions
        .filter(|_| branches.any(|branch| branch.mixer.layer().rope().is_some()))
}
