//! The role of each matrix in its model: which are gates, which write to the residual stream.

use std::collections::HashMap;

pub use kinglet_models::Role;
use kinglet_models::{Matrix, ModelSpec, Positions, Share};

/// The share of the tokens that reach each expert's matrices, if the router spreads them evenly.
pub(super) fn share_of_tokens(spec: &ModelSpec) -> HashMap<Matrix, f64> {
    let branches = spec.blocks.iter().flat_map(|block| &block.branches);
    let parts = branches.flat_map(|branch| branch.mixer.parts());
    let shared = parts.filter(|part| part.share != Share::ALL);
    shared.filter_map(|part| Some((part.held.matrix()?.clone(), part.share.fraction()))).collect()
}

/// A matrix of a model with its role.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    pub(super) role: Role,
    pub(super) layer: Option<usize>,
    pub(super) matrix: &'a Matrix,
}

/// Every matrix of `spec` in order of use. Specs of one model in two layouts give the same matrices
/// in the same order.
pub(super) fn matrices(spec: &ModelSpec) -> Vec<Placed<'_>> {
    let mut all =
        vec![Placed { role: Role::Embedding, layer: None, matrix: &spec.embedding.table }];
    let positions = spec.embedding.positions.as_ref().and_then(Positions::table);
    all.extend(positions.map(|matrix| Placed { role: Role::Embedding, layer: None, matrix }));
    for block in &spec.blocks {
        for part in block.branches.iter().flat_map(|branch| branch.mixer.parts()) {
            if let Some(matrix) = part.held.matrix() {
                all.push(Placed { role: part.role, layer: Some(block.layer), matrix });
            }
        }
    }
    all.push(Placed { role: Role::Head, layer: None, matrix: &spec.head.linear.weight });
    all
}
