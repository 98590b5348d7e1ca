//! `kinglet devices`: what can compute here, and what of it would be used.

use std::fmt::Write as _;

use clap::Args;
use kinglet::{AdapterInfo, Capabilities, Isa, adapters};
use serde_json::json;

use crate::error::CliError;
use crate::output::{Format, Output};

const EXAMPLES: &str = "\
Examples:
  kinglet devices
  kinglet chat --backend wgpu --adapter 0";

/// Options of `devices`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DevicesArgs {
    /// A JSON object for each adapter, one to a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When nothing can be written, or the environment forbids what is no capability.
pub(crate) fn run(args: &DevicesArgs) -> Result<(), CliError> {
    let mut output = Output::new(if args.json { Format::Json } else { Format::Text });
    let found = adapters_here();
    if args.json {
        for adapter in &found {
            output.event(&as_json(adapter, adapter.used()?))?;
        }
        return Ok(());
    }
    let mut text = format!("cpu: {}\n", Isa::detect().name());
    for adapter in &found {
        describe(adapter, adapter.used()?, &mut text);
    }
    if found.is_empty() {
        text.push_str("wgpu: no adapter (no driver for Vulkan, Metal or DX12 was found)\n");
    }
    output.text(&text)
}

fn adapters_here() -> Vec<AdapterInfo> {
    pollster::block_on(adapters())
}

fn describe(adapter: &AdapterInfo, used: Capabilities, text: &mut String) {
    let mut abilities = vec![match adapter.subgroups {
        Some((least, most)) if least == most => format!("subgroups of {least}"),
        Some((least, most)) => format!("subgroups of {least} to {most}"),
        None => "no subgroups".into(),
    }];
    for (name, has) in adapter.capabilities.list().into_iter().skip(1) {
        abilities.push(if has { name.into() } else { format!("no {name}") });
    }
    let mib = |bytes: u64| bytes >> 20;
    let using = match &adapter.unusable {
        Some(reason) => format!("not usable: {reason}"),
        None => format!("--backend wgpu --adapter {} uses {}", adapter.index, names(used)),
    };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "wgpu {}: {}\n  {}, {}, {}\n  {}\n  kernels see buffers of up to {} MiB\n  {using}",
        adapter.index,
        adapter.name,
        adapter.kind,
        adapter.api,
        adapter.driver,
        abilities.join(", "),
        mib(adapter.max_binding),
    );
}

/// The names of those that are there.
fn names(capabilities: Capabilities) -> String {
    let there = capabilities.list().into_iter().filter(|(_, has)| *has);
    let names: Vec<_> = there.map(|(name, _)| name).collect();
    if names.is_empty() { "nothing beyond WebGPU's core".into() } else { names.join(", ") }
}

fn object(capabilities: Capabilities) -> serde_json::Value {
    let pairs = capabilities.list().into_iter();
    pairs.map(|(name, has)| (name.to_string(), json!(has))).collect()
}

fn as_json(adapter: &AdapterInfo, used: Capabilities) -> serde_json::Value {
    json!({
        "index": adapter.index,
        "name": adapter.name,
        "kind": adapter.kind.to_string(),
        "api": adapter.api,
        "driver": adapter.driver,
        "subgroups": adapter.subgroups.map(|(least, most)| [least, most]),
        "found": object(adapter.capabilities),
        "used": object(used),
        "max_binding": adapter.max_binding,
        "max_buffer": adapter.max_buffer,
        "unusable": adapter.unusable,
    })
}
