//! Models: opening and querying them.

use std::ffi::c_char;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use kinglet::analysis::ExpertUse;
use kinglet::answer::AnswerDefaults;
use kinglet::text::{ChatTemplate, Tokenizer};
use kinglet::{Model, Mounted};
use serde_json::json;

use crate::files::{Files, kinglet_files};
use crate::guard::call;
use crate::handle::{self, Object};
use crate::memory::{self, MAX_TOKENS};
use crate::model_options::{self, OpenOptions, kinglet_model_options};
use crate::status::{Failure, kinglet_status};

/// Tokens of a window in which experts are counted.
const EXPERT_WINDOW: usize = 2048;

/// An open model: its weights and everything needed to compute. Thread-safe; steps of its sessions
/// run one after another.
pub struct kinglet_model;

pub(crate) struct ModelObject {
    pub(crate) model: Model,
    pub(crate) options: OpenOptions,
    /// Model files that are not in a folder, kept for files that are loaded on first use.
    _mounted: Option<Mounted>,
    tokenizer: OnceLock<Result<Tokenizer, Failure>>,
    template: OnceLock<Result<ChatTemplate, Failure>>,
    defaults: OnceLock<Result<AnswerDefaults, Failure>>,
}

impl Object for ModelObject {
    type Handle = kinglet_model;
    const NAME: &'static str = "model";
}

impl ModelObject {
    fn open(
        folder: &Path,
        options: OpenOptions,
        mounted: Option<Mounted>,
    ) -> Result<Self, Failure> {
        let cancelled = || {
            Failure::new(
                kinglet_status::KINGLET_CANCELLED,
                "the progress callback cancelled the call",
            )
        };
        if !options.go_on(0, 0) {
            return Err(cancelled());
        }
        let model = Model::open(folder, &options.model)?;
        let total = model.weights().total_bytes();
        if options.fetch {
            model.weights().touch(&mut |done, total| options.go_on(done, total))?;
        } else if !options.go_on(total, total) {
            return Err(cancelled());
        }
        let (tokenizer, template, defaults) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Ok(Self { model, options, _mounted: mounted, tokenizer, template, defaults })
    }

    /// The model's tokenizer, loaded on first use.
    pub(crate) fn tokenizer(&self) -> Result<&Tokenizer, Failure> {
        let load = || {
            let tokenizer = Tokenizer::from_folder(self.model.folder())?;
            Ok(tokenizer.for_embedding(self.model.vocab()))
        };
        self.tokenizer.get_or_init(load).as_ref().map_err(Clone::clone)
    }

    pub(crate) fn template(&self) -> Result<&ChatTemplate, Failure> {
        let load = || Ok(ChatTemplate::from_folder(self.model.folder())?);
        self.template.get_or_init(load).as_ref().map_err(Clone::clone)
    }

    /// The model's own generation settings.
    pub(crate) fn defaults(&self) -> Result<&AnswerDefaults, Failure> {
        let load = || {
            let tokenizer = self.tokenizer().ok().cloned();
            Ok(AnswerDefaults::from_folder(self.model.folder(), tokenizer)?)
        };
        self.defaults.get_or_init(load).as_ref().map_err(Clone::clone)
    }
}

/// Opens the model in the folder `path`: `config.json` and `model.safetensors` or its shards, as
/// downloaded from Hugging Face, or a `models--ORG--NAME` folder of its cache. `options` may be
/// null. Weights are memory-mapped, not read, so this takes milliseconds unless the options say
/// otherwise.
///
/// Free the model with `kinglet_model_delete`. Its sessions, generations and tokenizers keep what
/// they need of it. Do not write to the model's files while it is open: replace a file by renaming
/// another over it.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_open(
    path: *const c_char,
    options: *const kinglet_model_options,
    model: *mut *mut kinglet_model,
) -> kinglet_status {
    call(|| {
        memory::check_out(model, "model")?;
        let options = model_options::resolve(options)?;
        let object = ModelObject::open(&memory::path(path, "path")?, options, None)?;
        memory::write(model, "model", handle::insert(Arc::new(object))?)
    })
}

/// Opens a model whose files are not in a folder. The list is empty afterwards, even if this fails,
/// and can be deleted. `options` may be null. Free the model with `kinglet_model_delete`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_open_files(
    files: *mut kinglet_files,
    options: *const kinglet_model_options,
    model: *mut *mut kinglet_model,
) -> kinglet_status {
    call(|| {
        memory::check_out(model, "model")?;
        let options = model_options::resolve(options)?;
        let mounted = handle::get::<Files>(files)?.take().mount();
        let folder = mounted.path().to_path_buf();
        let object = ModelObject::open(&folder, options, Some(mounted))?;
        memory::write(model, "model", handle::insert(Arc::new(object))?)
    })
}

/// Deletes a model. Null is allowed. Objects made from it stay usable; its memory is freed with the
/// last of them.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_delete(model: *mut kinglet_model) -> kinglet_status {
    call(|| handle::delete::<ModelObject>(model))
}

/// Writes the memory that a model needs to the caller's pointers.
fn tell(
    folder: &Path,
    options: &OpenOptions,
    context: usize,
    [weights, state, working]: [*mut u64; 3],
) -> Result<(), Failure> {
    if context > memory::MAX_TOKENS {
        let message = format!("context is {context} tokens; the maximum is {}", memory::MAX_TOKENS);
        return Err(Failure::new(kinglet_status::KINGLET_TOO_LARGE, message));
    }
    let estimate = kinglet::estimate(folder, &options.model, context)?;
    memory::write_optional(weights, "weights", estimate.weights)?;
    memory::write_optional(state, "state", estimate.state)?;
    memory::write_optional(working, "working", estimate.working)
}

/// Estimates, within milliseconds, the memory of the model in the folder `path` with one session of
/// `context` tokens, in bytes: its weights (on the CPU they are mapped, so the system can reclaim
/// them), the session's state, and working memory. `options` and each out pointer may be null. A
/// context of more than 64 Mi tokens is `KINGLET_TOO_LARGE`. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_estimate(
    path: *const c_char,
    options: *const kinglet_model_options,
    context: usize,
    weights: *mut u64,
    state: *mut u64,
    working: *mut u64,
) -> kinglet_status {
    call(|| {
        let options = model_options::resolve(options)?;
        let path = memory::path(path, "path")?;
        tell(&path, &options, context, [weights, state, working])
    })
}

/// Like `kinglet_estimate`, for a model whose files are not in a folder. The list does not change,
/// so `kinglet_model_open_files` can take it.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_estimate_files(
    files: *const kinglet_files,
    options: *const kinglet_model_options,
    context: usize,
    weights: *mut u64,
    state: *mut u64,
    working: *mut u64,
) -> kinglet_status {
    call(|| {
        let options = model_options::resolve(options)?;
        let mounted = handle::get::<Files>(files)?.copy()?.mount();
        tell(mounted.path(), &options, context, [weights, state, working])
    })
}

/// Returns the number of logits that the model computes for a token. Every token is smaller than
/// this.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_vocabulary(
    model: *const kinglet_model,
    count: *mut usize,
) -> kinglet_status {
    call(|| memory::write(count, "count", handle::get::<ModelObject>(model)?.model.vocab()))
}

/// Runs the model over `count` tokens, on the CPU, in windows of 2,048 that start from an empty
/// state, and counts which experts they use. `json` is a list with an object for each layer with
/// experts, in order: `layer`, `experts_per_token`, and by expert `tokens` (how many used it) and
/// `weights` (the sum of the router's weights). It is empty if the model has no experts. Free it
/// with `kinglet_free`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_expert_use(
    model: *const kinglet_model,
    tokens: *const u32,
    count: usize,
    json: *mut *mut c_char,
) -> kinglet_status {
    call(|| {
        memory::check_out(json, "json")?;
        let model = handle::get::<ModelObject>(model)?;
        let tokens = memory::slice(tokens, count, MAX_TOKENS, "tokens")?;
        let used = ExpertUse::of(&model.model, tokens, EXPERT_WINDOW, &mut |_, _| true)?;
        let layers = used.layers.iter().map(|(layer, counts)| {
            json!({
                "layer": layer,
                "experts_per_token": counts.top_k,
                "tokens": counts.tokens,
                "weights": counts.weights,
            })
        });
        let text = serde_json::Value::Array(layers.collect()).to_string();
        memory::lend_bytes(text.into_bytes(), json, std::ptr::null_mut())
    })
}

/// Returns the number of floats in a token's embedding.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_embedding_width(
    model: *const kinglet_model,
    width: *mut usize,
) -> kinglet_status {
    call(|| {
        let model = handle::get::<ModelObject>(model)?;
        memory::write(width, "width", model.model.embedding_width())
    })
}

/// Writes the embeddings of `count` tokens to `vectors`, one after another. `vectors` has room for
/// `floats` numbers; `count` times `kinglet_model_embedding_width` are needed.
/// `kinglet_session_feed_embeddings` takes such vectors.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_embed(
    model: *const kinglet_model,
    tokens: *const u32,
    count: usize,
    vectors: *mut f32,
    floats: usize,
) -> kinglet_status {
    call(|| {
        let model = handle::get::<ModelObject>(model)?;
        let tokens = memory::slice(tokens, count, MAX_TOKENS, "tokens")?;
        let needed = count.saturating_mul(model.model.embedding_width());
        if floats < needed {
            let message = format!("vectors has room for {floats}; {needed} are needed");
            return Err(Failure::argument(message));
        }
        memory::copy_out(vectors, floats, &model.model.embed(tokens)?, "vectors")
    })
}

/// Describes the model and what it runs on in a line for people. Free the text with `kinglet_free`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_description(
    model: *const kinglet_model,
    text: *mut *mut c_char,
) -> kinglet_status {
    call(|| {
        memory::check_out(text, "text")?;
        let object = handle::get::<ModelObject>(model)?;
        let line = format!("{}, {}", object.model.spec().model_type, object.model.describe());
        memory::lend_bytes(line.into_bytes(), text, std::ptr::null_mut())
    })
}
