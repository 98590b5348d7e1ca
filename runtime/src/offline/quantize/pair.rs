//! Maps the source's tensors to those of the new checkpoint: which rows go where.

use std::collections::HashMap;

use kinglet_models::{ModelSpec, TensorKind, TensorSpec};

use super::error::QuantizeError;
use super::roles::{Placed, matrices};
use super::target::{Kept, Piece, TargetTensor};
use crate::weights::{Encoding, TensorData, Weights};
use crate::{Error, weights::WeightsError};

/// The tensors of `target`, in order of use and all dense, composed from those of `source`. The two
/// are specs of one model whose matrices and other tensors correspond one to one.
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
                "it has no place for {} by {} weights of {}",
                from.matrix.rows, from.matrix.cols, from.matrix.tensor.name
            );
            return Err(layout(&to.matrix.tensor.name, problem));
        }
        let piece = Piece { first_row: to.matrix.row_offset, source: from.matrix.clone() };
        let pieces = found.entry(&to.matrix.tensor).or_default();
        // A tied table occurs twice.
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
        return Err(layout(&target.model_type, "the source and target layouts differ".into()));
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

/// A tensor composed of matrices, which must fill it.
fn matrix(
    spec: &TensorSpec,
    pieces: Vec<(Piece, Placed<'_>)>,
    weights: &Weights,
) -> Result<TargetTensor, Error> {
    let mut next_row = 0;
    let mut dtype = None;
    for (piece, _) in &pieces {
        if piece.first_row != next_row {
            let problem = format!("its rows from {next_row} on are unknown");
            return Err(layout(&spec.name, problem));
        }
        next_row += piece.source.rows;
        let found = weights.get(&piece.source.tensor.name)?.dtype();
        if dtype.is_some_and(|dtype| dtype != found) {
            let problem = "its matrices have different types in the source".into();
            return Err(layout(&spec.name, problem));
        }
        dtype = Some(found);
    }
    let (Some(dtype), Some((_, first))) = (dtype, pieces.first()) else {
        return Err(layout(&spec.name, "it contains no matrix of the model".into()));
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
        let problem = format!("its rows from {next_row} on are unknown");
        return Err(layout(&spec.name, problem));
    }
    Ok(TargetTensor { pieces: pieces.into_iter().map(|(piece, _)| piece).collect(), ..tensor })
}

/// A tensor that is not a matrix: the bytes of `copy`, possibly with another shape (the axes of a
/// convolution, one of which is 1).
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
