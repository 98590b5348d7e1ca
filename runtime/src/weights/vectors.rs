//! Small tensors as they enter the computation: what a config says of them is folded into them when they are read.

use kinglet_models::{Linear, Norm};

use super::Weights;
use super::error::WeightsError;

impl Weights {
    /// What a norm multiplies by, `[width]`: `scale * (offset + weight)`.
    ///
    /// # Errors
    /// Those of [`vector`](Self::vector).
    pub fn norm_weight(&self, norm: &Norm) -> Result<Vec<f32>, WeightsError> {
        let mut weight = self.vector(&norm.weight)?;
        // Both are exact where there is nothing to fold.
        weight.iter_mut().for_each(|w| *w = norm.scale * (norm.offset + *w));
        Ok(weight)
    }

    /// What a norm adds, `[width]`: `scale * bias`; `None` if it has no bias.
    ///
    /// # Errors
    /// Those of [`vector`](Self::vector).
    pub fn norm_bias(&self, norm: &Norm) -> Result<Option<Vec<f32>>, WeightsError> {
        let Some(bias) = &norm.bias else { return Ok(None) };
        let mut bias = self.vector(bias)?;
        bias.iter_mut().for_each(|b| *b *= norm.scale);
        Ok(Some(bias))
    }

    /// What a projection adds before its factor, `[rows]`; `None` if it has no bias. Of a bias of all rows of the tensor, the
    /// elements of its own rows.
    ///
    /// # Errors
    /// Those of [`vector`](Self::vector), and [`WeightsError::Rows`] if the bias has no element for one of the rows.
    pub fn bias(&self, linear: &Linear) -> Result<Option<Vec<f32>>, WeightsError> {
        let Some(bias) = &linear.bias else { return Ok(None) };
        let all = self.vector(bias)?;
        let weight = &linear.weight;
        if all.len() == weight.rows {
            return Ok(Some(all));
        }
        let end = weight.row_offset.checked_add(weight.rows);
        match end.and_then(|end| all.get(weight.row_offset..end)) {
            Some(own) => Ok(Some(own.to_vec())),
            None => Err(WeightsError::Rows {
                tensor: bias.name.clone(),
                start: weight.row_offset,
                rows: weight.rows,
                cols: 1,
                shape: bias.shape.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use kinglet_models::{Matrix, TensorSpec};
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;
    use crate::weights::Source;

    fn weights(values: &[f32]) -> Weights {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![values.len()], &bytes).unwrap();
        let file = safetensors::serialize([("v", view)], None).unwrap();
        Weights::from_sources(vec![Source::bytes("test", file)]).unwrap()
    }

    #[test]
    fn offset_and_scale_are_folded_into_a_norm() {
        let weights = weights(&[0.5, -0.25]);
        let tensor = TensorSpec::new("v", [2]);
        let plain = Norm { weight: tensor.clone(), bias: Some(tensor), ..Norm::new("", 2, 1e-5) };
        assert_eq!(weights.norm_weight(&plain).unwrap(), [0.5, -0.25]);
        let norm = plain.around_one().scaled(4.0);
        assert_eq!(weights.norm_weight(&norm).unwrap(), [6.0, 3.0]);
        assert_eq!(weights.norm_bias(&norm).unwrap().unwrap(), [2.0, -1.0]);
    }

    #[test]
    fn rows_of_a_projection_take_their_elements_of_its_bias() {
        let weights = weights(&[1.0, 2.0, 3.0, 4.0]);
        let bias = Some(TensorSpec::new("v", [4]));
        let all = Linear { bias, ..Matrix::whole("w", 4, 8).into() };
        assert_eq!(weights.bias(&all).unwrap().unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(weights.bias(&all.rows(1, 2)).unwrap().unwrap(), [2.0, 3.0]);
        let beyond = Matrix { row_offset: 3, rows: 2, ..all.weight.clone() };
        let error = weights.bias(&Linear { weight: beyond, ..all }).unwrap_err();
        assert!(matches!(error, WeightsError::Rows { start: 3, rows: 2, .. }), "{error}");
    }
}
