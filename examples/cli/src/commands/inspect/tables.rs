//! The report as text.

use std::fmt::Write as _;

use super::{Report, Stored, formats};
use crate::output::escape;
use crate::table::{Table, brief_format, bytes, grouped, short, title, wrapped};

/// The summary of the model and its sizes, at most `width` columns wide.
pub(super) fn summary(report: &Report, width: usize) -> String {
    let mut text = heading(report, width);
    for part in [
        blocks(report, width),
        parameters(report, width),
        work(report, width),
        weights(report, width),
        memory(report, width),
        contexts(report, width),
    ] {
        // Writing to a string can't fail.
        let _ = write!(text, "\n{part}");
    }
    if let Some(stored) = &report.stored {
        let _ = write!(text, "\n{}", traffic(report, stored, width));
    }
    text
}

/// The ops that the model runs as, one paragraph each.
pub(super) fn plan(report: &Report, width: usize) -> String {
    let plan = report.plan.to_string();
    plan.lines().map(|op| wrapped(op, "      ", width)).collect()
}

fn heading(report: &Report, width: usize) -> String {
    let spec = &report.spec;
    let layers: usize = report.layers.iter().map(super::LayerRun::layers).sum();
    let positions = spec.max_positions.map_or("any number of".into(), grouped_usize);
    let text = format!(
        "{}: {} parameters ({} active), {layers} layers, width {}, vocabulary {}, context of {positions} tokens",
        spec.model_type,
        short(report.parameters.total()),
        short(report.parameters.active()),
        grouped_usize(spec.hidden),
        grouped_usize(spec.vocab),
    );
    let folder = report.folder.display().to_string();
    title(&escape(&folder))
        + "
" + &wrapped(&text, "  ", width)
}

fn blocks(report: &Report, width: usize) -> String {
    let header = ["layers", "block", "sizes", "parameters", "ops"];
    let mut table = Table::new(&header).right(&[3, 4]).wraps(2, ' ');
    for run in &report.layers {
        let layers = match run.layers() {
            1 => run.first.to_string(),
            _ => format!("{} to {}", run.first, run.last),
        };
        for (i, block) in run.blocks.iter().enumerate() {
            table.row([
                if i == 0 { layers.clone() } else { String::new() },
                block.kind.clone(),
                block.sizes.clone(),
                grouped(block.parameters),
                block.dispatches.to_string(),
            ]);
        }
    }
    let ops = report.plan.ops.len();
    let note = format!("Parameters and ops are per block; a token takes {ops} ops.");
    table.render(width) + &wrapped(&note, "", width)
}

fn parameters(report: &Report, width: usize) -> String {
    let parameters = &report.parameters;
    let mut table = Table::new(&["component", "parameters", "active", "share"]).right(&[1, 2, 3]);
    let total = parameters.total();
    for (component, count) in &parameters.components {
        let tied = parameters.tied && component.name() == "embedding";
        let name = if tied { "embedding, and head" } else { component.name() };
        table.row([
            name.to_string(),
            grouped(count.total),
            grouped(count.active),
            format!("{:.1} %", 100.0 * count.total as f64 / total.max(1) as f64),
        ]);
    }
    table.row([
        "all".to_string(),
        grouped(total),
        grouped(parameters.active()),
        "100.0 %".to_string(),
    ]);
    table.render(width)
}

/// Floating-point operations by component.
fn work(report: &Report, width: usize) -> String {
    let work = &report.work;
    let header = format!("FLOPs per token at {}", grouped_usize(work.context));
    let names = [header.as_str(), "projections", "scans", "attention", "share"];
    let mut table = Table::new(&names).right(&[1, 2, 3, 4]);
    let total = work.total().max(1) as f64;
    let sum = work.sum();
    let rows = work.components.iter().map(|(component, work)| (component.name(), work));
    for (name, work) in rows.chain([("all", &sum)]) {
        let counted = [work.projections, work.scans, work.attention].map(flops);
        let [projections, scans, attention] = counted;
        let share = format!("{:.1} %", 100.0 * work.total() as f64 / total);
        table.row([name.to_string(), projections, scans, attention, share]);
    }
    table.render(width)
}

/// A count of operations; nothing for none.
fn flops(count: u64) -> String {
    if count == 0 { String::new() } else { short(count) }
}

/// Memory against the length of the context.
fn contexts(report: &Report, width: usize) -> String {
    let names = ["context", "weights", "recurrent", "keys and values", "all"];
    let mut table = Table::new(&names).right(&[0, 1, 2, 3, 4]);
    for memory in report.contexts() {
        let weights = report.memory.weights;
        let all = weights.map_or(memory.total(), |weights| weights.saturating_add(memory.total()));
        table.row([
            grouped_usize(memory.context),
            weights.map_or_else(|| "unknown".into(), bytes),
            bytes(memory.recurrent),
            bytes(memory.key_value),
            bytes(all),
        ]);
    }
    table.render(width)
}

fn weights(report: &Report, width: usize) -> String {
    let Some(stored) = &report.stored else {
        let note = "No weights in the folder: sizes in bytes are for the state alone.";
        return wrapped(note, "", width);
    };
    let header = ["format", "tensors", "bits/weight", "bytes", "", "share"];
    let mut table = Table::new(&header).right(&[1, 2, 3, 4, 5]);
    let needed: u64 = stored.rows.iter().map(|row| row.bytes).sum();
    let share = |size: u64| format!("{:.1} %", 100.0 * size as f64 / needed.max(1) as f64);
    for total in formats::totals(&stored.rows) {
        table.row([
            total.format.clone(),
            total.tensors.to_string(),
            format!("{:.2}", total.bits_per_weight()),
            grouped(total.bytes),
            bytes(total.bytes),
            share(total.bytes),
        ]);
    }
    table.row([
        "all".to_string(),
        stored.rows.len().to_string(),
        format!("{:.2}", formats::effective_bits(&stored.rows)),
        grouped(needed),
        bytes(needed),
        share(needed),
    ]);
    let files = if stored.files == 1 { "file" } else { "files" };
    let mut text = format!(
        "Bits per weight count scales and biases. {} stored tensors in {} {files}",
        stored.tensors, stored.files
    );
    for (names, what) in
        [(&stored.checked.ignored, "not needed"), (&stored.checked.surplus, "not used")]
    {
        if let Some(first) = names.first() {
            let _ = write!(text, ", {} {what} (such as {first})", names.len());
        }
    }
    table.render(width) + &wrapped(&text, "", width)
}

/// A row for every tensor.
pub(super) fn tensors(stored: &Stored, width: usize) -> String {
    let header = ["tensor", "shape", "format", "bits", "bytes"];
    let mut table = Table::new(&header).right(&[3, 4]).wraps(0, '.');
    for row in &stored.rows {
        let shape: Vec<_> = row.shape.iter().map(ToString::to_string).collect();
        table.row([
            row.name.clone(),
            shape.join(" x "),
            brief_format(&row.format),
            format!("{:.2}", row.bits_per_weight()),
            grouped(row.bytes),
        ]);
    }
    table.render(width)
}

fn memory(report: &Report, width: usize) -> String {
    let memory = &report.memory;
    let header = format!("memory at {} tokens", grouped_usize(memory.context));
    let mut table = Table::new(&[&header, "bytes", ""]).right(&[1, 2]);
    let prefill = format!("buffers for a prefill step of {} tokens", memory.prefill_tokens);
    for (what, size) in [
        ("weights", memory.weights),
        ("recurrent state", Some(memory.recurrent)),
        ("keys and values", Some(memory.key_value)),
        (prefill.as_str(), Some(memory.prefill_buffers)),
        ("buffers for a decode step", Some(memory.decode_buffers)),
        ("total, at most", memory.total()),
    ] {
        let unknown = || "unknown".to_string();
        table.row([
            what.to_string(),
            size.map_or_else(unknown, grouped),
            size.map_or_else(String::new, bytes),
        ]);
    }
    table.render(width)
}

fn traffic(report: &Report, stored: &Stored, width: usize) -> String {
    let header = format!("moved per token at {}", grouped_usize(report.memory.context));
    let mut table = Table::new(&[&header, "bytes", ""]).right(&[1, 2]);
    let traffic = &stored.traffic;
    for (what, size) in [
        ("weights", traffic.weights),
        ("recurrent state, read and written", traffic.state),
        ("keys and values", traffic.key_value),
        ("all", traffic.total()),
    ] {
        table.row([what.to_string(), grouped(size), bytes(size)]);
    }
    table.render(width)
}

fn grouped_usize(count: usize) -> String {
    grouped(count as u64)
}
