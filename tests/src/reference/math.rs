//! Functions of the ops' equations, in plain `f64`.
//!
//! Nothing here is fast, blocked or clever, and no code is shared with a backend.

use kinglet::models::Activation;

/// `1 / (1 + e^-x)`.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `x * sigmoid(x)`.
pub fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// `ln(1 + e^x)`.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `ln sigmoid(x)`.
pub fn log_sigmoid(x: f64) -> f64 {
    -softplus(-x)
}

/// The error function, by the series `2 / sqrt(pi) e^(-x^2) sum 2^n x^(2n+1) / (2n+1)!!` (Abramowitz and Stegun, 7.1.6):
/// all its terms have one sign.
pub fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-18 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// The activation of a gate.
pub fn activation(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => silu(x),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::GeluTanh => {
            // Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Relu => x.max(0.0),
    }
}

/// `cap * tanh(x / cap)`, if there is a cap.
pub fn soft_cap(x: f64, cap: Option<f32>) -> f64 {
    cap.map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh())
}

/// RMS norm without a weight: `x / sqrt(mean(x^2) + eps)`.
pub fn plain_norm(x: &[f64], eps: f32) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().map(|x| x / (mean + f64::from(eps)).sqrt()).collect()
}

/// `(x - mean) / sqrt(variance + eps)`.
pub fn layer_norm(x: &[f64], eps: f32) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
    x.iter().map(|x| (x - mean) / (variance + f64::from(eps)).sqrt()).collect()
}

/// `e^x_i / sum_j e^x_j`.
pub fn softmax(x: &[f64]) -> Vec<f64> {
    let largest = x.iter().copied().fold(f64::MIN, f64::max);
    let exps: Vec<f64> = x.iter().map(|x| (x - largest).exp()).collect();
    let total: f64 = exps.iter().sum();
    exps.iter().map(|e| e / total).collect()
}

/// `a . b`.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `a_i b_i`.
pub fn product(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a * b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_has_its_tabulated_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, expected) in
            [(0.0, 0.0), (0.5, 0.5204998778), (1.0, 0.8427007929), (2.0, 0.9953222650)]
        {
            assert!((erf(x) - expected).abs() < 1e-10 && (erf(-x) + expected).abs() < 1e-10, "{x}");
        }
        assert_eq!((erf(7.0), erf(-7.0)), (1.0, -1.0));
        assert!((1.0 - erf(5.9)).abs() < 1e-15);
    }

    #[test]
    fn softplus_is_stable_at_both_ends() {
        assert_eq!(softplus(800.0), 800.0);
        assert!(softplus(-50.0) > 0.0 && softplus(-50.0) < 2e-22);
        assert!((softplus(0.0) - 2f64.ln()).abs() < 1e-15);
        assert_eq!(log_sigmoid(-800.0), -800.0);
    }
}
