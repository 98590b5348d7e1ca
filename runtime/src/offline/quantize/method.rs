//! [`Method`]: how rows of weights become codes.
//!
//! A quantized tensor is encoded piece by piece: a [`Piece`] is one matrix of the model (a projection, an expert of a stack), whose rows all
//! see the same input. [`Method::prepare`] is called once for each piece, by whichever thread comes to it first, and what it returns
//! encodes the piece's rows, block by block, from several threads at once. So a method that needs to know the input (its
//! second moments, say) finds it by [`Piece::source`], prepares what it needs once, and lets go of it when the piece is done.

use std::fmt;

use kinglet_quant::{EncodeError, Encoder, Quantized, RowMut};

use super::error::QuantizeError;
use super::target::{Piece, TargetTensor};

/// A way to choose codes and scales.
pub trait Method: Sync {
    /// Its name: `round`, `search`, ...
    fn name(&self) -> &str;

    /// What encodes the rows of `piece`, a matrix of `target`, which is to be stored as `encoder` says (its format and the type of its
    /// scales).
    ///
    /// # Errors
    /// When what the method needs for this piece is missing or cannot be computed.
    fn prepare<'a>(
        &'a self,
        target: &TargetTensor,
        piece: &Piece,
        encoder: Encoder,
    ) -> Result<Box<dyn RowEncoder + 'a>, QuantizeError>;
}

/// Encodes the rows of one piece.
pub trait RowEncoder: Send + Sync {
    /// Encodes `weights`, f32 `[out.rows(), out.cols()]`, into `out`. These are whole rows from row `first_row` of the piece on.
    /// All weights are finite.
    ///
    /// # Errors
    /// When a group cannot be represented.
    fn encode(
        &self,
        first_row: usize,
        weights: &[f32],
        out: &mut Quantized,
    ) -> Result<(), EncodeError>;
}

/// Each weight to the nearest code of its group's full range, as MLX does, bit for bit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Round;

impl Method for Round {
    fn name(&self) -> &str {
        "round"
    }

    fn prepare<'a>(
        &'a self,
        _: &TargetTensor,
        _: &Piece,
        encoder: Encoder,
    ) -> Result<Box<dyn RowEncoder + 'a>, QuantizeError> {
        Ok(Box::new(EachRow(move |weights: &[f32], out: &mut RowMut<'_>| {
            encoder.encode_row(weights, out)
        })))
    }
}

/// Scale and bias of each group searched for the least squared error of its weights: nearer than [`Round`] in the same bits, and read in the
/// same way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Search;

impl Method for Search {
    fn name(&self) -> &str {
        "search"
    }

    fn prepare<'a>(
        &'a self,
        _: &TargetTensor,
        _: &Piece,
        encoder: Encoder,
    ) -> Result<Box<dyn RowEncoder + 'a>, QuantizeError> {
        Ok(Box::new(EachRow(move |weights: &[f32], out: &mut RowMut<'_>| {
            encoder.search_row(weights, None, out)
        })))
    }
}

/// Encodes rows one by one, without regard for which row it is.
pub struct EachRow<F>(pub F);

impl<F> RowEncoder for EachRow<F>
where
    F: Fn(&[f32], &mut RowMut<'_>) -> Result<(), EncodeError> + Send + Sync,
{
    fn encode(&self, _: usize, weights: &[f32], out: &mut Quantized) -> Result<(), EncodeError> {
        let cols = out.cols().max(1);
        weights
            .chunks_exact(cols)
            .zip(out.rows_mut())
            .try_for_each(|(weights, mut row)| (self.0)(weights, &mut row))
    }
}

impl<F> fmt::Debug for EachRow<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EachRow")
    }
}
