//! A model's tokenizer: `tokenizer.json` through the `tokenizers` library, without its traps.

use std::any::Any;
use std::collections::HashSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::decode::Pipeline;
use super::files::{self, field_error, kind};
use super::{SpecialTokens, StreamDecoder, TextError};
use crate::model_folder;

/// How a text is turned into tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add what the tokenizer's post-processor adds (often a token that begins the text). A
    /// rendered chat template has these tokens in its text already and wants `false`.
    pub add_special_tokens: bool,
    /// Take text like `<|im_end|>` for the special token of this name. With `false` it is text
    /// like any other, as it should be where a text comes from somebody who is not trusted.
    pub parse_special_tokens: bool,
}

impl Default for EncodeOptions {
    /// Special tokens are added and recognized, as in `transformers`.
    fn default() -> Self {
        Self { add_special_tokens: true, parse_special_tokens: true }
    }
}

/// A tokenizer: text to token ids and back. Cloning it is cheap (it is shared).
///
/// Truncation and padding that `tokenizer.json` may ask for are ignored: a prompt is never cut.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    /// Written to only for the moment in which special tokens are not recognized.
    library: RwLock<tokenizers::Tokenizer>,
    special: SpecialTokens,
    special_ids: HashSet<u32>,
    pipeline: Pipeline,
    vocab_size: usize,
    largest: Option<(u32, String)>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.0.vocab_size)
            .field("special", &self.0.special)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Loads the tokenizer of a model folder: `tokenizer.json`, and from `tokenizer_config.json`
    /// (and `special_tokens_map.json`) the names of special tokens and the added tokens that
    /// `tokenizer.json` lacks.
    ///
    /// # Errors
    /// Missing, truncated and malformed files, each with its path; never a panic.
    pub fn from_folder(folder: &Path) -> Result<Self, TextError> {
        let path = folder.join("tokenizer.json");
        let Some(json) = files::read_needed(&path, files::MAX_TOKENIZER_BYTES)? else {
            let other = ["tokenizer.model", "vocab.json", "vocab.txt", "tiktoken.model"];
            let other = other.into_iter().find(|name| folder.join(name).exists());
            let problem = match other {
                Some(name) => format!(
                    "the file is missing and {name} cannot be used in its place: save the                      tokenizer once with `transformers` (`save_pretrained`), which writes it"
                ),
                None if !model_folder::names(folder).iter().any(|name| name == "config.json") => {
                    model_folder::explain(folder).to_string()
                }
                None => "the file is missing: is this the folder of a model?".into(),
            };
            return Err(TextError::Tokenizer { path, problem });
        };
        let special = SpecialTokens::from_folder(folder)?;
        let config_path = folder.join("tokenizer_config.json");
        let config = files::read_optional_object(&config_path)?.unwrap_or_default();
        let mut added = Vec::new();
        if let Some(decoder) = config.get("added_tokens_decoder") {
            added = added_tokens(&config_path, decoder)?;
        }
        Self::build(&json, &path, special, added)
    }

    /// Builds a tokenizer from the contents of a `tokenizer.json`. `path` is for messages only.
    ///
    /// # Errors
    /// As [`Tokenizer::from_folder`].
    pub fn from_json(json: &[u8], path: &Path, special: SpecialTokens) -> Result<Self, TextError> {
        Self::build(json, path, special, Vec::new())
    }

    fn build(
        json: &[u8],
        path: &Path,
        special: SpecialTokens,
        added: Vec<(u32, AddedToken)>,
    ) -> Result<Self, TextError> {
        // The library reports broken JSON without a position, in places by a panic.
        serde_json::from_slice::<IgnoredAny>(json)
            .map_err(|source| TextError::Json { path: path.to_path_buf(), source })?;
        let built = guarded(|| {
            let mut library = tokenizers::Tokenizer::from_bytes(json)?;
            library.with_truncation(None)?.with_padding(None);
            add_missing(&mut library, added, path)?;
            let largest = library
                .get_vocab(true)
                .into_iter()
                .max_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)))
                .map(|(token, id)| (id, token));
            let special_ids = library
                .get_added_tokens_decoder()
                .into_iter()
                .filter(|(_, token)| token.special)
                .map(|(id, _)| id)
                .collect();
            let pipeline = Pipeline::new(library.get_decoder());
            tokenizers::Result::Ok(Inner {
                vocab_size: library.get_vocab_size(true),
                library: RwLock::new(library),
                special,
                special_ids,
                pipeline,
                largest,
            })
        });
        let problem = match built {
            Ok(Ok(inner)) => return Ok(Self(Arc::new(inner))),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic,
        };
        Err(TextError::Tokenizer { path: path.to_path_buf(), problem })
    }

    fn library(&self) -> RwLockReadGuard<'_, tokenizers::Tokenizer> {
        // Nothing is left half done by a panic: what is written is one flag.
        self.0.library.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns a text into token ids.
    ///
    /// # Errors
    /// [`TextError::Encode`] where the tokenizer has no token for a part of the text and no
    /// unknown token either, or fails otherwise.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TextError> {
        let run = |library: &tokenizers::Tokenizer| {
            guarded(|| library.encode_fast(text, options.add_special_tokens))
        };
        let encoded = if options.parse_special_tokens {
            run(&self.library())
        } else {
            let mut library = self.0.library.write().unwrap_or_else(PoisonError::into_inner);
            library.set_encode_special_tokens(true);
            let encoded = run(&library);
            library.set_encode_special_tokens(false);
            encoded
        };
        match encoded {
            Ok(Ok(encoding)) => Ok(encoding.get_ids().to_vec()),
            Ok(Err(error)) => Err(TextError::Encode { problem: error.to_string() }),
            Err(problem) => Err(TextError::Encode { problem }),
        }
    }

    /// As [`Tokenizer::encode`] with special tokens as they stand in the text and none added; also, for each
    /// token, where its text ends, in bytes.
    #[cfg(feature = "chat-template")]
    pub(super) fn encode_with_ends(&self, text: &str) -> Result<(Vec<u32>, Vec<usize>), TextError> {
        match guarded(|| self.library().encode(text, false)) {
            Ok(Ok(encoding)) => {
                let ends = encoding.get_offsets().iter().map(|(_, end)| *end).collect();
                Ok((encoding.get_ids().to_vec(), ends))
            }
            Ok(Err(error)) => Err(TextError::Encode { problem: error.to_string() }),
            Err(problem) => Err(TextError::Encode { problem }),
        }
    }

    /// Turns token ids into text. Ids that the tokenizer does not know have no text (an embedding
    /// is often a little larger than the vocabulary).
    ///
    /// # Errors
    /// [`TextError::Decode`] where the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
        if !self.0.pipeline.is_exact() {
            return match guarded(|| self.library().decode(ids, skip_special_tokens)) {
                Ok(Ok(text)) => Ok(text),
                Ok(Err(error)) => Err(TextError::Decode { problem: error.to_string() }),
                Err(problem) => Err(TextError::Decode { problem }),
            };
        }
        let mut decoder = self.stream(skip_special_tokens);
        let mut text = String::new();
        for &id in ids {
            decoder.push_to(id, &mut text)?;
        }
        decoder.finish_to(&mut text)?;
        Ok(text)
    }

    /// A decoder for tokens that come one by one; see [`StreamDecoder`].
    pub fn stream(&self, skip_special_tokens: bool) -> StreamDecoder {
        StreamDecoder::new(self.clone(), skip_special_tokens)
    }

    /// The id of a token, by its exact text in the vocabulary (`Ġthe`, `<|im_end|>`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.library().token_to_id(token)
    }

    /// The text of a token in the vocabulary; `None` for an id that is not in it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.library().id_to_token(id)
    }

    /// Whether an id is a special token: control, no text.
    pub fn is_special(&self, id: u32) -> bool {
        self.0.special_ids.contains(&id)
    }

    /// How many tokens there are, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.0.vocab_size
    }

    /// The largest token id; `None` for an empty vocabulary. Ids need not be without gaps.
    pub fn largest_id(&self) -> Option<u32> {
        self.0.largest.as_ref().map(|(id, _)| *id)
    }

    /// Checks that the model has an embedding for each token: `rows` are the rows of its
    /// embedding. An embedding larger than the vocabulary is usual (padding) and right.
    ///
    /// # Errors
    /// [`TextError::VocabularyTooLarge`].
    pub fn check_vocab(&self, rows: usize) -> Result<(), TextError> {
        match &self.0.largest {
            Some((id, token)) if usize::try_from(*id).map_or(true, |id| id >= rows) => {
                Err(TextError::VocabularyTooLarge { largest_id: *id, token: token.clone(), rows })
            }
            _ => Ok(()),
        }
    }

    /// The named special tokens (`bos_token`, `eos_token`, ...).
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.0.special
    }

    /// The id of `bos_token`, if it is named and in the vocabulary.
    pub fn bos_id(&self) -> Option<u32> {
        self.token_to_id(self.0.special.bos()?)
    }

    /// The id of `eos_token`, if it is named and in the vocabulary.
    pub fn eos_id(&self) -> Option<u32> {
        self.token_to_id(self.0.special.eos()?)
    }

    pub(crate) fn new_pipeline(&self) -> Pipeline {
        self.0.pipeline.clone()
    }
}

/// Adds the tokens that `tokenizer_config.json` declares and `tokenizer.json` lacks.
fn add_missing(
    library: &mut tokenizers::Tokenizer,
    added: Vec<(u32, AddedToken)>,
    path: &Path,
) -> tokenizers::Result<()> {
    let known = library.get_added_tokens_decoder();
    for (id, token) in added {
        if known.get(&id) == Some(&token) {
            continue;
        }
        let text = token.content.clone();
        library.add_tokens([token])?;
        if library.token_to_id(&text) != Some(id) {
            log::warn!(
                "{}: added token {text:?} is declared with id {id} in tokenizer_config.json, but \
                 has id {:?}",
                path.display(),
                library.token_to_id(&text)
            );
        }
    }
    Ok(())
}

/// Reads `added_tokens_decoder`: `{"5": {"content": "<s>", "special": true, ...}}`, by id.
fn added_tokens(path: &Path, decoder: &Value) -> Result<Vec<(u32, AddedToken)>, TextError> {
    const FIELD: &str = "added_tokens_decoder";
    let Value::Object(decoder) = decoder else {
        let problem = format!("expected an object, found {}", kind(decoder));
        return Err(field_error(path, FIELD, problem));
    };
    let mut added = Vec::with_capacity(decoder.len());
    for (id, token) in decoder {
        let field = format!("{FIELD}.{id}");
        let id = id.parse().map_err(|_| field_error(path, &field, "the name is no token id"))?;
        let Value::Object(token) = token else {
            let problem = format!("expected an object, found {}", kind(token));
            return Err(field_error(path, &field, problem));
        };
        let Some(Value::String(content)) = token.get("content") else {
            return Err(field_error(path, &format!("{field}.content"), "expected a string"));
        };
        let flag = |name: &str, default: bool| flag(path, &field, token, name, default);
        let special = flag("special", false)?;
        added.push((
            id,
            AddedToken::from(content.clone(), special)
                .single_word(flag("single_word", false)?)
                .lstrip(flag("lstrip", false)?)
                .rstrip(flag("rstrip", false)?)
                .normalized(flag("normalized", !special)?),
        ));
    }
    added.sort_by_key(|(id, _)| *id);
    Ok(added)
}

fn flag(
    path: &Path,
    field: &str,
    token: &Map<String, Value>,
    name: &str,
    default: bool,
) -> Result<bool, TextError> {
    match token.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => {
            let problem = format!("expected true or false, found {}", kind(other));
            Err(field_error(path, &format!("{field}.{name}"), problem))
        }
    }
}

/// Runs code of the `tokenizers` library, which panics on some input, and makes a panic an error.
pub(crate) fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    // What the closures touch is dropped after a panic, or is only read.
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        format!("the tokenizer library failed ({})", panic_message(payload.as_ref()))
    })
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "no message"
    }
}
