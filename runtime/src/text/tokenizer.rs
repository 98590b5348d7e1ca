//! [`Tokenizer`]: `tokenizer.json` through the `tokenizers` library, with guards against its
//! pitfalls.

use std::any::Any;
use std::collections::HashSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use serde::de::IgnoredAny;

use super::companions::{Companions, Head};
use super::decode::Pipeline;
use super::files;
use super::{SpecialTokens, StreamDecoder, TextError};
use crate::weights;

/// Most contradictions between files that one warning lists.
const SHOWN: usize = 4;

/// Options for turning text into tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Whether to add what the tokenizer's post-processor adds, often a token that begins the text.
    /// A rendered chat template already contains these tokens and needs `false`.
    pub add_special_tokens: bool,
    /// Whether to parse text like `<|im_end|>` as the special token. With `false` it is ordinary
    /// text, as is right for untrusted text.
    pub parse_special_tokens: bool,
}

impl Default for EncodeOptions {
    /// Adds and parses special tokens, as in `transformers`.
    fn default() -> Self {
        Self { add_special_tokens: true, parse_special_tokens: true }
    }
}

/// A tokenizer: converts text to token ids and back. Clones are cheap and share it.
///
/// Truncation and padding in `tokenizer.json` are ignored: a prompt is never cut.
///
/// A tokenizer may have more entries than the model's embedding has rows: see
/// [`Tokenizer::for_embedding`].
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
    /// Rows of the model's embedding, if known.
    rows: Option<usize>,
}

struct Inner {
    /// Written to only while an `encode` runs without special tokens.
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
            .field("vocab_size", &self.inner.vocab_size)
            .field("special", &self.inner.special)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Loads the tokenizer of a model folder: `tokenizer.json`, and from its companions
    /// (`tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`) the names of
    /// special tokens and the tokens that `tokenizer.json` lacks, with the same ids as in
    /// `transformers`.
    ///
    /// # Errors
    /// Missing, truncated and malformed files, each with its path. Never panics.
    pub fn from_folder(folder: &Path) -> Result<Self, TextError> {
        let path = folder.join("tokenizer.json");
        let Some(json) = files::read_needed(&path, files::MAX_TOKENIZER_BYTES)? else {
            let other = ["tokenizer.model", "vocab.json", "vocab.txt", "tiktoken.model"];
            let other = other.into_iter().find(|name| folder.join(name).exists());
            let problem = match other {
                Some(name) => format!(
                    "the file is missing and {name} cannot be used in its place: save the \
                     tokenizer once with `transformers` (`save_pretrained`), which writes it"
                ),
                None if !weights::folder::names(folder)
                    .iter()
                    .any(|name| name == "config.json") =>
                {
                    weights::folder::explain(folder).to_string()
                }
                None => "the file is missing: is this the folder of a model?".into(),
            };
            return Err(TextError::Tokenizer { path, problem });
        };
        let companions = Companions::read(folder)?;
        Self::build(&json, &path, |head| {
            let special = SpecialTokens::from_companions(&companions, head.pad_token());
            (special, companions)
        })
    }

    /// Builds a tokenizer from the contents of a `tokenizer.json`. `path` is used only in messages.
    ///
    /// # Errors
    /// Those of [`Tokenizer::from_folder`].
    pub fn from_json(json: &[u8], path: &Path, special: SpecialTokens) -> Result<Self, TextError> {
        Self::build(json, path, |_| (special, Companions::default()))
    }

    fn build(
        json: &[u8],
        path: &Path,
        declared: impl FnOnce(&Head) -> (SpecialTokens, Companions),
    ) -> Result<Self, TextError> {
        // The library reports broken JSON without a position, and sometimes panics.
        let head = read_head(json, path)?;
        let (special, companions) = declared(&head);
        let built = guarded(|| {
            let mut library = tokenizers::Tokenizer::from_bytes(json)?;
            library.with_truncation(None)?.with_padding(None);
            add_declared(&mut library, companions, &head, path)?;
            let largest = library
                .get_vocab(true)
                .into_iter()
                .max_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)))
                .map(|(token, id)| (id, token));
            // Compare by text, as the library does when it decodes: a token that was once declared
            // special stays so.
            let added = library.get_added_vocabulary();
            let special_ids = library
                .get_added_tokens_decoder()
                .into_iter()
                .filter(|(_, token)| added.is_special_token(&token.content))
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
            Ok(Ok(inner)) => return Ok(Self { inner: Arc::new(inner), rows: None }),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic,
        };
        Err(TextError::Tokenizer { path: path.to_path_buf(), problem })
    }

    fn library(&self) -> RwLockReadGuard<'_, tokenizers::Tokenizer> {
        // A panic can't leave the value inconsistent: only one flag is ever written.
        self.inner.library.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns a text into token ids.
    ///
    /// # Errors
    /// [`TextError::Encode`] if the tokenizer fails, for example because a part of the text has no
    /// token and there is no unknown token; [`TextError::TokenWithoutEmbedding`] (see
    /// [`Tokenizer::for_embedding`]).
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TextError> {
        let run = |library: &tokenizers::Tokenizer| {
            guarded(|| library.encode_fast(text, options.add_special_tokens))
        };
        let encoded = if options.parse_special_tokens {
            run(&self.library())
        } else {
            let mut library = self.inner.library.write().unwrap_or_else(PoisonError::into_inner);
            library.set_encode_special_tokens(true);
            let encoded = run(&library);
            library.set_encode_special_tokens(false);
            encoded
        };
        let problem = match encoded {
            Ok(Ok(encoding)) => {
                self.check_rows(encoding.get_ids())?;
                return Ok(encoding.get_ids().to_vec());
            }
            Ok(Err(error)) => error.to_string(),
            Err(problem) => problem,
        };
        Err(TextError::Encode { problem })
    }

    /// Like [`Tokenizer::encode`], parsing special tokens in the text but adding none. Also returns
    /// where the text of each token ends, in bytes.
    #[cfg(feature = "chat-template")]
    pub(super) fn encode_with_ends(&self, text: &str) -> Result<(Vec<u32>, Vec<usize>), TextError> {
        match guarded(|| self.library().encode(text, false)) {
            Ok(Ok(encoding)) => {
                self.check_rows(encoding.get_ids())?;
                let ends = encoding.get_offsets().iter().map(|(_, end)| *end).collect();
                Ok((encoding.get_ids().to_vec(), ends))
            }
            Ok(Err(error)) => Err(TextError::Encode { problem: error.to_string() }),
            Err(problem) => Err(TextError::Encode { problem }),
        }
    }

    /// Turns token ids into text. Unknown ids have no text (an embedding is often a little larger
    /// than the vocabulary).
    ///
    /// # Errors
    /// [`TextError::Decode`] if the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
        if !self.inner.pipeline.is_exact() {
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

    /// Creates a decoder for tokens that arrive one by one; see [`StreamDecoder`].
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

    /// Whether an id is a special token, that is, a control token without text.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.special_ids.contains(&id)
    }

    /// The number of tokens, including added ones.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab_size
    }

    /// The largest token id; `None` for an empty vocabulary. Ids can have gaps.
    pub fn largest_id(&self) -> Option<u32> {
        self.inner.largest.as_ref().map(|(id, _)| *id)
    }

    /// Checks that the model has an embedding for every token, where `rows` is the number of rows
    /// of its embedding. An embedding larger than the vocabulary is normal (padding). A smaller one
    /// need not be an error: a tokenizer made by [`for_embedding`](Self::for_embedding) fails only
    /// on texts that need the missing rows.
    ///
    /// # Errors
    /// [`TextError::VocabularyTooLarge`].
    pub fn check_vocab(&self, rows: usize) -> Result<(), TextError> {
        match &self.inner.largest {
            Some((id, token)) if usize::try_from(*id).map_or(true, |id| id >= rows) => {
                Err(TextError::VocabularyTooLarge { largest_id: *id, token: token.clone(), rows })
            }
            _ => Ok(()),
        }
    }

    /// The tokenizer for a model whose embedding has `rows` rows. Entries beyond them (sometimes a
    /// tokenizer was enlarged but its embedding was not) are no error until a text contains one:
    /// [`Tokenizer::encode`] then fails. The model has no logits for them, so it never generates
    /// one.
    #[must_use]
    pub fn for_embedding(mut self, rows: usize) -> Self {
        self.rows = Some(rows);
        self
    }

    /// Checks that the embedding has rows for ids that come from a text.
    fn check_rows(&self, ids: &[u32]) -> Result<(), TextError> {
        let Some(rows) = self.rows else { return Ok(()) };
        match ids.iter().find(|id| usize::try_from(**id).map_or(true, |id| id >= rows)) {
            Some(&id) => {
                let token = self.id_to_token(id).unwrap_or_default();
                Err(TextError::TokenWithoutEmbedding { id, token, rows })
            }
            None => Ok(()),
        }
    }

    /// The named special tokens (`bos_token`, `eos_token`, ...).
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.inner.special
    }

    /// The id of `bos_token`, if it is named and in the vocabulary.
    pub fn bos_id(&self) -> Option<u32> {
        self.token_to_id(self.inner.special.bos()?)
    }

    /// The id of `eos_token`, if it is named and in the vocabulary.
    pub fn eos_id(&self) -> Option<u32> {
        self.token_to_id(self.inner.special.eos()?)
    }

    pub(crate) fn new_pipeline(&self) -> Pipeline {
        self.inner.pipeline.clone()
    }
}

/// Adds the tokens that the companions of `tokenizer.json` declare and the file lacks.
fn add_declared(
    library: &mut tokenizers::Tokenizer,
    companions: Companions,
    head: &Head,
    path: &Path,
) -> tokenizers::Result<()> {
    let known = library.get_added_tokens_decoder();
    let known = known.into_values().map(|token| token.content).collect();
    let additions = companions.additions(head, &known);
    // Add them in one call: each call rebuilds the library's search trees.
    library.add_tokens(additions.iter().map(|(_, token)| token.clone()))?;
    let mut contradicted = additions.iter().filter_map(|(declared, token)| {
        let (declared, found) = ((*declared)?, library.token_to_id(&token.content)?);
        (declared != i64::from(found))
            .then(|| format!("{:?} is {found}, not {declared}", token.content))
    });
    let shown: Vec<String> = contradicted.by_ref().take(SHOWN).collect();
    if !shown.is_empty() {
        let more = match contradicted.count() {
            0 => String::new(),
            count => format!(", and {count} more"),
        };
        let folder = path.parent().unwrap_or(path).display();
        log::warn!(
            "{folder}: the tokenizer's files disagree about token ids: {}{more}; using the ids of transformers",
            shown.join(", ")
        );
    }
    Ok(())
}

/// Reads the fields of `tokenizer.json` that are needed besides what the library reads.
fn read_head(json: &[u8], path: &Path) -> Result<Head, TextError> {
    let syntax = |source| TextError::Json { path: path.to_path_buf(), source };
    match serde_json::from_slice(json) {
        Ok(head) => Ok(head),
        // The library reports JSON of the wrong shape.
        Err(error) if error.is_data() => {
            serde_json::from_slice::<IgnoredAny>(json).map(|_| Head::default()).map_err(syntax)
        }
        Err(error) => Err(syntax(error)),
    }
}

/// Runs code of the `tokenizers` library, which panics on some input, and turns a panic into an
/// error.
pub(crate) fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    // What the closures touch is dropped after a panic, or only read.
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
