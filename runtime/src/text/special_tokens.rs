//! [`SpecialTokens`]: the special tokens that `tokenizer_config.json` and `special_tokens_map.json`
//! name.

use std::path::Path;

use super::TextError;
use super::companions::Companions;

/// The standard names of `transformers`, in its order. Chat templates see the tokens that are set
/// as variables of these names.
pub(crate) const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The special tokens that a model's tokenizer configuration names.
///
/// Names come from `tokenizer_config.json`: the standard ones (`bos_token`, ...), any other field
/// that ends in `_token` (`eot_token`, `image_token`), and those in `extra_special_tokens`. If that
/// file has no `added_tokens_decoder`, it predates the field, and `special_tokens_map.json`
/// overrides it, as in `transformers`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Names and texts: those of [`NAMES`] in their order, then the model's own names.
    named: Vec<(String, String)>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
}

impl SpecialTokens {
    /// Reads the names from a model folder. Missing files name no tokens.
    ///
    /// # Errors
    /// If a file is not a JSON object, or a token is neither text nor an object with `content`.
    pub fn from_folder(folder: &Path) -> Result<Self, TextError> {
        Ok(Self::from_companions(&Companions::read(folder)?, None))
    }

    /// The names in the companion files. `pad` is the padding token of `tokenizer.json`, used if
    /// they name none.
    pub(super) fn from_companions(companions: &Companions, pad: Option<&str>) -> Self {
        Self {
            named: companions.named(pad),
            add_bos: companions.add_bos,
            add_eos: companions.add_eos,
        }
    }

    /// Sets a token by its standard name (`bos_token`, `pad_token`, ...).
    pub fn set(&mut self, name: &str, text: &str) {
        match self.named.iter_mut().find(|(known, _)| known == name) {
            Some((_, value)) => *value = text.to_string(),
            None => self.named.push((name.to_string(), text.to_string())),
        }
    }

    /// The text of a token by its name (`bos_token`, `pad_token`, ...), if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str())
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<&str> {
        self.get("bos_token")
    }

    /// The token that ends a text or a turn.
    pub fn eos(&self) -> Option<&str> {
        self.get("eos_token")
    }

    /// All named tokens: name (`bos_token`, ...) and text.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// `add_bos_token` of the configuration. For information only: as in `transformers` 5, the
    /// post-processor in `tokenizer.json` decides what is added.
    pub fn add_bos_token(&self) -> Option<bool> {
        self.add_bos
    }

    /// `add_eos_token` of the configuration. For information only, like [`Self::add_bos_token`].
    pub fn add_eos_token(&self) -> Option<bool> {
        self.add_eos
    }
}
