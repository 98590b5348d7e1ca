//! GraniteMoeShared (IBM, 2025): GraniteMoe with an expert that every token uses beside the others.

use super::Family;
use super::granitemoe::model;
use crate::frame::limit;

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "granitemoeshared",
    class: "GraniteMoeSharedForCausalLM",
    spec: |config| {
        model(config, "granitemoeshared", |frame| {
            frame.fields.size_or("shared_intermediate_size", 0, 0, limit::WIDTH)
        })
    },
    in_mlx: false,
    older_fields: super::mlx::none,
    unfold: None,
};
