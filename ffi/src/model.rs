//! Models: opening them, and what can be asked of them.

use std::ffi::c_char;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use kinglet::answer::AnswerDefaults;
use kinglet::text::{ChatTemplate, Tokenizer};
use kinglet::{Model, Mounted};

use crate::files::{Files, kinglet_files};
use crate::guard::call;
use crate::handle::{self, Object};
use crate::memory::{self, MAX_TOKENS};
use crate::model_options::{self, OpenOptions, kinglet_model_options};
use crate::status::{Failure, kinglet_status};

/// An open model: weights and all that is needed to compute. Any number of threads may use it at once; steps of its sessions are computed
/// one after the other.
pub struct kinglet_model;

pub(crate) struct ModelObject {
    pub(crate) model: Model,
    pub(crate) options: OpenOptions,
    /// Where the model's files are not in a folder, they are here, for what is loaded only when it is needed.
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
        let cancelled =
            || Failure::new(kinglet_status::KINGLET_CANCELLED, "the progress callback cancelled");
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

    /// The model's tokenizer, loaded when it is first asked for.
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

    /// What the model's authors set for generation.
    pub(crate) fn defaults(&self) -> Result<&AnswerDefaults, Failure> {
        let load = || {
            let tokenizer = self.tokenizer().ok().cloned();
            Ok(AnswerDefaults::from_folder(self.model.folder(), tokenizer)?)
        };
        self.defaults.get_or_init(load).as_ref().map_err(Clone::clone)
    }
}

/// Opens the model in the folder `path`: `config.json` and `model.safetensors` or its shards, as they come from Hugging Face, or a
/// `models--ORG--NAME` of its cache. `options` may be null. The weights are mapped, not read: this takes milliseconds unless the options say otherwise.
///
/// The model is the program's: `kinglet_model_delete`. Sessions, generations and tokenizers that are made from it keep what they need of it.
/// While a model is open its files must not be written to: replace a file by renaming another one over it.
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

/// Opens a model whose files are not in a folder. The list is empty afterwards, whether this went well or not, and can be deleted.
/// `options` may be null. The model is the program's, as with `kinglet_model_open`.
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

/// Deletes a model. Null is fine. What was made from it stays usable, and its memory is given back with the last of them.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_delete(model: *mut kinglet_model) -> kinglet_status {
    call(|| handle::delete::<ModelObject>(model))
}

/// What a model takes, written to the places that a program gives.
fn tell(
    folder: &Path,
    options: &OpenOptions,
    context: usize,
    [weights, state, working]: [*mut u64; 3],
) -> Result<(), Failure> {
    if context > memory::MAX_TOKENS {
        let message =
            format!("context is {context} tokens; at most {} are taken", memory::MAX_TOKENS);
        return Err(Failure::new(kinglet_status::KINGLET_TOO_LARGE, message));
    }
    let estimate = kinglet::estimate(folder, &options.model, context)?;
    memory::write_optional(weights, "weights", estimate.weights)?;
    memory::write_optional(state, "state", estimate.state)?;
    memory::write_optional(working, "working", estimate.working)
}

/// Tells, in bytes and within milliseconds, what the model in the folder `path` will take with one session of `context` tokens: its
/// weights (mapped, so that the system can take them back, on the CPU), the session's state, and working memory. `options` and each of the three places may
/// be null. A context of more than 64 Mi tokens is `KINGLET_TOO_LARGE`. Any thread may call it.
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

/// The same for a model whose files are not in a folder. The list stays as it is, so that `kinglet_model_open_files` can take it.
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

/// How many logits the model gives for a token; the numbers of tokens are below this.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_vocabulary(
    model: *const kinglet_model,
    count: *mut usize,
) -> kinglet_status {
    call(|| memory::write(count, "count", handle::get::<ModelObject>(model)?.model.vocab()))
}

/// How many floats the vector has that the model embeds a token as.
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

/// Writes the vectors that `count` tokens are embedded as to `vectors`, one behind the other; it has room for `floats` numbers, of which
/// `count` times `kinglet_model_embedding_width` are needed. They are what `kinglet_session_feed_embeddings` takes.
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

/// What the model is and what it runs on, in a line for people. The text is the program's: `kinglet_free`.
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
