//! Options of every command.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser, ValueParser};
use kinglet::{Activations, Backend, CacheType, StateType};

/// Options of every command.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct GlobalArgs {
    /// Folder of the model (config.json, *.safetensors, tokenizer.json); the demo model if not given
    #[arg(long, short, global = true, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,

    /// What computes; auto takes a graphics card or an integrated one if there is one, else the processor
    #[arg(long, global = true, value_name = "NAME", default_value = "auto", value_parser = backend())]
    pub(crate) backend: Backend,

    /// Which adapter `--backend wgpu` takes, by its number in `kinglet devices`; the best one if not given
    #[arg(long, global = true, value_name = "N")]
    pub(crate) adapter: Option<u16>,

    /// Let attention see this many of the last positions only, so that memory stays bounded however long a conversation gets
    #[arg(long, global = true, value_name = "TOKENS")]
    pub(crate) attention_window: Option<usize>,

    /// The first positions, which attention sees whatever the window
    #[arg(
        long,
        global = true,
        value_name = "TOKENS",
        default_value_t = 4,
        requires = "attention_window"
    )]
    pub(crate) attention_sinks: usize,

    /// Bits of the keys and values that attention keeps: fewer for less memory, at some loss of quality with 4
    #[arg(long, global = true, value_name = "BITS", default_value = "32", value_parser = kv_bits())]
    pub(crate) kv_bits: CacheType,

    /// Bits of the states that recurrent layers keep
    #[arg(long, global = true, value_name = "BITS", default_value = "32", value_parser = state_bits())]
    pub(crate) state_bits: StateType,

    /// Refuse a checkpoint that holds tensors which the model has no use for; without it they are a warning
    #[arg(long, global = true)]
    pub(crate) strict: bool,

    /// Don't test an adapter's kernels on small inputs before they are used
    #[arg(long, global = true)]
    pub(crate) no_self_test: bool,

    /// Threads of the processor; its physical cores if not given
    #[arg(long, short, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) threads: Option<u16>,

    /// What quantized matrices are multiplied with: auto takes eight bits where that is faster, f32 keeps activations exact
    #[arg(long, global = true, value_name = "TYPE", default_value = "auto", value_parser = activations())]
    pub(crate) activations: Activations,

    /// Say more on standard error: the whole of an error, what is going on (-vv: more)
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
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
