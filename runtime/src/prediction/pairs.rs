//! [`Pairs`]: makes the input rows of a prediction head.

use kinglet_models::{ModelSpec, Norm, PredictionHead};

use crate::Error;
use crate::weights::{MatrixData, Weights};

/// Makes the rows that a prediction head reads: `[2 * hidden]`, the normed embedding of a token,
/// then what the model computed at the token before it, normed by the model and by the head
/// ([`PredictionHead`]).
pub(super) struct Pairs {
    /// `[vocab, hidden]`.
    table: MatrixData,
    /// Factor on the embedding.
    scale: f32,
    embedding_norm: RowNorm,
    hidden_norm: RowNorm,
    /// The model's final norm.
    model_norm: RowNorm,
    /// The head's final norm.
    head_norm: RowNorm,
}

/// Whose residual stream a row is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// The model's.
    Model,
    /// The head's own, to predict further tokens.
    Head,
}

impl Pairs {
    /// Reads the norms.
    ///
    /// # Errors
    /// If a tensor can't be read.
    pub(super) fn new(
        spec: &ModelSpec,
        head: &PredictionHead,
        weights: &Weights,
    ) -> Result<Self, Error> {
        let norm = |norm: &Norm| RowNorm::new(norm, weights);
        Ok(Self {
            table: weights.matrix(&spec.embedding.table)?,
            scale: spec.embedding.scale,
            embedding_norm: norm(&head.embedding_norm)?,
            hidden_norm: norm(&head.hidden_norm)?,
            model_norm: norm(&spec.head.norm)?,
            head_norm: norm(&head.model.head.norm)?,
        })
    }

    /// Width of the residual stream.
    pub(super) fn hidden(&self) -> usize {
        self.table.cols()
    }

    /// Elements of a row.
    pub(super) fn width(&self) -> usize {
        2 * self.hidden()
    }

    /// Writes the second half of `row`, from the residual stream at a token.
    pub(super) fn write_stream(&self, of: Stream, stream: &[f32], row: &mut [f32]) {
        let Some((_, own)) = row.split_at_mut_checked(self.hidden()) else { return };
        let last = match of {
            Stream::Model => &self.model_norm,
            Stream::Head => &self.head_norm,
        };
        own.copy_from_slice(stream);
        last.apply(own);
        self.hidden_norm.apply(own);
    }

    /// Writes the first half of `row`, of the token after it.
    ///
    /// # Errors
    /// If the row of the table can't be read.
    pub(super) fn write_token(&self, token: u32, row: &mut [f32]) -> Result<(), Error> {
        let Some((own, _)) = row.split_at_mut_checked(self.hidden()) else { return Ok(()) };
        self.table.decode_row(token as usize, own)?;
        self.norm_embedding(own);
        Ok(())
    }

    /// [`Self::write_token`] of a vector that stands in place of the token's embedding.
    pub(super) fn write_vector(&self, vector: &[f32], row: &mut [f32]) {
        let Some((own, _)) = row.split_at_mut_checked(self.hidden()) else { return };
        own.copy_from_slice(vector);
        self.norm_embedding(own);
    }

    fn norm_embedding(&self, row: &mut [f32]) {
        row.iter_mut().for_each(|x| *x *= self.scale);
        self.embedding_norm.apply(row);
    }
}

/// A norm of one row, on the host.
struct RowNorm {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    eps: f32,
}

impl RowNorm {
    fn new(norm: &Norm, weights: &Weights) -> Result<Self, Error> {
        let (weight, bias) = (weights.norm_weight(norm)?, weights.norm_bias(norm)?);
        Ok(Self { weight, bias, eps: norm.eps })
    }

    fn apply(&self, row: &mut [f32]) {
        let squares: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let mean = squares / row.len().max(1) as f64;
        let factor = (mean + f64::from(self.eps)).sqrt().recip() as f32;
        for (x, weight) in row.iter_mut().zip(&self.weight) {
            *x = *x * factor * weight;
        }
        for (x, bias) in row.iter_mut().zip(self.bias.iter().flatten()) {
            *x += bias;
        }
    }
}
