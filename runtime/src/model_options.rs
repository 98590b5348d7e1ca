//! [`ModelOptions`]: how a model is opened, and in what precision it computes and remembers.

use std::path::PathBuf;

use kinglet_models::ModelSpec;

use crate::Error;
use crate::backend::Backend;
use crate::backend::cpu::Spawn;
use crate::backend::cpu::simd::Isa;
use crate::plan::{Plan, StateFormat};
#[cfg(any(feature = "testing", feature = "wgpu"))]
use crate::testing::DeviceLimits;

/// What matrices are multiplied with. On the CPU dense ones always take activations as they are, on a GPU those of f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activations {
    /// What is fastest within the stated bound: on the CPU, activations in eight bits with a scale for every 32 of them, so that each
    /// is off by at most 1/254 of the largest among its 32; on a GPU the same where there are few tokens, and f16 where there are many.
    #[default]
    Auto,
    /// Activations as they are.
    F32,
}

impl Activations {
    /// Every choice by the name that command lines use.
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

/// In what precision a session's recurrent tensors are stored between steps. Keys and values are not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateType {
    /// Single precision, as computed.
    #[default]
    F32,
    /// Half precision: half the memory, and an error that each step adds to. Numbers above 65504 are stored as that.
    F16,
}

impl StateType {
    /// Every type by its bits, as command lines have it.
    pub const BITS: &[(&str, Self)] = &[("32", Self::F32), ("16", Self::F16)];
}

impl std::str::FromStr for StateType {
    type Err = Error;
    fn from_str(bits: &str) -> Result<Self, Error> {
        of_bits(Self::BITS, bits, "bits of recurrent states", "32 or 16")
    }
}

/// What has so many bits among `known`.
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

/// How keys and values are stored. Recurrent tensors are not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheType {
    /// Single precision, as computed.
    #[default]
    F32,
    /// Codes of 8 bits with a scale and a bias for every 32 elements of a head: 28 % of the memory.
    Affine8,
    /// Codes of 4 bits with a scale and a bias for every 32 elements of a head: 16 % of the memory, and an error that can be seen in the
    /// logits.
    Affine4,
}

impl CacheType {
    /// Every type by the bits of its codes, as command lines have it.
    pub const BITS: &[(&str, Self)] =
        &[("32", Self::F32), ("8", Self::Affine8), ("4", Self::Affine4)];
}

impl std::str::FromStr for CacheType {
    type Err = Error;
    fn from_str(bits: &str) -> Result<Self, Error> {
        of_bits(Self::BITS, bits, "bits of keys and values", "32, 8 or 4")
    }
}

/// How a model is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ModelOptions {
    /// Which backend computes.
    pub backend: Backend,
    /// Threads of the CPU backend; the physical cores if not given.
    pub threads: Option<usize>,
    /// What starts the threads of the CPU backend; the standard library if not given.
    pub spawn: Option<Spawn>,
    /// Instruction set of the CPU backend; the best one if not given.
    pub isa: Option<Isa>,
    /// Which adapter the wgpu backend takes, by its number among [`adapters`](crate::adapters); the best one if not given.
    /// Named with the backend `auto`, it is taken whatever it is.
    pub adapter: Option<usize>,
    /// Most tokens that are computed together, a bound on working memory; if not given 512, on graphics cards 2048.
    pub chunk: Option<usize>,
    /// What quantized matrices are multiplied with.
    pub activations: Activations,
    /// Whether tensors that the model has no use for are an error instead of a warning.
    pub strict: bool,
    /// Most tokens that a session may hold; unlimited if not given.
    pub context_limit: Option<usize>,
    /// The last positions that attention sees, in layers that would see more: a session's memory is bounded then, however long it gets, and
    /// what lies farther back is left to recurrent layers or lost. Positions stay what they are.
    pub attention_window: Option<usize>,
    /// The first positions, which attention sees whatever [`Self::attention_window`] is: many models lean on them.
    pub attention_sinks: usize,
    /// In what precision recurrent tensors are stored.
    pub state_type: StateType,
    /// How keys and values are stored.
    pub cache_type: CacheType,
    /// A folder of the program's own where a backend keeps what makes the next start faster: kernels that a driver has compiled, and
    /// what was found out about it. Nothing is kept if not given.
    pub cache_dir: Option<PathBuf>,
    /// Whether the wgpu backend tests the kernels that a model needs on small inputs before it uses them, and does without what a driver gets
    /// wrong. It takes some milliseconds, once for each kind of layer, or once for each driver where there is a [`Self::cache_dir`].
    pub self_test: bool,
    /// What tests take away from a device.
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
    /// Backend `auto`, threads on the physical cores.
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

    /// Opens the model as on a device that has less than the one it runs on.
    #[cfg(feature = "testing")]
    pub fn device_limits(mut self, limits: DeviceLimits) -> Self {
        self.device_limits = limits;
        self
    }

    /// What [`Self::device_limits`] has set.
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

    /// Sets [`Self::attention_window`] and [`Self::attention_sinks`].
    pub fn attention_window(mut self, window: usize, sinks: usize) -> Self {
        self.attention_window = Some(window);
        self.attention_sinks = sinks;
        self
    }

    /// `plan` with states that are stored so.
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

    /// The plan of a model that is opened so.
    pub(crate) fn plan(&self, spec: &ModelSpec) -> Result<Plan, Error> {
        let plan = self.stored(Plan::new(spec));
        match (self.attention_window, self.attention_sinks) {
            (None, 0) => Ok(plan),
            (None, sinks) => {
                let (name, value) = ("attention sinks", sinks.to_string());
                Err(Error::Option { name, value, expected: "0 where there is no attention window" })
            }
            (Some(window), sinks) => {
                // A cache rounds them up to pages.
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
