//! From the tensors of the source to those of the new checkpoint: which rows of which go where.

use std::collections::HashMap;

use kinglet_models::{ModelSpec, TensorKind, TensorSpec};

use super::error::QuantizeError;
use super::roles::{Placed, matrices};
use super::target::{Kept, Piece, TargetTensor};
use crate::weights::{Encoding, TensorData, Weights};
use crate::{Error, weights::WeightsError};

/// The tensors of `target`, in order of use and all dense, made of those of `source`: two specs of one model, whose matrices and other
/// tensors correspond one to one.
pub(super) fn pair(
    source: &ModelSpec,
    target: &ModelSpec,
    weights: &Weights,
) -> Result<Vec<TargetTensor>, Error> {
    let (from, to) = (matrices(source), matrices(target));
    let mut found: HashMap<&TensorSpec, Vec<(Piece, Placed<'_>)>> = HashMap::new();
    for (from, to) in from.iter().zip(&to) {
        let same = (from.matrix.rows, from.matrix.cols) == (to.matrix.rows, to.matrix.cols);
        if !same || from.role != to.role {
            let problem = format!(
                "{} by {} weights of {} have no place in it",
                from.matrix.rows, from.matrix.cols, from.matrix.tensor.name
            );
            return Err(layout(&to.matrix.tensor.name, problem));
        }
        let piece = Piece { first_row: to.matrix.row_offset, source: from.matrix.clone() };
        let pieces = found.entry(&to.matrix.tensor).or_default();
        // A tied table comes twice.
        if pieces.iter().all(|(known, _)| known.first_row != piece.first_row) {
            pieces.push((piece, *to));
        }
    }
    let others = |spec: &'_ ModelSpec| -> Vec<TensorSpec> {
        let all = spec.tensors_by_kind().into_iter();
        all.filter(|(_, kind)| *kind != TensorKind::Matrix).map(|(spec, _)| spec.clone()).collect()
    };
    let (source_others, target_others) = (others(source), others(target));
    if source_others.len() != target_others.len() || from.len() != to.len() {
        return Err(layout(&target.model_type, "the two layouts do not correspond".into()));
    }
    let copies: HashMap<&TensorSpec, &TensorSpec> =
        target_others.iter().zip(&source_others).collect();

    let tensors = target.tensors_by_kind().into_iter().map(|(spec, kind)| match kind {
        TensorKind::Matrix => {
            let mut pieces = found.remove(spec).unwrap_or_default();
            pieces.sort_by_key(|(piece, _)| piece.first_row);
            matrix(spec, pieces, weights)
        }
        _ => {
            let copy = copies.get(spec).copied().unwrap_or(spec);
            vector(spec, copy, weights)
        }
    });
    tensors.collect()
}

fn layout(tensor: &str, problem: String) -> Error {
    QuantizeError::Layout { tensor: tensor.into(), problem }.into()
}

/// A tensor that is made of matrices, which must fill it.
fn matrix(
    spec: &TensorSpec,
    pieces: Vec<(Piece, Placed<'_>)>,
    weights: &Weights,
) -> Result<TargetTensor, Error> {
    let mut next_row = 0;
    let mut dtype = None;
    for (piece, _) in &pieces {
        if piece.first_row != next_row {
            let problem = format!("nothing is known of what its rows from {next_row} on hold");
            return Err(layout(&spec.name, problem));
        }
        next_row += piece.source.rows;
        let found = weights.get(&piece.source.tensor.name)?.dtype();
        if dtype.is_some_and(|dtype| dtype != found) {
            let problem = "its matrices are of different types in the source".into();
            return Err(layout(&spec.name, problem));
        }
        dtype = Some(found);
    }
    let (Some(dtype), Some((_, first))) = (dtype, pieces.first()) else {
        return Err(layout(&spec.name, "no matrix of the model is in it".into()));
    };
    let tensor = TargetTensor {
        name: spec.name.clone(),
        shape: spec.shape.clone(),
        dtype,
        role: Some(first.role),
        layer: first.layer,
        encoding: Encoding::Dense(dtype),
        kept: None,
        pieces: Vec::new(),
        copy_of: None,
    };
    if next_row != tensor.rows() {
        let problem = format!("nothing is known of what its rows from {next_row} on hold");
        return Err(layout(&spec.name, problem));
    }
    Ok(TargetTensor { pieces: pieces.into_iter().map(|(piece, _)| piece).collect(), ..tensor })
}

/// A tensor that is no matrix: the bytes of `copy`, though the shape can be another (the axes of a convolution, of which one is 1).
fn vector(spec: &TensorSpec, copy: &TensorSpec, weights: &Weights) -> Result<TargetTensor, Error> {
    let data: TensorData = weights.get(&copy.name)?;
    if spec.elements() != data.elements() {
        return Err(Error::Weights(WeightsError::WrongShape {
            tensor: copy.name.clone(),
            expected: copy.shape.clone(),
            found: data.shape().to_vec(),
        }));
    }
    Ok(TargetTensor {
        name: spec.name.clone(),
        shape: spec.shape.clone(),
        dtype: data.dtype(),
        role: None,
        layer: None,
        encoding: Encoding::Dense(data.dtype()),
        kept: Some(Kept::NotAMatrix),
        pieces: Vec::new(),
        copy_of: Some(copy.name.clone()),
    })
}
