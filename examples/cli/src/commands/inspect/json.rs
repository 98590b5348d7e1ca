//! The report as JSON. Sizes are in bytes.

use kinglet::analysis::{ComponentWork, WorkPerToken};
use kinglet::plan::Plan;
use serde_json::{Value, json};

use super::blocks::{BlockInfo, LayerRun};
use super::{Memory, Report, Stored, formats};

/// The whole report. `scanned` is the number of bytes that `--check` read.
pub(super) fn report(
    report: &Report,
    with_plan: bool,
    with_tensors: bool,
    scanned: Option<u64>,
) -> Value {
    let spec = &report.spec;
    let components = report.parameters.components.iter().map(|(component, count)| {
        json!({ "component": component.name(), "total": count.total, "active": count.active })
    });
    let mut value = json!({
        "folder": report.folder,
        "model_type": spec.model_type,
        "hidden": spec.hidden,
        "vocabulary": spec.vocab,
        "max_positions": spec.max_positions,
        "layers": report.layers.iter().map(layers).collect::<Vec<_>>(),
        "dispatches_per_token": report.plan.ops.len(),
        "parameters": {
            "total": report.parameters.total(),
            "active": report.parameters.active(),
            "tied": report.parameters.tied,
            "components": components.collect::<Vec<_>>(),
        },
        "work": work(&report.work),
        "weights": report.stored.as_ref().map(stored),
        "memory": memory(&report.memory),
        "memory_by_context": contexts(report),
        "decode_traffic": report.stored.as_ref().map(|stored| json!({
            "depth": report.memory.context,
            "weights": stored.traffic.weights,
            "state": stored.traffic.state,
            "key_value": stored.traffic.key_value,
            "total": stored.traffic.total(),
        })),
    });
    if with_plan {
        value["plan"] = plan(&report.plan);
    }
    if let (Some(stored), true) = (&report.stored, with_tensors) {
        value["tensors"] = tensors(stored);
    }
    if let Some(bytes) = scanned {
        value["check"] = json!({ "bytes": bytes, "non_finite": false });
    }
    value
}

/// Floating-point operations.
fn work(work: &WorkPerToken) -> Value {
    let row = |work: &ComponentWork| {
        json!({
            "projections": work.projections,
            "scans": work.scans,
            "attention": work.attention,
            "total": work.total(),
        })
    };
    let components = work.components.iter().map(|(component, work)| {
        let mut value = row(work);
        value["component"] = json!(component.name());
        value
    });
    let mut value = row(&work.sum());
    value["context"] = json!(work.context);
    value["components"] = components.collect();
    value
}

fn contexts(report: &Report) -> Value {
    let rows = report.contexts().into_iter().map(|memory| {
        let weights = report.memory.weights;
        json!({
            "context": memory.context,
            "weights": weights,
            "recurrent_state": memory.recurrent,
            "key_value": memory.key_value,
            "total": weights.and_then(|weights| weights.checked_add(memory.total())),
        })
    });
    rows.collect()
}

fn layers(run: &LayerRun) -> Value {
    json!({
        "first": run.first,
        "last": run.last,
        "count": run.layers(),
        "blocks": run.blocks.iter().map(block).collect::<Vec<_>>(),
    })
}

fn block(block: &BlockInfo) -> Value {
    json!({
        "kind": block.kind,
        "sizes": block.sizes,
        "parameters": block.parameters,
        "dispatches": block.dispatches,
    })
}

fn stored(stored: &Stored) -> Value {
    let by_dtype = stored.by_dtype.iter().map(|(dtype, bytes)| (dtype.clone(), json!(bytes)));
    let totals = formats::totals(&stored.rows);
    let formats = totals.iter().map(|total| {
        json!({
            "format": total.format,
            "tensors": total.tensors,
            "weights": total.weights,
            "bytes": total.bytes,
            "bits_per_weight": total.bits_per_weight(),
        })
    });
    json!({
        "bits_per_weight": formats::effective_bits(&stored.rows),
        "formats": formats.collect::<Vec<_>>(),
        "bytes": stored.bytes,
        "by_dtype": Value::Object(by_dtype.collect()),
        "tensors": stored.tensors,
        "files": stored.files,
        "ignored": stored.checked.ignored,
        "surplus": stored.checked.surplus,
    })
}

fn tensors(stored: &Stored) -> Value {
    let rows = stored.rows.iter().map(|row| {
        json!({
            "name": row.name,
            "shape": row.shape,
            "format": row.format,
            "bytes": row.bytes,
            "bits_per_weight": row.bits_per_weight(),
        })
    });
    Value::Array(rows.collect())
}

fn memory(memory: &Memory) -> Value {
    json!({
        "context": memory.context,
        "weights": memory.weights,
        "recurrent_state": memory.recurrent,
        "key_value": memory.key_value,
        "prefill_tokens": memory.prefill_tokens,
        "prefill_buffers": memory.prefill_buffers,
        "decode_buffers": memory.decode_buffers,
        "total": memory.total(),
    })
}

fn plan(plan: &Plan) -> Value {
    let buffers = |ids: &[kinglet::op::BufferId]| -> Vec<Value> {
        let found = ids.iter().filter_map(|id| plan.buffers.get(id.0));
        found
            .map(
                |buffer| json!({ "name": buffer.name, "width": buffer.width, "slot": buffer.slot }),
            )
            .collect()
    };
    let ops = plan.ops.iter().map(|op| {
        let uses = op.uses();
        let states = uses.states.iter().filter_map(|id| plan.states.get(id.0));
        let matrices = uses.matrices.iter();
        let matrix = |m: &kinglet::models::Matrix| {
            json!({ "tensor": m.tensor.name, "row_offset": m.row_offset, "rows": m.rows, "cols": m.cols })
        };
        json!({
            "op": op.name(),
            "reads": buffers(&uses.reads),
            "writes": buffers(&uses.writes),
            "states": states.map(|state| &state.name).collect::<Vec<_>>(),
            "matrices": matrices.map(|m| matrix(m)).collect::<Vec<_>>(),
            "expert_matrices": uses.experts.len(),
            "experts_used": uses.experts.first().map(|(used, _)| used),
            "vectors": uses.vectors.iter().map(|v| &v.name).collect::<Vec<_>>(),
        })
    });
    Value::Array(ops.collect())
}
