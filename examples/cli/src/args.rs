//! What commands that run a model have in common: which one, and how it is computed.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser, ValueParser};
use clap::{Args, ValueHint};
use kinglet::{Activations, Backend, CacheType, StateType};

/// Which model: for commands that only look at it.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// Folder of the model (config.json, *.safetensors, tokenizer.json) [default: the demo model]
    ///
    /// Without it, the folder in the environment variable KINGLET_MODEL is used, else the demo model that comes with Kinglet.
    #[arg(long, short, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) model: Option<PathBuf>,

    /// Refuse a checkpoint that holds tensors which the model has no use for; without it they are a warning
    #[arg(long, hide_short_help = true)]
    pub(crate) strict: bool,
}

/// Which model, and how it is computed.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct GlobalArgs {
    /// Folder of the model (config.json, *.safetensors, tokenizer.json) [default: the demo model]
    ///
    /// Without it, the folder in the environment variable KINGLET_MODEL is used, else the demo model that comes with Kinglet.
    #[arg(long, short, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) model: Option<PathBuf>,

    /// What computes: auto takes a graphics card where there is one, else the processor
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = backend())]
    pub(crate) backend: Backend,

    /// Which adapter `--backend wgpu` takes, by its number in `kinglet devices` [default: the best one]
    #[arg(long, value_name = "N")]
    pub(crate) adapter: Option<u16>,

    /// Let attention see only this many of the last positions [default: all]
    ///
    /// Memory stays bounded then, however long a conversation gets.
    #[arg(long, value_name = "TOKENS", value_parser = count(), hide_short_help = true)]
    pub(crate) attention_window: Option<usize>,

    /// The first positions, which attention sees whatever the window
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = 4,
        requires = "attention_window",
        hide_short_help = true
    )]
    pub(crate) attention_sinks: usize,

    /// Bits of the keys and values that attention keeps; 4 costs some quality
    #[arg(long, value_name = "BITS", default_value = "32", value_parser = kv_bits())]
    pub(crate) kv_bits: CacheType,

    /// Bits of the states that recurrent layers keep
    #[arg(long, value_name = "BITS", default_value = "32", value_parser = state_bits(), hide_short_help = true)]
    pub(crate) state_bits: StateType,

    /// Refuse a checkpoint that holds tensors which the model has no use for; without it they are a warning
    #[arg(long, hide_short_help = true)]
    pub(crate) strict: bool,

    /// Don't test an adapter's kernels on small inputs before they are used
    #[arg(long, hide_short_help = true)]
    pub(crate) no_self_test: bool,

    /// Threads of the processor [default: its physical cores]
    #[arg(long, short, value_name = "N", value_parser = threads())]
    pub(crate) threads: Option<u16>,

    /// What quantized matrices are multiplied with: auto takes eight bits where that is faster, f32 is exact
    #[arg(long, value_name = "TYPE", default_value = "auto", value_parser = activations(), hide_short_help = true)]
    pub(crate) activations: Activations,

    /// As often as `--verbose` was given.
    #[arg(skip)]
    pub(crate) verbose: u8,
}

impl GlobalArgs {
    /// A model on the processor, otherwise by default.
    pub(crate) fn on_processor(model: Option<PathBuf>, threads: Option<u16>) -> Self {
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

/// A number of things, from 1.
pub(crate) fn count() -> impl TypedValueParser<Value = usize> {
    // Far more than a machine can do, and far from what overflows where sizes are computed.
    clap::value_parser!(u32).range(1..=MOST.into()).map(|count| count as usize)
}

/// A number of things, 0 too.
pub(crate) fn count_or_none() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(0..=MOST.into()).map(|count| count as usize)
}

const MOST: u32 = 1 << 30;

/// Threads of the processor.
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
