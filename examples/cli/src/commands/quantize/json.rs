//! The report as JSON. Sizes are in bytes.

use std::path::Path;

use kinglet::quantize::{ErrorMeasure, Format, Job, Report, TargetTensor};
use serde_json::{Value, json};

/// The planned output.
pub(super) fn plan(job: &Job) -> Value {
    let tensors = job.tensors().iter().map(|target| tensor(target, None));
    let mut value = common(job);
    value["dry_run"] = true.into();
    value["tensors"] = tensors.collect();
    value
}

/// The written output.
pub(super) fn report(job: &Job, report: &Report, out: &Path) -> Value {
    let tensors = report.tensors.iter().map(|found| tensor(&found.tensor, found.measure.as_ref()));
    let files = report.files.iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes }));
    let mut value = common(job);
    value["dry_run"] = false.into();
    value["out"] = json!(out);
    value["method"] = json!(report.method);
    value["relative_rms_error"] = json!(report.measure().relative_rms());
    value["seconds"] = json!(report.elapsed.as_secs_f64());
    value["files"] = files.collect();
    value["copied"] = json!(report.copied);
    let left_out =
        report.left_out.iter().map(|(file, problem)| json!({ "file": file, "problem": problem }));
    value["left_out"] = left_out.collect();
    value["tensors"] = tensors.collect();
    value
}

fn common(job: &Job) -> Value {
    json!({
        "model": job.folder(),
        "model_type": job.spec().model_type,
        "default_format": format(job.options().format),
        "weights": job.weight_count(),
        "source_bytes": job.source_bytes(),
        "bytes": job.bytes(),
        "bits_per_weight": job.bits_per_weight(),
        "unused_rules": job.unused_rules(),
    })
}

fn format(format: Format) -> Value {
    json!({ "mode": format.mode().name(), "bits": format.bits(), "group_size": format.group() })
}

fn tensor(tensor: &TargetTensor, measure: Option<&ErrorMeasure>) -> Value {
    json!({
        "name": tensor.name,
        "role": tensor.role.map(|role| role.name()),
        "layer": tensor.layer,
        "shape": tensor.shape,
        "dtype": tensor.dtype.name(),
        "format": tensor.format().map(format),
        "kept": tensor.kept.map(|kept| kept.name()),
        "bytes": tensor.bytes(),
        "bits_per_weight": tensor.bits_per_weight(),
        "relative_rms_error": measure.map(ErrorMeasure::relative_rms),
        "rms_error": measure.map(ErrorMeasure::rms),
        "largest_error": measure.map(ErrorMeasure::largest_error),
    })
}
