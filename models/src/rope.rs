//! Rotary position encoding of a config: [`Rope`] of the types `default`, `linear`, `dynamic`,
//! `llama3`, `yarn`, `proportional`.
//!
//! Two spellings are read: `rope_parameters`, which holds everything (`transformers` 5), and
//! `rope_theta` with `rope_scaling` (before). Frequencies are computed in the order and precision
//! of the reference, f32 tensors with f64 scalars, because an error in a frequency grows with the
//! position: half an ulp at position 100,000 is 0.006 radians.

use crate::config::{Fields, MAX_POSITIONS};
use crate::{DynamicRope, ModelError, Rope};
use std::f64::consts::PI;

/// Properties and defaults of a family's rotary encoding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RopeDefaults {
    /// `rope_theta` if the config has none.
    pub(crate) theta: f64,
    /// Whether part of a head may be rotated, and the default fraction.
    pub(crate) partial: Option<f64>,
    /// `max_position_embeddings` if the config has none.
    pub(crate) max_positions: usize,
}

/// Fields shared by all types, wherever the config has them.
struct Source<'a> {
    /// The object with the type and its fields, if the config has one.
    scaling: Option<Fields<'a>>,
    /// The whole config.
    root: Fields<'a>,
    /// `rope_theta`, the base of the frequencies.
    theta: f64,
    /// Number of rotated elements of a head.
    rotated: usize,
    max_positions: usize,
}

/// The rotary encoding for heads of `head_dim`.
pub(crate) fn rope(
    root: &Fields<'_>,
    head_dim: usize,
    defaults: RopeDefaults,
) -> Result<Rope, ModelError> {
    let scaling = parameters(root)?;
    if let Some(fields) = &scaling
        && let Some(key) = fields.nested().next()
    {
        return Err(
            fields.unsupported(key, "supported: one set of rotary parameters for all layers")
        );
    }
    encoding(root, scaling, head_dim, defaults)
}

/// The rotary encoding for heads of `head_dim` in layers of the kind `kind`, each of which has parameters of its own; none if the config
/// has no parameters at all.
pub(crate) fn rope_of_kind(
    root: &Fields<'_>,
    kind: &str,
    head_dim: usize,
    defaults: RopeDefaults,
) -> Result<Option<Rope>, ModelError> {
    let Some(all) = parameters(root)? else { return Ok(None) };
    let Some(own) = all.object(kind)? else {
        return Err(ModelError::Missing {
            field: all.path(kind),
            expected: "the rotary parameters of the layers of this kind",
        });
    };
    encoding(root, Some(own), head_dim, defaults).map(Some)
}

/// The object with the rotary parameters, in either spelling.
fn parameters<'a>(root: &Fields<'a>) -> Result<Option<Fields<'a>>, ModelError> {
    // An empty `rope_scaling` counts as absent.
    let legacy = root.object("rope_scaling")?.filter(|fields| !fields.is_empty());
    match legacy {
        Some(fields) => Ok(Some(fields)),
        None => root.object("rope_parameters"),
    }
}

/// The rotary encoding with these parameters.
fn encoding(
    root: &Fields<'_>,
    scaling: Option<Fields<'_>>,
    head_dim: usize,
    defaults: RopeDefaults,
) -> Result<Rope, ModelError> {
    let rope_type = match &scaling {
        Some(fields) => fields.str("rope_type")?.or(fields.str("type")?),
        None => None,
    };
    let rope_type = rope_type.unwrap_or("default");

    let theta = match &scaling {
        Some(fields) => fields.positive("rope_theta")?,
        None => None,
    };
    let theta = theta.or(root.positive("rope_theta")?).unwrap_or(defaults.theta);
    let rotated = rotated(root, scaling.as_ref(), head_dim, rope_type, defaults)?;
    let max_positions =
        root.size_or("max_position_embeddings", defaults.max_positions, 1, MAX_POSITIONS)?;
    let source = Source { scaling, root: root.clone(), theta, rotated, max_positions };

    let rope = match (rope_type, &source.scaling) {
        ("default", _) => plain(source.inv_freq()),
        ("linear", Some(fields)) => source.linear(fields)?,
        ("dynamic", Some(fields)) => source.dynamic(fields)?,
        ("llama3", Some(fields)) => source.llama3(fields)?,
        ("yarn", Some(fields)) => source.yarn(fields)?,
        ("proportional", Some(fields)) => source.proportional(fields)?,
        (_, fields) => {
            let fields = fields.as_ref().unwrap_or(root);
            let key = if fields.get("rope_type").is_some() { "rope_type" } else { "type" };
            let supported = "supported: default, linear, dynamic, llama3, yarn, proportional";
            return Err(fields.unsupported(key, supported));
        }
    };
    match rope.inv_freq.iter().find(|f| !f.is_finite()) {
        None => Ok(rope),
        Some(f) => Err(ModelError::OutOfRange {
            field: "rope_theta".into(),
            value: format!("{theta}, by which a rotary frequency of type {rope_type} is {f}"),
            expected: "finite frequencies".into(),
        }),
    }
}

/// Frequencies that do not depend on the position.
fn plain(inv_freq: Vec<f32>) -> Rope {
    Rope { inv_freq, attention_factor: 1.0, interleaved: false, dynamic: None, exact: None }
}

const PARTIAL: &str = "partial_rotary_factor";

/// The fraction of a head that is rotated, if the config says.
fn partial(fields: &Fields<'_>) -> Result<Option<f64>, ModelError> {
    fields.float_where(PARTIAL, "a number above 0, at most 1", |x| x > 0.0 && x <= 1.0)
}

/// Number of rotated elements of a head, before rounding up to pairs.
fn rotated(
    root: &Fields<'_>,
    scaling: Option<&Fields<'_>>,
    head_dim: usize,
    rope_type: &str,
    defaults: RopeDefaults,
) -> Result<usize, ModelError> {
    const KEY: &str = PARTIAL;
    let inner = match scaling {
        Some(fields) => partial(fields)?,
        None => None,
    };
    let rotated = match defaults.partial {
        // The other pairs of the head are there, at rest.
        _ if rope_type == "proportional" => head_dim,
        // In the reference of these families the outer field is fixed and the inner one overrides
        // it.
        Some(factor) => (head_dim as f64 * inner.unwrap_or(factor)) as usize,
        None => {
            let factor = inner.or(partial(root)?).unwrap_or(1.0);
            // Models that always rotate whole heads ignore the factor with the default type, and
            // fail with the other types.
            if factor != 1.0 && rope_type != "default" {
                let holder = scaling.filter(|fields| fields.get(KEY).is_some()).unwrap_or(root);
                return Err(holder.unsupported(KEY, "this family rotates whole heads"));
            }
            head_dim
        }
    };
    in_pairs(rotated, head_dim)
}

/// `rotated`, if that many elements of a head are in pairs of its own.
fn in_pairs(rotated: usize, head_dim: usize) -> Result<usize, ModelError> {
    if rotated == 0 || rotated.div_ceil(2) * 2 > head_dim {
        return Err(ModelError::OutOfRange {
            field: "head_dim".into(),
            value: head_dim.to_string(),
            expected: format!("enough for pairs of rotated elements; {rotated} would be rotated"),
        });
    }
    Ok(rotated)
}

/// The encoding of type `proportional` with base `theta`, in a model whose config has no rotary parameters: the fraction `turned` of the
/// pairs of a head turn.
pub(crate) fn proportional_rope(
    theta: f64,
    turned: f64,
    head_dim: usize,
) -> Result<Rope, ModelError> {
    let inv_freq = inv_freq(theta, in_pairs(head_dim, head_dim)?);
    Ok(proportional(inv_freq, turned))
}

/// The frequencies of a whole head, of which those beyond the fraction `turned` become 0 (Gemma 4, LFM3).
fn proportional(mut inv_freq: Vec<f32>, turned: f64) -> Rope {
    let turned = (turned * (2 * inv_freq.len()) as f64 / 2.0) as usize;
    inv_freq.iter_mut().skip(turned).for_each(|f| *f = 0.0);
    plain(inv_freq)
}

/// `theta^(2i / rotated)` for each pair.
///
/// The power is computed in f64 and rounded, which gives the f32 nearest to the exact power on
/// every platform. The reference's value is within an ulp of it.
fn wavelengths(theta: f64, rotated: usize) -> Vec<f32> {
    let (theta, width) = (f64::from(theta as f32), rotated as f32);
    let exponents = (0..rotated).step_by(2).map(|i| i as f32 / width);
    exponents.map(|exponent| theta.powf(f64::from(exponent)) as f32).collect()
}

/// `theta^(-2i / rotated)` (Su et al., "RoFormer", 2021, section 3.2.2).
fn inv_freq(theta: f64, rotated: usize) -> Vec<f32> {
    wavelengths(theta, rotated).into_iter().map(f32::recip).collect()
}

impl Source<'_> {
    fn wavelengths(&self) -> Vec<f32> {
        wavelengths(self.theta, self.rotated)
    }

    fn inv_freq(&self) -> Vec<f32> {
        inv_freq(self.theta, self.rotated)
    }

    /// Only a fraction of the pairs turn, `factor` times as slowly.
    fn proportional(&self, fields: &Fields<'_>) -> Result<Rope, ModelError> {
        let factor = fields.positive("factor")?.unwrap_or(1.0) as f32;
        let inv_freq = self.inv_freq().into_iter().map(|f| f / factor).collect();
        Ok(proportional(inv_freq, partial(fields)?.unwrap_or(1.0)))
    }

    /// Extends the context by `factor` with positions `factor` times as dense (Chen et al.,
    /// "Extending Context Window of Large Language Models via Positional Interpolation", 2023).
    fn linear(&self, fields: &Fields<'_>) -> Result<Rope, ModelError> {
        let factor = required(fields, "factor")? as f32;
        let inv_freq = self.inv_freq().into_iter().map(|f| f / factor).collect();
        Ok(plain(inv_freq))
    }

    /// Changes the base for lengths beyond `max_position_embeddings`: see [`DynamicRope`].
    fn dynamic(&self, fields: &Fields<'_>) -> Result<Rope, ModelError> {
        let factor = required(fields, "factor")?;
        if self.rotated <= 2 {
            return Err(ModelError::OutOfRange {
                field: "head_dim".into(),
                value: self.rotated.to_string(),
                expected: "more than 2 rotated elements (rope type dynamic)".into(),
            });
        }
        let dynamic = DynamicRope {
            theta: self.theta as f32,
            factor: factor as f32,
            max_positions: self.max_positions,
            rotated: self.rotated,
        };
        Ok(Rope { dynamic: Some(dynamic), ..plain(self.inv_freq()) })
    }

    /// Divides low frequencies by `factor`, keeps high ones, and interpolates between them ("The
    /// Llama 3 Herd of Models", 2024, section 3.4.2; constants in its reference code).
    fn llama3(&self, fields: &Fields<'_>) -> Result<Rope, ModelError> {
        let factor = required(fields, "factor")? as f32;
        let low = required(fields, "low_freq_factor")?;
        let high = required(fields, "high_freq_factor")?;
        if high <= low {
            return Err(ModelError::OutOfRange {
                field: fields.path("high_freq_factor"),
                value: high.to_string(),
                expected: format!("more than low_freq_factor, {low}"),
            });
        }
        let old = self.original_max_positions(fields)? as f64;
        let (low_wavelength, high_wavelength) = ((old / low) as f32, (old / high) as f32);
        let scaled = |f: f32| {
            let wavelength = f.recip() * (2.0 * PI) as f32;
            if wavelength > low_wavelength {
                f / factor
            } else if wavelength < high_wavelength {
                f
            } else {
                let smooth = (wavelength.recip() * old as f32 - low as f32) / (high - low) as f32;
                (1.0 - smooth) * f / factor + smooth * f
            }
        };
        let inv_freq = self.inv_freq().into_iter().map(scaled).collect();
        Ok(plain(inv_freq))
    }

    /// "NTK by parts" with a factor on cosine and sine
    /// (Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models", 2023, section 3).
    fn yarn(&self, fields: &Fields<'_>) -> Result<Rope, ModelError> {
        let original = self.original_max_positions(fields)? as f64;
        let factor = match fields.is_null("factor") {
            true => self.max_positions as f64 / original,
            false => required(fields, "factor")?,
        };
        let attention_factor = match fields.positive("attention_factor")? {
            Some(attention_factor) => attention_factor,
            None => {
                let mscale = fields.finite("mscale")?.filter(|&x| x != 0.0);
                let mscale_all_dim = fields.finite("mscale_all_dim")?.filter(|&x| x != 0.0);
                match (mscale, mscale_all_dim) {
                    (Some(one), Some(all)) => temperature(factor, one) / temperature(factor, all),
                    _ => temperature(factor, 1.0),
                }
            }
        } as f32;
        if !(attention_factor.is_finite() && attention_factor > 0.0) {
            return Err(ModelError::OutOfRange {
                field: fields.path("mscale"),
                value: format!("a value that makes the attention factor {attention_factor}"),
                expected: "a finite attention factor above 0".into(),
            });
        }
        if self.theta <= 1.0 {
            return Err(ModelError::OutOfRange {
                field: fields.path("rope_theta"),
                value: self.theta.to_string(),
                expected: "more than 1 (rope type yarn takes its logarithm)".into(),
            });
        }
        if !self.rotated.is_multiple_of(2) {
            return Err(ModelError::NotDivisible {
                field: "the rotated part of head_dim",
                value: self.rotated,
                by: "a pair (rope type yarn)",
                divisor: 2,
            });
        }

        // Zero means the default too.
        let rotations = |key, default| -> Result<f64, ModelError> {
            let found = fields
                .float_where(key, "a finite number, at least 0", |x| x.is_finite() && x >= 0.0)?;
            Ok(found.filter(|&x| x != 0.0).unwrap_or(default))
        };
        let (fast, slow) = (rotations("beta_fast", 32.0)?, rotations("beta_slow", 1.0)?);
        // The pair whose angle completes `rotations` turns within the original context.
        let pair = |rotations: f64| {
            self.rotated as f64 * (original / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
        };
        let (mut low, mut high) = (pair(fast), pair(slow));
        if fields.bool_or("truncate", true)? {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(self.rotated as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let (low, range) = (low as f32, (high - low) as f32);

        let scaled = |(i, wavelength): (usize, f32)| {
            let interpolated = (factor as f32 * wavelength).recip();
            let kept = 1.0 - ((i as f32 - low) / range).clamp(0.0, 1.0);
            interpolated * (1.0 - kept) + wavelength.recip() * kept
        };
        let inv_freq: Vec<f32> = self.wavelengths().into_iter().enumerate().map(scaled).collect();
        Ok(Rope { attention_factor, ..plain(inv_freq) })
    }

    /// The context that the frequencies were trained on. A field next to the rotary object
    /// overrides the one inside.
    fn original_max_positions(&self, fields: &Fields<'_>) -> Result<usize, ModelError> {
        const KEY: &str = "original_max_position_embeddings";
        let inner = fields.size(KEY, 1, MAX_POSITIONS)?;
        Ok(self.root.size(KEY, 1, MAX_POSITIONS)?.or(inner).unwrap_or(self.max_positions))
    }
}

/// A required positive number.
fn required(fields: &Fields<'_>, key: &str) -> Result<f64, ModelError> {
    fields.positive(key)?.ok_or_else(|| ModelError::Missing {
        field: fields.path(key),
        expected: "a number above 0",
    })
}

/// Yarn's factor on cosine and sine for a context `scale` times as long (Peng et al., 2023, eq. 22).
fn temperature(scale: f64, mscale: f64) -> f64 {
    if scale <= 1.0 { 1.0 } else { 0.1 * mscale * scale.ln() + 1.0 }
}

#[cfg(test)]
#[path = "rope_tests.rs"]
mod tests;
