//! The report as text.

use std::path::Path;

use kinglet::quantize::{ErrorMeasure, Job, Kept, Report, TargetTensor};

use crate::output::escape;
use crate::table::{Table, brief_format, bytes, grouped, wrapped};

/// The planned output, with a row for each matrix if `each` is set.
pub(super) fn plan(job: &Job, each: bool, width: usize) -> String {
    let tensors: Vec<_> = job.tensors().iter().map(|tensor| (tensor, None)).collect();
    let end = format!(
        "{:.3} bits per weight; {} of weights would be {}.",
        job.bits_per_weight(),
        bytes(job.source_bytes()),
        bytes(job.bytes()),
    );
    tables(&tensors, each, width) + &wrapped(&end, "", width)
}

/// The written output, with a row for each matrix if `each` is set.
pub(super) fn report(report: &Report, out: &Path, each: bool, width: usize) -> String {
    let tensors = report.tensors.iter().map(|found| (&found.tensor, found.measure.as_ref()));
    let tensors: Vec<_> = tensors.collect();
    let files = if report.files.len() == 1 { "file" } else { "files" };
    let end = format!(
        "{:.3} bits per weight, relative error {} ({}); {} of weights became {} in {} {files} in {:.1} s.",
        report.bits_per_weight(),
        percent(&report.measure()),
        report.method,
        bytes(report.source_bytes),
        bytes(report.bytes()),
        report.files.len(),
        report.elapsed.as_secs_f64(),
    );
    let place = escape(&out.display().to_string()).into_owned();
    tables(&tensors, each, width) + &wrapped(&end, "", width) + &place + "\n"
}

type Row<'a> = (&'a TargetTensor, Option<&'a ErrorMeasure>);

fn tables(tensors: &[Row<'_>], each: bool, width: usize) -> String {
    let mut text = if each { matrices(tensors, width) + "\n" } else { String::new() };
    text += &formats(tensors, width);
    let ragged =
        tensors.iter().filter(|(tensor, _)| matches!(tensor.kept, Some(Kept::Ragged { .. })));
    let ragged: Vec<_> = ragged.map(|(tensor, _)| tensor.path()).collect();
    if let Some(first) = ragged.first() {
        let are = match ragged.len() {
            1 => format!("{first} is not quantized because its"),
            count => format!("{count} matrices (such as {first}) are not quantized because their"),
        };
        let note =
            format!("{are} rows are not whole groups; a recipe can set a smaller group size.");
        text += &wrapped(&note, "", width);
    }
    text
}

/// A row for every matrix.
fn matrices(tensors: &[Row<'_>], width: usize) -> String {
    let header = ["module", "format", "bits", "bytes", "error"];
    let mut table = Table::new(&header).right(&[2, 3, 4]).wraps(0, '.');
    for (tensor, measure) in tensors.iter().filter(|(tensor, _)| tensor.role.is_some()) {
        let format = match (tensor.format(), tensor.kept) {
            (Some(format), _) => brief_format(&format.to_string()),
            (None, Some(Kept::Gate)) => format!("{}, gate", tensor.dtype),
            (None, Some(Kept::Ragged { .. })) => format!("{}, ragged", tensor.dtype),
            (None, _) => tensor.dtype.to_string(),
        };
        table.row([
            tensor.path().to_string(),
            format,
            format!("{:.2}", tensor.bits_per_weight()),
            grouped(tensor.bytes()),
            measure.map(percent).unwrap_or_default(),
        ]);
    }
    table.render(width)
}

/// All tensors of one format.
struct Group {
    format: String,
    matrices: u64,
    weights: u64,
    bytes: u64,
    measure: Option<ErrorMeasure>,
}

/// A row for every format; everything that is not a matrix is one row.
fn formats(tensors: &[Row<'_>], width: usize) -> String {
    let mut groups: Vec<Group> = Vec::new();
    for (tensor, measure) in tensors {
        let format = match (tensor.role, tensor.format(), tensor.kept) {
            (None, ..) => "norms, biases, convolutions, ...".into(),
            (_, Some(format), _) => format.to_string(),
            (_, None, Some(kept)) => format!("{} ({})", tensor.dtype, kept_because(kept)),
            (_, None, None) => tensor.dtype.to_string(),
        };
        let at = groups.iter().position(|group| group.format == format).unwrap_or_else(|| {
            groups.push(Group { format, matrices: 0, weights: 0, bytes: 0, measure: None });
            groups.len() - 1
        });
        let Some(group) = groups.get_mut(at) else { continue };
        group.matrices += 1;
        group.weights = group.weights.saturating_add(tensor.weights());
        group.bytes = group.bytes.saturating_add(tensor.bytes());
        if let Some(measure) = measure {
            group.measure.get_or_insert_default().merge(measure);
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.bytes));
    let header = ["format", "tensors", "bits/weight", "bytes", "error"];
    let mut table = Table::new(&header).right(&[1, 2, 3, 4]);
    for group in groups {
        table.row([
            group.format,
            group.matrices.to_string(),
            format!("{:.2}", 8.0 * group.bytes as f64 / group.weights.max(1) as f64),
            bytes(group.bytes),
            group.measure.as_ref().map(percent).unwrap_or_default(),
        ]);
    }
    table.render(width)
}

fn kept_because(kept: Kept) -> String {
    match kept {
        Kept::Gate => "router or gate".into(),
        Kept::Ragged { cols, format } => format!("{cols} is not a multiple of {}", format.group()),
        kept => kept.name().into(),
    }
}

/// Root mean square error relative to that of the weights, in percent.
fn percent(measure: &ErrorMeasure) -> String {
    format!("{:.3} %", 100.0 * measure.relative_rms())
}
