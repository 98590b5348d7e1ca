//! [`Weights::fit_names`], [`Weights::fit_convs`], [`Weights::fit_biases`] and [`Weights::fit_factors`]: adapt a spec to the names,
//! convolutions and biases in a checkpoint, and to the factors in its weights.

use std::collections::HashSet;

use kinglet_models::{ModelSpec, TensorSpec};

use super::error::WeightsError;
use super::foreign::ConversionError;
use super::{TensorData, Weights};

impl Weights {
    /// Gives the tensors of `spec` their names in this checkpoint, as far as they are recognized.
    pub(crate) fn fit_names(&self, spec: &mut ModelSpec) {
        spec.fit_names(&self.names().collect::<Vec<_>>());
    }

    /// Cuts convolutions side by side where this checkpoint does.
    pub(crate) fn fit_convs(&self, spec: &mut ModelSpec) {
        spec.fit_convs(|name| self.entry(name).map(|entry| &*entry.shape));
    }

    /// Takes out of `spec` the factors that are in the weights already.
    ///
    /// # Errors
    /// If the model can't be computed with these weights.
    pub(crate) fn fit_factors(&self, spec: &mut ModelSpec) -> Result<(), WeightsError> {
        let shape = |name: &str| self.entry(name).map(|entry| &*entry.shape);
        spec.fit_factors(shape).map_err(WeightsError::Folded)
    }

    /// Adds biases to `spec` that accompany packed matrices although the family has none: programs
    /// that pack weights write one for each matrix. Most are zero, and are dropped.
    ///
    /// # Errors
    /// If such a bias is not zero and its matrix is multiplied without one.
    pub(crate) fn fit_biases(&mut self, spec: &mut ModelSpec) -> Result<(), WeightsError> {
        let mut zero: HashSet<String> = HashSet::new();
        for (linear, adds_bias) in spec.linears_mut() {
            let weight = &linear.weight.tensor.name;
            let Some(stem) = weight.strip_suffix(".weight").filter(|_| linear.bias.is_none())
            else {
                continue;
            };
            let name = format!("{stem}.bias");
            if !self.packed_layers.contains(stem) || !self.contains(&name) {
                continue;
            }
            // Non-numeric tensors are left to the check, which reports them if they are needed.
            let values = self.get(&name).and_then(|bias: TensorData| bias.to_f32());
            if values.is_ok_and(|values| values.iter().all(|value| *value == 0.0)) {
                zero.insert(name);
            } else if adds_bias {
                linear.bias = Some(TensorSpec::new(name, [linear.weight.rows]));
            } else {
                let error = ConversionError::Bias { name };
                return Err(WeightsError::Foreign { layer: stem.into(), error });
            }
        }
        self.entries.retain(|entry| !zero.contains(&*entry.name));
        Ok(())
    }
}
