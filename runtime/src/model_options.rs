//! [`ModelOptions`]: how a model is opened, and the precision of its activations and states.

use std::path::PathBuf;

use kinglet_models::ModelSpec;

use crate::Error;
use crate::backend::Backend;
use crate::backend::cpu::Spawn;
use crate::backend::cpu::simd::Isa;
use crate::plan::{Plan, StateFormat};
#[cfg(any(feature = "testing", feature = "wgpu"))]
use crate::testing::DeviceLimits;

/// Precision of the activations that matrices are multiplied with. Dense matrices always take f32
/// activations on the CPU, and so do f32 matrices on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activations {
    /// The fastest within the stated bound. On the CPU: 8-bit activations with a scale for every
    /// 32, each within 1/254 of the largest magnitude among its 32. On a GPU: the same for few
    /// tokens, and f16 for many.
    #[default]
    Auto,
    /// Activations in f32.
    F32,
}

impl Activations {
    /// Every variant by its command-line name.
    pub const NAMES: &[(&str, Self)] = &[("auto", Self::Auto), ("f32", Self::F32)];
}

impl std::str::FromStr for Activations {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, activations)| *activations).ok_or_else(|| Error::Option {
            name: "activations",
            value: name.into(),
            expected: "one of auto, f32",
        })
    }
}

/// How a session's recurrent tensors are stored between steps. See [`CacheType`] for keys and
/// values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateType {
    /// f32, as computed.
    #[default]
    F32,
    /// f16: half the memory, with a rounding error at each step. Magnitudes above 65504 are stored
    /// as 65504.
    F16,
}

impl StateType {
    /// Every variant by its bits, as command lines name it.
    pub const BITS: &[(&str, Self)] = &[("32", Self::F32), ("16", Self::F16)];
}

impl std::str::FromStr for StateType {
    type Err = Error;
    fn from_str(bits: &str) -> Result<Self, Error> {
        of_bits(Self::BITS, bits, "bits of recurrent states", "32 or 16")
    }
}

/// The value in `known` that is named `bits`.
fn of_bits<T: Copy>(
    known: &[(&str, T)],
    bits: &str,
    name: &'static str,
    expected: &'static str,
) -> Result<T, Error> {
    let found = known.iter().find(|(known, _)| *known == bits);
    let none = || Error::Option { name, value: bits.into(), expected };
    found.map(|(_, of_type)| *of_type).ok_or_else(none)
}

/// How keys and values are stored. See [`StateType`] for recurrent tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheType {
    /// f32, as computed.
    #[default]
    F32,
    /// 8-bit codes with a scale and a bias for every 32 elements of a head: 28 % of the memory.
    Affine8,
    /// 4-bit codes with a scale and a bias for every 32 elements of a head: 16 % of the memory. The
    /// error shows in the logits.
    Affine4,
}

impl CacheType {
    /// Every variant by the bits of its codes, as command lines name it.
    pub const BITS: &[(&str, Self)] =
        &[("32", Self::F32), ("8", Self::Affine8), ("4", Self::Affine4)];
}

impl std::str::FromStr for CacheType {
    type Err = Error;
    fn from_str(bits: &str) -> Result<Self, Error> {
        of_bits(Self::BITS, bits, "bits of keys and values", "32, 8 or 4")
    }
}

/// Options for opening a model.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ModelOptions {
    /// The backend.
    pub backend: Backend,
    /// Threads of the CPU backend. Defaults to the number of physical cores.
    pub threads: Option<usize>,
    /// Spawns the threads of the CPU backend. Defaults to the standard library.
    pub spawn: Option<Spawn>,
    /// Instruction set of the CPU backend. Defaults to the best available.
    pub isa: Option<Isa>,
    /// Adapter of the wgpu backend, as an index into [`adapters`](crate::adapters). Defaults to the
    /// best one. With the backend `auto` it selects that adapter, whatever its kind.
    pub adapter: Option<usize>,
    /// Most tokens in a step, which bounds the working memory. Defaults to 512, or 2048 on GPUs.
    pub chunk: Option<usize>,
    /// Precision of the activations that matrices are multiplied with.
    pub activations: Activations,
    /// Whether tensors that the model doesn't use are an error instead of a warning.
    pub strict: bool,
    /// Whether to load the head that predicts the token after the next one (multi-token
    /// prediction), for [`Generation::speculate_with_head`]. Every step then also keeps the head's
    /// cache up to date. On a GPU the head has its own copy of the output matrix, and a step's
    /// residual stream is copied to the host.
    ///
    /// [`Generation::speculate_with_head`]: crate::Generation::speculate_with_head
    pub prediction_head: bool,
    /// Most tokens that a session may hold. Unlimited by default.
    pub context_limit: Option<usize>,
    /// Number of last positions that attention sees, in layers that would see more. This bounds a
    /// session's memory however long it gets. Earlier positions are left to recurrent layers.
    /// Positions are not renumbered.
    pub attention_window: Option<usize>,
    /// Number of first positions (attention sinks) that attention sees besides
    /// [`Self::attention_window`]. Many models rely on them.
    pub attention_sinks: usize,
    /// How recurrent tensors are stored.
    pub state_type: StateType,
    /// How keys and values are stored.
    pub cache_type: CacheType,
    /// A folder where a backend caches what speeds up the next start: kernels compiled by the
    /// driver, and results of its self-test. Nothing is cached by default.
    pub cache_dir: Option<PathBuf>,
    /// Whether the wgpu backend tests the model's kernels on small inputs before use, and replaces
    /// those that a driver gets wrong. It takes some milliseconds per kind of layer, or once per
    /// driver if [`Self::cache_dir`] is set.
    pub self_test: bool,
    /// Limits that tests impose on the device.
    #[cfg(any(feature = "testing", feature = "wgpu"))]
    #[cfg_attr(not(feature = "wgpu"), allow(dead_code))]
    pub(crate) device_limits: DeviceLimits,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            backend: Backend::default(),
            threads: None,
            spawn: None,
            isa: None,
            adapter: None,
            chunk: None,
            activations: Activations::default(),
            strict: false,
            prediction_head: false,
            context_limit: None,
            attention_window: None,
            attention_sinks: 0,
            state_type: StateType::default(),
            cache_type: CacheType::default(),
            cache_dir: None,
            self_test: true,
            #[cfg(any(feature = "testing", feature = "wgpu"))]
            device_limits: DeviceLimits::default(),
        }
    }
}

impl ModelOptions {
    /// The defaults: backend `auto`, threads on the physical cores.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`Self::backend`].
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// Sets [`Self::threads`].
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Sets [`Self::spawn`].
    pub fn spawn(mut self, spawn: Spawn) -> Self {
        self.spawn = Some(spawn);
        self
    }

    /// Sets [`Self::isa`].
    pub fn isa(mut self, isa: Isa) -> Self {
        self.isa = Some(isa);
        self
    }

    /// Sets [`Self::adapter`].
    pub fn adapter(mut self, index: usize) -> Self {
        self.adapter = Some(index);
        self
    }

    /// Opens the model as if the device had only `limits`.
    #[cfg(feature = "testing")]
    pub fn device_limits(mut self, limits: DeviceLimits) -> Self {
        self.device_limits = limits;
        self
    }

    /// The limits that [`Self::device_limits`] set.
    #[cfg(feature = "testing")]
    pub fn limits_of_device(&self) -> DeviceLimits {
        self.device_limits
    }

    /// Sets [`Self::chunk`].
    pub fn chunk(mut self, chunk: usize) -> Self {
        self.chunk = Some(chunk);
        self
    }

    /// Sets [`Self::activations`].
    pub fn activations(mut self, activations: Activations) -> Self {
        self.activations = activations;
        self
    }

    /// Sets [`Self::strict`].
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Sets [`Self::prediction_head`].
    pub fn prediction_head(mut self, load: bool) -> Self {
        self.prediction_head = load;
        self
    }

    /// Sets [`Self::attention_window`] and [`Self::attention_sinks`].
    pub fn attention_window(mut self, window: usize, sinks: usize) -> Self {
        self.attention_window = Some(window);
        self.attention_sinks = sinks;
        self
    }

    /// Sets the formats of the plan's states to those of these options.
    pub(crate) fn stored(&self, plan: Plan) -> Plan {
        let tensors = match self.state_type {
            StateType::F32 => StateFormat::F32,
            StateType::F16 => StateFormat::F16,
        };
        let caches = match self.cache_type {
            CacheType::F32 => StateFormat::F32,
            CacheType::Affine8 => StateFormat::Affine8,
            CacheType::Affine4 => StateFormat::Affine4,
        };
        plan.with_formats(tensors, caches)
    }

    /// The plan of `spec` with these options.
    pub(crate) fn plan(&self, spec: &ModelSpec) -> Result<Plan, Error> {
        self.limited(Plan::new(spec))
    }

    /// `plan` with the formats of states and the attention window of these options.
    pub(crate) fn limited(&self, plan: Plan) -> Result<Plan, Error> {
        let plan = self.stored(plan);
        match (self.attention_window, self.attention_sinks) {
            (None, 0) => Ok(plan),
            (None, sinks) => {
                let (name, value) = ("attention sinks", sinks.to_string());
                Err(Error::Option { name, value, expected: "0 without an attention window" })
            }
            (Some(window), sinks) => {
                // A cache rounds both up to whole pages, so they must stay far below overflow.
                let range = 1..=1 << 30;
                if !range.contains(&window) || sinks > 1 << 30 {
                    let (name, value) =
                        ("attention window", format!("{window} with {sinks} sinks"));
                    return Err(Error::Option {
                        name,
                        value,
                        expected: "from 1 to 2^30 positions",
                    });
                }
                Ok(plan.with_window(window, sinks))
            }
        }
    }

    /// Sets [`Self::state_type`].
    pub fn state_type(mut self, state_type: StateType) -> Self {
        self.state_type = state_type;
        self
    }

    /// Sets [`Self::cache_type`].
    pub fn cache_type(mut self, cache_type: CacheType) -> Self {
        self.cache_type = cache_type;
        self
    }

    /// Sets [`Self::cache_dir`].
    pub fn cache_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(folder.into());
        self
    }

    /// Sets [`Self::self_test`].
    pub fn self_test(mut self, test: bool) -> Self {
        self.self_test = test;
        self
    }

    /// Sets [`Self::context_limit`].
    pub fn context_limit(mut self, limit: usize) -> Self {
        self.context_limit = Some(limit);
        self
    }
}
