//! The named special tokens of a model: `tokenizer_config.json` and `special_tokens_map.json`.

use std::path::Path;

use super::TextError;
use super::companions::Companions;

/// The names that `transformers` gives to special tokens, in its order. Chat templates see those
/// that are set as variables of the same name.
pub(crate) const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The special tokens that a model's tokenizer configuration names.
///
/// The tokens of `tokenizer_config.json` count: those with a standard name (`bos_token`, ...), any
/// other field that ends in `_token` (`eot_token`, `image_token`), and what `extra_special_tokens`
/// names. Where that file has no `added_tokens_decoder` (it is then older than the field),
/// `special_tokens_map.json` overrides it, as in `transformers`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Name and text: those of [`NAMES`] in their order, then a model's own names.
    named: Vec<(String, String)>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
}

impl SpecialTokens {
    /// Reads the names from a model folder. Missing files mean that no token is named.
    ///
    /// # Errors
    /// Files that are not JSON objects, and tokens that are neither text nor objects with `content`.
    pub fn from_folder(folder: &Path) -> Result<Self, TextError> {
        Ok(Self::from_companions(&Companions::read(folder)?, None))
    }

    /// The names of companion files; `pad` is what `tokenizer.json` pads with, which has a name where they give it none.
    pub(super) fn from_companions(companions: &Companions, pad: Option<&str>) -> Self {
        Self {
            named: companions.named(pad),
            add_bos: companions.add_bos,
            add_eos: companions.add_eos,
        }
    }

    /// Sets a token by the name that `transformers` gives to it (`bos_token`, `pad_token`, ...).
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

    /// `add_bos_token` of the configuration. For information: like `transformers` 5, what is
    /// really added is decided by the post-processor in `tokenizer.json`.
    pub fn add_bos_token(&self) -> Option<bool> {
        self.add_bos
    }

    /// `add_eos_token` of the configuration; for information, as [`Self::add_bos_token`].
    pub fn add_eos_token(&self) -> Option<bool> {
        self.add_eos
    }
}
