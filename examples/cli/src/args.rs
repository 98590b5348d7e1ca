//! Options shared by commands that use a model: which model, and how it runs.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser, ValueParser};
use clap::{Args, ValueHint};
use kinglet::{Activations, Backend, CacheType, StateType};

/// Which model, for commands that only read its files.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// Model folder (config.json, *.safetensors, tokenizer.json) [default: the demo model]
    ///
    /// By default, the folder in the environment variable KINGLET_MODEL, or else the demo model
    /// that comes with Kinglet.
    #[arg(long, short, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) model: Option<PathBuf>,

    /// Fail if the checkpoint has tensors that the model does not use; by default that is a warning
    #[arg(long, hide_short_help = true)]
    pub(crate) strict: bool,
}

/// Which model, and how it runs.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct GlobalArgs {
    /// Model folder (config.json, *.safetensors, tokenizer.json) [default: the demo model]
    ///
    /// By default, the folder in the environment variable KINGLET_MODEL, or else the demo model
    /// that comes with Kinglet.
    #[arg(long, short, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) model: Option<PathBuf>,

    /// Backend to run on; auto uses a GPU if there is one, else the CPU
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = backend())]
    pub(crate) backend: Backend,

    /// Adapter for `--backend wgpu`, by its number in `kinglet devices` [default: the best one]
    #[arg(long, value_name = "N")]
    pub(crate) adapter: Option<u16>,

    /// Limit attention to this many of the last positions [default: all]
    ///
    /// This bounds memory, however long the conversation.
    #[arg(long, value_name = "TOKENS", value_parser = count(), hide_short_help = true)]
    pub(crate) attention_window: Option<usize>,

    /// Number of first positions that attention sees regardless of the window
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = 4,
        requires = "attention_window",
        hide_short_help = true
    )]
    pub(crate) attention_sinks: usize,

    /// Bits per element of the key/value cache; 4 costs some quality
    #[arg(long, value_name = "BITS", default_value = "32", value_parser = kv_bits())]
    pub(crate) kv_bits: CacheType,

    /// Bits per element of recurrent states
    #[arg(long, value_name = "BITS", default_value = "32", value_parser = state_bits(), hide_short_help = true)]
    pub(crate) state_bits: StateType,

    /// Fail if the checkpoint has tensors that the model does not use; by default that is a warning
    #[arg(long, hide_short_help = true)]
    pub(crate) strict: bool,

    /// Skip the self-test of a GPU's kernels
    #[arg(long, hide_short_help = true)]
    pub(crate) no_self_test: bool,

    /// CPU threads [default: the number of physical cores]
    #[arg(long, short, value_name = "N", value_parser = threads())]
    pub(crate) threads: Option<u16>,

    /// Activations for quantized matrices: auto uses 8 bits where that is faster, f32 is exact
    #[arg(long, value_name = "TYPE", default_value = "auto", value_parser = activations(), hide_short_help = true)]
    pub(crate) activations: Activations,

    /// How often `--verbose` was given.
    #[arg(skip)]
    pub(crate) verbose: u8,
}

impl GlobalArgs {
    /// Options for the CPU, otherwise the defaults.
    pub(crate) fn on_cpu(model: Option<PathBuf>, threads: Option<u16>) -> Self {
        Self {
            model,
            backend: Backend::Cpu,
            adapter: None,
            attention_window: None,
            attention_sinks: 0,
            kv_bits: CacheType::F32,
            state_bits: StateType::F32,
            strict: false,
            no_self_test: false,
            threads,
            activations: Activations::Auto,
            verbose: 0,
        }
    }
}

/// Parses a count of at least 1.
pub(crate) fn count() -> impl TypedValueParser<Value = usize> {
    // Far beyond any machine, and far below overflow in size computations.
    clap::value_parser!(u32).range(1..=MOST.into()).map(|count| count as usize)
}

/// Parses a count that may be 0.
pub(crate) fn count_or_none() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(0..=MOST.into()).map(|count| count as usize)
}

const MOST: u32 = 1 << 30;

/// Parses a number of CPU threads.
pub(crate) fn threads() -> impl TypedValueParser<Value = u16> {
    clap::value_parser!(u16).range(1..=512)
}

fn backend() -> ValueParser {
    let names = Backend::NAMES.iter().map(|(name, _)| *name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Backend>()).into()
}

fn state_bits() -> ValueParser {
    let names = StateType::BITS.iter().map(|(bits, _)| *bits);
    PossibleValuesParser::new(names).try_map(|bits| bits.parse::<StateType>()).into()
}

fn kv_bits() -> ValueParser {
    let names = CacheType::BITS.iter().map(|(bits, _)| *bits);
    PossibleValuesParser::new(names).try_map(|bits| bits.parse::<CacheType>()).into()
}

fn activations() -> ValueParser {
    let names = Activations::NAMES.iter().map(|(name, _)| *name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Activations>()).into()
}
