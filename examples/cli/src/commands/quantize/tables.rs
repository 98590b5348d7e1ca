//! The report for people.

use std::fmt::Write as _;
use std::path::Path;

use kinglet::quantize::{ErrorMeasure, Job, Kept, Report, TargetTensor};

use crate::commands::inspect::tables::{bytes, grouped, table};

/// What would be written.
pub(super) fn plan(job: &Job) -> String {
    let tensors = job.tensors().iter().map(|tensor| (tensor, None));
    let mut text = tensor_table(tensors);
    let _ = writeln!(
        text,
        "\n{:.3} bits per weight; {} of weights would be {}.",
        job.bits_per_weight(),
        bytes(job.source_bytes()),
        bytes(job.bytes()),
    );
    text
}

/// What was written.
pub(super) fn report(report: &Report, out: &Path) -> String {
    let tensors = report.tensors.iter().map(|found| (&found.tensor, found.measure.as_ref()));
    let mut text = tensor_table(tensors);
    let files = if report.files.len() == 1 { "file" } else { "files" };
    let _ = writeln!(
        text,
        "\n{:.3} bits per weight, relative error {} ({}); {} of weights became {} in {} {files} in {:.1} s.\n{}",
        report.bits_per_weight(),
        percent(&report.measure()),
        report.method,
        bytes(report.source_bytes),
        bytes(report.bytes()),
        report.files.len(),
        report.elapsed.as_secs_f64(),
        out.display(),
    );
    text
}

/// A row for every matrix; what is no matrix is summed up in one.
fn tensor_table<'a>(
    tensors: impl Iterator<Item = (&'a TargetTensor, Option<&'a ErrorMeasure>)>,
) -> String {
    let header = ["module", "weights", "format", "bits/weight", "bytes", "error"];
    let mut table = table(&header, &[1, 3, 4, 5]);
    let (mut others, mut weights, mut size) = (0u64, 0u64, 0u64);
    let mut ragged = 0;
    for (tensor, measure) in tensors {
        if tensor.role.is_none() {
            others += 1;
            weights = weights.saturating_add(tensor.weights());
            size = size.saturating_add(tensor.bytes());
            continue;
        }
        let format = match (tensor.format(), tensor.kept) {
            (Some(format), _) => format.to_string(),
            (None, Some(kept)) => {
                ragged += usize::from(matches!(kept, Kept::Ragged { .. }));
                format!("{} ({})", tensor.dtype, kept_because(kept))
            }
            (None, None) => tensor.dtype.to_string(),
        };
        table.add_row([
            tensor.path().to_string(),
            grouped(tensor.weights()),
            format,
            format!("{:.2}", tensor.bits_per_weight()),
            grouped(tensor.bytes()),
            measure.map(percent).unwrap_or_default(),
        ]);
    }
    table.add_row([
        format!("{others} norms, biases, convolutions, ..."),
        grouped(weights),
        "as they are".into(),
        format!("{:.2}", 8.0 * size as f64 / weights.max(1) as f64),
        grouped(size),
        String::new(),
    ]);
    let mut text = format!("{table}\n");
    if ragged > 0 {
        let _ = writeln!(
            text,
            "{ragged} matrices stay as they are because their rows are not whole groups; a recipe can give them a smaller group."
        );
    }
    text
}

fn kept_because(kept: Kept) -> String {
    match kept {
        Kept::Gate => "router or gate".into(),
        Kept::Ragged { cols, format } => format!("{cols} is no multiple of {}", format.group()),
        kept => kept.name().into(),
    }
}

/// The root of the mean squared error over that of the weights.
fn percent(measure: &ErrorMeasure) -> String {
    format!("{:.3} %", 100.0 * measure.relative_rms())
}
