//! [`Method`]: how rows of weights are encoded.
//!
//! A quantized tensor is encoded piece by piece. A [`Piece`] is one matrix of the model (a
//! projection, an expert of a stack), whose rows all see the same input. [`Method::prepare`] is
//! called once for each piece, by the first thread that needs it, and returns an encoder for the
//! piece's rows. Several threads then encode blocks of rows at once. A method that needs the input
//! (its second moments, say) finds it by [`Piece::source`], prepares once, and frees its data when
//! the piece is done.

use std::fmt;

use kinglet_quant::{EncodeError, Encoder, Quantized, RowMut};

use super::error::QuantizeError;
use super::target::{Piece, TargetTensor};

/// A method for choosing codes and scales.
pub trait Method: Sync {
    /// Its name: `round`, `search`, ...
    fn name(&self) -> &str;

    /// Prepares the encoder for the rows of `piece`, a matrix of `target`. `encoder` gives the
    /// format and the type of the scales.
    ///
    /// # Errors
    /// If something that the method needs for this piece is missing or can't be computed.
    fn prepare<'a>(
        &'a self,
        target: &TargetTensor,
        piece: &Piece,
        encoder: Encoder,
    ) -> Result<Box<dyn RowEncoder + 'a>, QuantizeError>;
}

/// Encodes the rows of one piece.
pub trait RowEncoder: Send + Sync {
    /// Encodes `weights`, f32 `[out.rows(), out.cols()]`, into `out`. These are whole rows, from
    /// row `first_row` of the piece on. All weights are finite.
    ///
    /// # Errors
    /// If a group can't be represented.
    fn encode(
        &self,
        first_row: usize,
        weights: &[f32],
        out: &mut Quantized,
    ) -> Result<(), EncodeError>;
}

/// Rounds each weight to the nearest code within its group's full range, bit for bit as MLX does.
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

/// Searches scale and bias of each group for the least squared error of its weights. More accurate
/// than [`Round`] with the same bits and layout.
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

/// Encodes rows one by one with a function, independently of their index.
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
