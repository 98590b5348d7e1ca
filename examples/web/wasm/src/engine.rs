//! A model that is loaded, with its tokenizer and its template.

use std::cell::RefCell;
use std::io::Cursor;
use std::rc::Rc;

use kinglet::text::{ChatTemplate, GenerationConfig, StopTokens, Tokenizer};
use kinglet::{Activations, Backend, Model, ModelOptions, PrefixCache, PrefixCacheOptions};
use serde::Deserialize;
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::error::Failure;
use crate::files::Files;
use crate::sequence::Sequence;

/// Tokens of a step on the processor: the worker listens between two of them.
const CHUNK: usize = 64;
/// Weights from which on a device is expected to be faster: the processor reads some gigabytes of them a second, while the some hundred
/// kernels of a step take a device some milliseconds whatever they read.
#[cfg(feature = "wgpu")]
const DEVICE_FROM: u64 = 64 << 20;
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
}

/// What all sequences of a model share.
pub(crate) struct Shared {
    pub(crate) model: Model,
    pub(crate) tokenizer: Tokenizer,
    /// Or why there is none.
    pub(crate) template: Result<ChatTemplate, String>,
    pub(crate) defaults: GenerationConfig,
    pub(crate) stop: StopTokens,
    /// Away while somebody uses it.
    pub(crate) cache: RefCell<Option<PrefixCache>>,
    weight_bytes: u64,
    backend: Backend,
}

/// A model that is loaded.
#[wasm_bindgen]
pub struct Engine {
    shared: Rc<Shared>,
}

#[wasm_bindgen]
impl Engine {
    /// Opens a model. `options` is JSON: `backend` (`auto`, `cpu`), `contextLimit`, `activations` (`auto`, `f32`), `cacheBytes`.
    ///
    /// # Errors
    /// When a file is missing, broken or doesn't fit the others, when there is no memory, or an option is none.
    pub async fn open(files: Files, options: &str) -> Result<Engine, JsValue> {
        Ok(Self::open_in(files, options).await?)
    }

    /// Backend, vocabulary, sizes: JSON.
    pub fn info(&self) -> String {
        let Shared { model, template, stop, weight_bytes, defaults, .. } = &*self.shared;
        let spec = model.spec();
        json!({
            "backend": if self.shared.backend == Backend::Wgpu { "webgpu" } else { "cpu" },
            "description": model.describe(),
            "vocab": model.vocab(),
            "layers": spec.blocks.len(),
            "weightBytes": weight_bytes,
            "chat": template.is_ok(),
            "stopTokens": stop.ids(),
            "maxNewTokens": defaults.max_new_tokens,
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
        Ok(self.shared.tokenizer.encode(text, options).map_err(Failure::from)?)
    }
}

impl Engine {
    async fn open_in(files: Files, options: &str) -> Result<Self, Failure> {
        let options: Options = serde_json::from_str(options)
            .map_err(|error| Failure::Argument(format!("options: {error}")))?;
        let asked = backend(options.backend.as_deref().unwrap_or("auto"))?;
        let weight_bytes = files.ranged_bytes();
        let backend = choose(asked, weight_bytes).await;
        let activations: Activations = options.activations.as_deref().unwrap_or("auto").parse()?;
        let mounted = files.into_model().mount();
        let folder = mounted.path();
        let mut model_options =
            ModelOptions::new().backend(backend).activations(activations).threads(1);
        if backend == Backend::Cpu {
            model_options = model_options.chunk(CHUNK);
        }
        model_options.context_limit = options.context_limit;
        // What else a folder holds is nobody's concern here.
        model_options.allow_surplus = true;
        let model = Model::open_async(folder, &model_options).await?;
        let tokenizer = Tokenizer::from_folder(folder)?;
        tokenizer.check_vocab(model.vocab())?;
        let template = ChatTemplate::from_folder(folder).map_err(|error| error.to_string());
        let defaults = GenerationConfig::from_folder(folder)?;
        let mut stop = StopTokens::from_folder(folder, Some(&tokenizer))?;
        if let Some(id) = tokenizer.eos_id() {
            stop.insert(id);
        }
        let cache = PrefixCacheOptions::new()
            .max_bytes(options.cache_bytes.unwrap_or(CACHE_BYTES))
            .every(0);
        let cache = RefCell::new(Some(PrefixCache::new(&model, cache)?));
        let shared =
            Shared { model, tokenizer, template, defaults, stop, cache, weight_bytes, backend };
        Ok(Self { shared: Rc::new(shared) })
    }
}

/// What computes, where that is left to us. A small model's weights are read by the processor before a device has been told of all kernels
/// of a step; a device that the processor plays gains nothing.
async fn choose(asked: Backend, weight_bytes: u64) -> Backend {
    if asked != Backend::Auto {
        return asked;
    }
    #[cfg(feature = "wgpu")]
    if weight_bytes >= DEVICE_FROM {
        let usable = |adapter: &kinglet::AdapterInfo| {
            adapter.unusable.is_none() && adapter.kind != kinglet::AdapterKind::Software
        };
        if kinglet::adapters().await.iter().any(usable) {
            return Backend::Wgpu;
        }
    }
    let _ = weight_bytes;
    Backend::Cpu
}

/// The backend by the name that it has in the browser.
fn backend(name: &str) -> Result<Backend, Failure> {
    match name {
        "auto" => Ok(Backend::Auto),
        "cpu" => Ok(Backend::Cpu),
        "webgpu" => Ok(Backend::Wgpu),
        other => {
            let message = format!("backend {other:?}: one of auto, cpu, webgpu is expected");
            Err(Failure::Argument(message))
        }
    }
}

/// Memory of the module, which never shrinks.
fn wasm_bytes() -> usize {
    const PAGE: usize = 65536;
    core::arch::wasm32::memory_size(0) * PAGE
}
