//! A loaded model with its tokenizer and template.

use std::cell::RefCell;
use std::io::Cursor;
use std::rc::Rc;

use js_sys::Function;
use kinglet::answer::AnswerDefaults;
use kinglet::text::{ChatTemplate, Tokenizer};
use kinglet::{Activations, Backend, Model, ModelOptions, PrefixCache, PrefixCacheOptions};
use serde::Deserialize;
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::error::Failure;
use crate::files::Files;
use crate::sequence::Sequence;
use crate::threads;

/// Tokens of a step on the CPU; the worker handles messages between two steps.
const CHUNK: usize = 64;
/// Size of the cache of earlier states, in bytes.
const CACHE_BYTES: usize = 64 << 20;

/// Options for opening a model: `options` of [`Engine::open`].
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Options {
    backend: Option<String>,
    context_limit: Option<usize>,
    activations: Option<String>,
    cache_bytes: Option<usize>,
    attention_window: Option<usize>,
    attention_sinks: Option<usize>,
    kv_bits: Option<u8>,
    state_bits: Option<u8>,
    threads: Option<usize>,
}

/// Data shared by all sequences of a model.
pub(crate) struct Shared {
    pub(crate) model: Model,
    /// Or the reason why there is none.
    pub(crate) template: Result<ChatTemplate, String>,
    pub(crate) defaults: AnswerDefaults,
    /// `None` while it is in use.
    pub(crate) cache: RefCell<Option<PrefixCache>>,
    weight_bytes: u64,
    backend: Backend,
}

/// A loaded model.
#[wasm_bindgen]
pub struct Engine {
    pub(crate) shared: Rc<Shared>,
}

#[wasm_bindgen]
impl Engine {
    /// Opens a model. `options` is JSON: `backend` (`cpu`, `webgpu`), `threads` and the engine's part
    /// of the package's `LoadOptions`.
    /// `start` starts further threads, if there is more than one.
    ///
    /// # Errors
    /// If a file is missing, broken or inconsistent, memory is short, or an option is invalid.
    pub async fn open(
        files: Files,
        options: &str,
        start: Option<Function>,
    ) -> Result<Engine, JsValue> {
        Ok(Self::open_in(files, options, start).await?)
    }

    /// Backend, vocabulary and sizes as JSON.
    pub fn info(&self) -> String {
        let Shared { model, template, weight_bytes, defaults, .. } = &*self.shared;
        let spec = model.spec();
        json!({
            "threads": model.threads(),
            "backend": if self.shared.backend == Backend::Wgpu { "webgpu" } else { "cpu" },
            "description": model.describe(),
            "vocab": model.vocab(),
            "layers": spec.blocks.len(),
            "weightBytes": weight_bytes,
            "chat": template.is_ok(),
            "stopTokens": defaults.stop_tokens.ids(),
            "maxNewTokens": defaults.config.max_new_tokens,
        })
        .to_string()
    }

    /// Memory, and how much of the prompts was reused, as JSON.
    pub fn stats(&self) -> String {
        let cache = self.shared.cache.borrow();
        let cache = cache.as_ref().map(PrefixCache::stats).unwrap_or_default();
        json!({
            "wasmBytes": wasm_bytes(),
            "weightBytes": self.shared.weight_bytes,
            "deviceBytes": if self.shared.backend == Backend::Wgpu { self.shared.weight_bytes } else { 0 },
            "cacheBytes": cache.bytes,
            "cachedSnapshots": cache.snapshots,
            "reusedTokens": cache.reused,
            "computedTokens": cache.computed,
        })
        .to_string()
    }

    /// Creates a sequence without tokens.
    ///
    /// # Errors
    /// If there is no memory for its state.
    pub fn sequence(&self) -> Result<Sequence, JsValue> {
        let session = self.shared.model.session().map_err(Failure::from)?;
        Ok(Sequence::new(self.shared.clone(), session))
    }

    /// Restores a saved sequence.
    ///
    /// # Errors
    /// If it is damaged or belongs to another model.
    #[wasm_bindgen(js_name = readSequence)]
    pub fn read_sequence(&self, saved: Vec<u8>) -> Result<Sequence, JsValue> {
        let saved = self.shared.model.read_session(Cursor::new(saved)).map_err(Failure::from)?;
        let sequence = Sequence::new(self.shared.clone(), saved.session);
        sequence.keep()?;
        Ok(sequence)
    }

    /// Tokenizes a text.
    ///
    /// # Errors
    /// If the tokenizer has no tokens for a part of it.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, JsValue> {
        let options = kinglet::text::EncodeOptions::default();
        let tokenizer = self.shared.defaults.require_tokenizer().map_err(Failure::from)?;
        Ok(tokenizer.encode(text, options).map_err(Failure::from)?)
    }
}

impl Engine {
    async fn open_in(
        files: Files,
        options: &str,
        start: Option<Function>,
    ) -> Result<Self, Failure> {
        let options: Options = serde_json::from_str(options)
            .map_err(|error| Failure::Argument(format!("options: {error}")))?;
        let backend = backend(options.backend.as_deref().unwrap_or("cpu"))?;
        let weight_bytes = files.ranged_bytes();
        let activations: Activations = options.activations.as_deref().unwrap_or("auto").parse()?;
        let mounted = files.into_model().mount();
        let folder = mounted.path();
        let mut model_options =
            ModelOptions::new().backend(backend).activations(activations).threads(1);
        if backend == Backend::Cpu {
            model_options = model_options.chunk(CHUNK);
        }
        if let Some(start) = start {
            let threads = options.threads.unwrap_or(1);
            model_options = model_options.threads(threads).spawn(threads::spawn(start));
        }
        model_options.context_limit = options.context_limit;
        model_options.attention_window = options.attention_window;
        model_options.attention_sinks = options.attention_sinks.unwrap_or(0);
        if let Some(bits) = options.kv_bits {
            model_options.cache_type = bits.to_string().parse()?;
        }
        if let Some(bits) = options.state_bits {
            model_options.state_type = bits.to_string().parse()?;
        }
        let model = Model::open_async(folder, &model_options).await?;
        let template = ChatTemplate::from_folder(folder).map_err(|error| error.to_string());
        let tokenizer = Tokenizer::from_folder(folder)?.for_embedding(model.vocab());
        let defaults = AnswerDefaults::from_folder(folder, Some(tokenizer))?;
        let cache = PrefixCacheOptions::new()
            .max_bytes(options.cache_bytes.unwrap_or(CACHE_BYTES))
            .every(0);
        let cache = RefCell::new(Some(PrefixCache::new(&model, cache)?));
        let shared = Shared { model, template, defaults, cache, weight_bytes, backend };
        Ok(Self { shared: Rc::new(shared) })
    }
}

/// The backend with the given browser name.
fn backend(name: &str) -> Result<Backend, Failure> {
    match name {
        "cpu" => Ok(Backend::Cpu),
        "webgpu" => Ok(Backend::Wgpu),
        other => {
            let message = format!("backend {other:?}: expected cpu or webgpu");
            Err(Failure::Argument(message))
        }
    }
}

/// Memory of the module, in bytes; it never shrinks.
fn wasm_bytes() -> usize {
    const PAGE: usize = 65536;
    core::arch::wasm32::memory_size(0) * PAGE
}
