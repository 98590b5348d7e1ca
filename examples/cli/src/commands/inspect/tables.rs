//! The report for people.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, Table, TableComponent, presets};

use super::{Report, Stored, formats};

/// The whole report.
pub(super) fn report(report: &Report, with_plan: bool, with_tensors: bool) -> String {
    let mut text = heading(report);
    for part in [blocks(report), parameters(report), weights(report), memory(report)] {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{part}");
    }
    if let Some(stored) = &report.stored {
        let _ = write!(text, "\n{}", traffic(report, stored));
        if with_tensors {
            let _ = write!(text, "\n{}", tensors(stored));
        }
    }
    if with_plan {
        let _ = write!(text, "\nOps of a step\n{}\n", report.plan);
    }
    text
}

fn heading(report: &Report) -> String {
    let spec = &report.spec;
    let layers: usize = report.layers.iter().map(super::LayerRun::layers).sum();
    let positions = spec.max_positions.map_or("any number of".into(), grouped_usize);
    format!(
        "{}\n{}: {} parameters ({} active), {layers} layers, width {}, vocabulary {}, made for {positions} tokens\n",
        report.folder.display(),
        spec.model_type,
        short(report.parameters.total()),
        short(report.parameters.active()),
        grouped_usize(spec.hidden),
        grouped_usize(spec.vocab),
    )
}

/// A table with lines around it and below its header; the columns `right` are aligned to the right.
pub(crate) fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(header);
    // Lines around the table and below its header, none between rows.
    table.remove_style(TableComponent::HorizontalLines);
    table.remove_style(TableComponent::MiddleIntersections);
    for &column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn blocks(report: &Report) -> String {
    let header = ["layers", "block", "sizes", "parameters", "dispatches"];
    let mut table = table(&header, &[3, 4]);
    for run in &report.layers {
        let layers = match run.layers() {
            1 => run.first.to_string(),
            count => format!("{} to {} ({count})", run.first, run.last),
        };
        for (i, block) in run.blocks.iter().enumerate() {
            table.add_row([
                if i == 0 { layers.clone() } else { String::new() },
                block.kind.clone(),
                block.sizes.clone(),
                grouped(block.parameters),
                block.dispatches.to_string(),
            ]);
        }
    }
    let ops = report.plan.ops.len();
    format!(
        "{table}\nParameters and dispatches are those of each block; a token takes {ops} dispatches.\n"
    )
}

fn parameters(report: &Report) -> String {
    let parameters = &report.parameters;
    let mut table = table(&["component", "parameters", "active", "share"], &[1, 2, 3]);
    let total = parameters.total();
    for (component, count) in &parameters.components {
        let tied = parameters.tied && component.name() == "embedding";
        let name = if tied { "embedding, and head" } else { component.name() };
        table.add_row([
            name.to_string(),
            grouped(count.total),
            grouped(count.active),
            format!("{:.1} %", 100.0 * count.total as f64 / total.max(1) as f64),
        ]);
    }
    table.add_row([
        "all".to_string(),
        grouped(total),
        grouped(parameters.active()),
        "100.0 %".to_string(),
    ]);
    format!("{table}\n")
}

fn weights(report: &Report) -> String {
    let Some(stored) = &report.stored else {
        return "No weights in the folder: sizes in bytes are those of the state alone.\n".into();
    };
    let header = ["format", "tensors", "bits per weight", "bytes", "", "share"];
    let mut table = table(&header, &[1, 2, 3, 4, 5]);
    let needed: u64 = stored.rows.iter().map(|row| row.bytes).sum();
    let share = |size: u64| format!("{:.1} %", 100.0 * size as f64 / needed.max(1) as f64);
    for total in formats::totals(&stored.rows) {
        table.add_row([
            total.format.clone(),
            total.tensors.to_string(),
            format!("{:.2}", total.bits_per_weight()),
            grouped(total.bytes),
            bytes(total.bytes),
            share(total.bytes),
        ]);
    }
    table.add_row([
        "all".to_string(),
        stored.rows.len().to_string(),
        format!("{:.2}", formats::effective_bits(&stored.rows)),
        grouped(needed),
        bytes(needed),
        share(needed),
    ]);
    let files = if stored.files == 1 { "file" } else { "files" };
    let mut text = format!(
        "{table}\nBits per weight count scales and biases. {} stored tensors in {} {files}",
        stored.tensors, stored.files
    );
    for (names, what) in
        [(&stored.checked.ignored, "not needed"), (&stored.checked.surplus, "not used")]
    {
        if let Some(first) = names.first() {
            let _ = write!(text, ", {} {what} (such as {first})", names.len());
        }
    }
    text + "\n"
}

fn tensors(stored: &Stored) -> String {
    let mut table = table(&["tensor", "shape", "format", "bits per weight", "bytes"], &[3, 4]);
    for row in &stored.rows {
        let shape: Vec<_> = row.shape.iter().map(ToString::to_string).collect();
        table.add_row([
            row.name.clone(),
            shape.join(" x "),
            row.format.clone(),
            format!("{:.2}", row.bits_per_weight()),
            grouped(row.bytes),
        ]);
    }
    format!("{table}\n")
}

fn memory(report: &Report) -> String {
    let memory = &report.memory;
    let header = format!("memory at {} tokens", grouped_usize(memory.context));
    let mut table = table(&[&header, "bytes", ""], &[1, 2]);
    let prefill = format!("buffers while {} tokens are read", memory.prefill_tokens);
    for (what, size) in [
        ("weights", memory.weights),
        ("recurrent state", Some(memory.recurrent)),
        ("keys and values", Some(memory.key_value)),
        (prefill.as_str(), Some(memory.prefill_buffers)),
        ("buffers while one is written", Some(memory.decode_buffers)),
        ("all, at most", memory.total()),
    ] {
        let unknown = || "unknown".to_string();
        table.add_row([
            Cell::new(what),
            Cell::new(size.map_or_else(unknown, grouped)),
            Cell::new(size.map_or_else(String::new, bytes)),
        ]);
    }
    format!("{table}\n")
}

fn traffic(report: &Report, stored: &Stored) -> String {
    let header = format!("moved per token at {}", grouped_usize(report.memory.context));
    let mut table = table(&[&header, "bytes", ""], &[1, 2]);
    let traffic = &stored.traffic;
    for (what, size) in [
        ("weights", traffic.weights),
        ("recurrent state, both ways", traffic.state),
        ("keys and values", traffic.key_value),
        ("all", traffic.total()),
    ] {
        table.add_row([what.to_string(), grouped(size), bytes(size)]);
    }
    format!("{table}\n")
}

fn grouped_usize(count: usize) -> String {
    grouped(count as u64)
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three digits and a unit.
fn scaled(count: u64, units: &[&str]) -> String {
    let mut value = count as f64;
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for next in units {
        // 999.5 would be shown as 1000.
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    let digits = match value {
        _ if count < 1000 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}").trim_end().to_string()
}

/// `1234567` as `1.23 MB`.
pub(crate) fn bytes(count: u64) -> String {
    scaled(count, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// `1234567890` as `1.23 B`.
pub(super) fn short(count: u64) -> String {
    scaled(count, &["", "K", "M", "B", "T", "P", "E"])
}
