//! A model that is loaded, with its tokenizer and its template.

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

/// Tokens of a step on the processor: the worker listens between two of them.
const CHUNK: usize = 64;
/// Bytes of states that are kept to go back to.
const CACHE_BYTES: usize = 64 << 20;

/// How a model is opened: `options` of [`Engine::open`].
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

/// What all sequences of a model share.
pub(crate) struct Shared {
    pub(crate) model: Model,
    /// Or why there is none.
    pub(crate) template: Result<ChatTemplate, String>,
    pub(crate) defaults: AnswerDefaults,
    /// Away while somebody uses it.
    pub(crate) cache: RefCell<Option<PrefixCache>>,
    weight_bytes: u64,
    backend: Backend,
}

/// A model that is loaded.
#[wasm_bindgen]
pub struct Engine {
    pub(crate) shared: Rc<Shared>,
}

#[wasm_bindgen]
impl Engine {
    /// Opens a model. `options` is JSON: `backend` (`cpu`, `webgpu`), `threads` and what the package's `LoadOptions` say of the engine.
    /// `start` is what starts threads, where there are to be more than one.
    ///
    /// # Errors
    /// When a file is missing, broken or doesn't fit the others, when there is no memory, or an option is none.
    pub async fn open(
        files: Files,
        options: &str,
        start: Option<Function>,
    ) -> Result<Engine, JsValue> {
        Ok(Self::open_in(files, options, start).await?)
    }

    /// Backend, vocabulary, sizes: JSON.
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

    /// Memory and what of prompts was reused: JSON.
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

    /// A sequence without tokens.
    ///
    /// # Errors
    /// When there is no memory for its state.
    pub fn sequence(&self) -> Result<Sequence, JsValue> {
        let session = self.shared.model.session().map_err(Failure::from)?;
        Ok(Sequence::new(self.shared.clone(), session))
    }

    /// A sequence that was saved.
    ///
    /// # Errors
    /// When it is damaged or another model's.
    #[wasm_bindgen(js_name = readSequence)]
    pub fn read_sequence(&self, saved: Vec<u8>) -> Result<Sequence, JsValue> {
        let saved = self.shared.model.read_session(Cursor::new(saved)).map_err(Failure::from)?;
        let sequence = Sequence::new(self.shared.clone(), saved.session);
        sequence.keep()?;
        Ok(sequence)
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// When the tokenizer has none for a part of it.
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

/// The backend by the name that it has in the browser.
fn backend(name: &str) -> Result<Backend, Failure> {
    match name {
        "cpu" => Ok(Backend::Cpu),
        "webgpu" => Ok(Backend::Wgpu),
        other => {
            let message = format!("backend {other:?}: cpu or webgpu is expected");
            Err(Failure::Argument(message))
        }
    }
}

/// Memory of the module, which never shrinks.
fn wasm_bytes() -> usize {
    const PAGE: usize = 65536;
    core::arch::wasm32::memory_size(0) * PAGE
}
