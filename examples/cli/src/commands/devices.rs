//! `kinglet devices`: lists the CPU and the adapters, and which capabilities are used.

use clap::Args;
use kinglet::{AdapterInfo, Isa, adapters};
use serde_json::json;

use crate::error::CliError;
use crate::output::{Format, Output, escape};
use crate::table::{bytes, title, width, wrapped};

const EXAMPLES: &str = "\
Examples:
  kinglet devices
  kinglet chat --backend wgpu --adapter 0";

/// Options of `devices`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DevicesArgs {
    /// Print one JSON object per line, for each adapter
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If standard output can't be written to.
pub(crate) fn run(args: &DevicesArgs) -> Result<(), CliError> {
    let mut output = Output::new(if args.json { Format::Json } else { Format::Text });
    let found = adapters_here();
    if args.json {
        for adapter in &found {
            output.event(&as_json(adapter)?)?;
        }
        return Ok(());
    }
    let width = width();
    let mut text = format!("cpu: {}\n", Isa::detect().name());
    for adapter in &found {
        text += &describe(adapter, width)?;
    }
    if found.is_empty() {
        let none = format!("wgpu: no adapter (found no driver for {})", kinglet::GRAPHICS);
        text += &wrapped(&none, "  ", width);
    }
    output.styled(&text)
}

fn adapters_here() -> Vec<AdapterInfo> {
    pollster::block_on(adapters())
}

fn describe(adapter: &AdapterInfo, width: usize) -> Result<String, kinglet::Error> {
    let mut abilities = vec![match adapter.subgroups {
        Some((least, most)) if least == most => format!("subgroups of {least}"),
        Some((least, most)) => format!("subgroups of {least} to {most}"),
        None => "no subgroups".into(),
    }];
    let used = adapter.capabilities.allowed()?;
    for ((name, has), (_, used)) in adapter.capabilities.list().into_iter().zip(used.list()) {
        abilities.push(match (has, used) {
            (true, true) => name.into(),
            (true, false) => format!("{name} (not used)"),
            _ => format!("no {name}"),
        });
    }
    let used = match &adapter.unusable {
        Some(reason) => format!("not usable: {reason}"),
        None => format!("--backend wgpu --adapter {}", adapter.index),
    };
    let name = format!("wgpu {}: {}", adapter.index, adapter.name);
    let mut text = title(&escape(&name)) + "\n";
    for line in [
        format!("  {}, {}, {}", adapter.kind, adapter.api, adapter.driver),
        format!("  {}", abilities.join(", ")),
        format!("  kernels can bind buffers of up to {}", bytes(adapter.max_binding)),
        format!("  {used}"),
    ] {
        text += &wrapped(&line, "    ", width);
    }
    Ok(text)
}

fn as_json(adapter: &AdapterInfo) -> Result<serde_json::Value, kinglet::Error> {
    let named = |list: [(&'static str, bool); 7]| -> serde_json::Map<_, _> {
        list.into_iter().map(|(name, has)| (name.into(), has.into())).collect()
    };
    Ok(json!({
        "index": adapter.index,
        "name": adapter.name,
        "kind": adapter.kind.to_string(),
        "api": adapter.api,
        "driver": adapter.driver,
        "subgroup_sizes": adapter.subgroups.map(|(least, most)| [least, most]),
        "has": named(adapter.capabilities.list()),
        "uses": named(adapter.capabilities.allowed()?.list()),
        "max_binding": adapter.max_binding,
        "max_buffer": adapter.max_buffer,
        "unusable": adapter.unusable,
    }))
}
