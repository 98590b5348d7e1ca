//! Norms, activations and sums over one row.

use kinglet_models::{Activation, GateActivation};

use crate::backend::cpu::simd::{Kernel, Simd, math};

/// Applies `body` to whole vectors of a row, and once more to the rest, padded with zeros.
macro_rules! each_vector {
    ($s:ident, $out:expr, [$($x:ident),*], $body:expr) => {{
        let lanes = S::LANES;
        let len = $out.len();
        let whole = len - len % lanes;
        let mut i = 0;
        while i < whole {
            $(let $x = $s.load(&S::blocks(&$x[i..i + lanes]).0[0]);)*
            let value = $body;
            $s.store(value, &mut S::blocks_mut(&mut $out[i..i + lanes]).0[0]);
            i += lanes;
        }
        if whole < len {
            $(let $x = $s.load_partial(&$x[whole..len]);)*
            let value = $body;
            $s.store_partial(value, &mut $out[whole..]);
        }
    }};
}

/// Replaces every vector `$x` of a row by `$body`.
macro_rules! in_place {
    ($s:ident, $row:expr, $x:ident, $body:expr) => {{
        let (blocks, rest) = S::blocks_mut($row);
        for block in blocks {
            let $x = $s.load(block);
            let value = $body;
            $s.store(value, block);
        }
        let $x = $s.load_partial(rest);
        let value = $body;
        $s.store_partial(value, rest);
    }};
}

/// `sum x^2`.
pub(crate) struct SumOfSquares<'a>(pub &'a [f32]);

impl Kernel for SumOfSquares<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (blocks, rest) = S::blocks(self.0);
        let mut sums = [s.zero(); 4];
        for (i, block) in blocks.iter().enumerate() {
            let x = s.load(block);
            sums[i % 4] = s.fma(x, x, sums[i % 4]);
        }
        let x = s.load_partial(rest);
        sums[0] = s.fma(x, x, sums[0]);
        s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
    }
}

/// RMS norm: `out = x / sqrt(mean(x^2) + eps) * weight + bias`. An empty weight or bias is skipped.
pub(crate) struct RmsNorm<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub eps: f32,
    pub out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, weight, bias, eps, out } = self;
        let mean = SumOfSquares(x).run(s) / x.len().max(1) as f32;
        let scale = s.splat(1.0 / (mean + eps).sqrt());
        if weight.is_empty() {
            each_vector!(s, out, [x], s.mul(x, scale));
        } else if bias.is_empty() {
            each_vector!(s, out, [x, weight], s.mul(s.mul(x, scale), weight));
        } else {
            each_vector!(s, out, [x, weight, bias], s.fma(s.mul(x, scale), weight, bias));
        }
    }
}

/// Layer norm: the [`RmsNorm`] of `x - mean(x)`. The squares are summed around the mean, so nothing cancels.
pub(crate) struct LayerNorm<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub eps: f32,
    pub out: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, weight, bias, eps, out } = self;
        let count = x.len().max(1) as f32;
        let (blocks, rest) = S::blocks(x);
        let mut sums = [s.zero(); 4];
        for (i, block) in blocks.iter().enumerate() {
            sums[i % 4] = s.add(s.load(block), sums[i % 4]);
        }
        let total = s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])));
        let mean = (total + rest.iter().sum::<f32>()) / count;
        let shift = s.splat(mean);
        each_vector!(s, out, [x], s.sub(x, shift));
        let scale = s.splat(1.0 / (SumOfSquares(out).run(s) / count + eps).sqrt());
        if bias.is_empty() {
            each_vector!(s, out, [x, weight], s.mul(s.mul(s.sub(x, shift), scale), weight));
        } else {
            each_vector!(
                s,
                out,
                [x, weight, bias],
                s.fma(s.mul(s.sub(x, shift), scale), weight, bias)
            );
        }
    }
}

/// `out = x * silu(gate)`.
pub(crate) struct SiluGate<'a> {
    pub x: &'a [f32],
    pub gate: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for SiluGate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, gate, out } = self;
        each_vector!(s, out, [x, gate], s.mul(x, math::silu(s, gate)));
    }
}

/// `out = x * sigmoid(gate)`.
pub(crate) struct SigmoidGate<'a> {
    pub x: &'a [f32],
    pub gate: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for SigmoidGate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, gate, out } = self;
        each_vector!(s, out, [x, gate], s.mul(x, math::sigmoid(s, gate)));
    }
}

/// `out = act(x)`.
pub(crate) struct Activate<'a> {
    pub activation: Activation,
    pub x: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { activation, x, out } = self;
        match activation {
            Activation::Silu => each_vector!(s, out, [x], math::silu(s, x)),
            Activation::GeluTanh => each_vector!(s, out, [x], gelu_tanh(s, x)),
            Activation::Relu => each_vector!(s, out, [x], relu(s, x)),
            Activation::Relu2 => each_vector!(s, out, [x], relu2(s, x)),
            Activation::Gelu => {
                out.iter_mut().zip(x).for_each(|(o, &x)| *o = gelu(x));
            }
        }
    }
}

/// `out = x / sqrt(mean(x^2) + eps) * weight * activation(gate)`.
pub(crate) struct NormGate<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub eps: f32,
    pub gate: &'a [f32],
    pub activation: GateActivation,
    pub out: &'a mut [f32],
}

impl Kernel for NormGate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, weight, eps, gate, activation, out } = self;
        let mean = SumOfSquares(x).run(s) / x.len().max(1) as f32;
        let scale = s.splat(1.0 / (mean + eps).sqrt());
        match activation {
            GateActivation::Silu => each_vector!(s, out, [x, weight, gate], {
                s.mul(s.mul(s.mul(x, scale), weight), math::silu(s, gate))
            }),
            GateActivation::Sigmoid => each_vector!(s, out, [x, weight, gate], {
                s.mul(s.mul(s.mul(x, scale), weight), math::sigmoid(s, gate))
            }),
        }
    }
}

/// `x Phi(x)`; the error function is in double precision.
fn gelu(x: f32) -> f32 {
    let x = f64::from(x);
    (0.5 * x * (1.0 + math::erf(x / std::f64::consts::SQRT_2))) as f32
}

/// `0.5 x (1 + tanh(u))` with `u = sqrt(2/pi) (x + 0.044715 x^3)` (Hendrycks and Gimpel, 2016), as `x sigmoid(2 u)`, which
/// doesn't cancel for negative `x`.
#[inline(always)]
fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let cube = s.mul(s.mul(x, x), x);
    let inner = s.fma(cube, s.splat(0.044_715), x);
    s.mul(x, math::sigmoid(s, s.mul(inner, s.splat(2.0 * 0.797_884_6))))
}

/// `max(x, 0)`; NaN stays NaN.
#[inline(always)]
fn relu<S: Simd>(s: S, x: S::F) -> S::F {
    s.select_lt(x, s.zero(), s.zero(), x)
}

/// `max(x, 0)^2`.
#[inline(always)]
fn relu2<S: Simd>(s: S, x: S::F) -> S::F {
    let positive = relu(s, x);
    s.mul(positive, positive)
}

/// `out = act(gate) * up`.
pub(crate) struct Gate<'a> {
    pub activation: Activation,
    pub gate: &'a [f32],
    pub up: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for Gate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { activation, gate, up, out } = self;
        match activation {
            Activation::Silu => {
                each_vector!(s, out, [gate, up], s.mul(math::silu(s, gate), up));
            }
            Activation::GeluTanh => {
                each_vector!(s, out, [gate, up], s.mul(gelu_tanh(s, gate), up));
            }
            Activation::Relu => {
                each_vector!(s, out, [gate, up], s.mul(relu(s, gate), up));
            }
            Activation::Relu2 => each_vector!(s, out, [gate, up], s.mul(relu2(s, gate), up)),
            Activation::Gelu => {
                for ((o, &g), &u) in out.iter_mut().zip(gate).zip(up) {
                    *o = gelu(g) * u;
                }
            }
        }
    }
}

/// `out += scale * x`.
pub(crate) struct AddScaled<'a> {
    pub scale: f32,
    pub x: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for AddScaled<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { scale, x, out } = self;
        let scale = s.splat(scale);
        let (x, x_rest) = S::blocks(x);
        let (out, out_rest) = S::blocks_mut(out);
        for (o, x) in out.iter_mut().zip(x) {
            s.store(s.fma(scale, s.load(x), s.load(o)), o);
        }
        let rest = s.fma(scale, s.load_partial(x_rest), s.load_partial(out_rest));
        s.store_partial(rest, out_rest);
    }
}

/// `x *= scale`, then `x = cap * tanh(x / cap)` if there is a cap.
pub(crate) struct ScaleAndCap<'a> {
    pub x: &'a mut [f32],
    pub scale: f32,
    pub cap: Option<f32>,
}

impl Kernel for ScaleAndCap<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = s.splat(self.scale);
        match self.cap.map(|cap| s.splat(cap)) {
            Some(cap) => {
                in_place!(s, self.x, x, { s.mul(cap, math::tanh(s, s.div(s.mul(x, scale), cap))) })
            }
            None => in_place!(s, self.x, x, s.mul(x, scale)),
        }
    }
}

/// `x = softplus(x + bias)`, clamped.
pub(crate) struct StepSize<'a> {
    pub x: &'a mut [f32],
    pub bias: f32,
    pub limit: (f32, f32),
}

impl Kernel for StepSize<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (bias, low, high) = (s.splat(self.bias), s.splat(self.limit.0), s.splat(self.limit.1));
        in_place!(s, self.x, x, { s.min(high, s.max(low, math::softplus(s, s.add(x, bias)))) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::Isa;
    use crate::backend::cpu::test_util::{Random, assert_close};

    #[test]
    fn norms_equal_their_definition_at_every_length() {
        let mut random = Random::new(3);
        for isa in Isa::available() {
            for len in [1, 7, 16, 17, 64, 100] {
                let (x, w, b) = (random.normal(len), random.normal(len), random.normal(len));
                let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / len as f64;
                let scale = 1.0 / (mean + 1e-5).sqrt();
                for (weight, bias) in [(&[][..], &[][..]), (&w, &[]), (&w, &b)] {
                    let mut out = vec![0.0; len];
                    isa.dispatch(RmsNorm { x: &x, weight, bias, eps: 1e-5, out: &mut out });
                    let expected = (0..len).map(|i| {
                        let w = weight.get(i).map_or(1.0, |&w| f64::from(w));
                        f64::from(x[i]) * scale * w + bias.get(i).map_or(0.0, |&b| f64::from(b))
                    });
                    assert_close(&out, expected, 1e-6);
                }
            }
        }
    }

    #[test]
    fn gates_equal_their_definition() {
        let mut random = Random::new(4);
        let (gate, up) = (random.normal(37), random.normal(37));
        let functions: [(Activation, fn(f64) -> f64); 5] = [
            (Activation::Silu, |x| x / (1.0 + (-x).exp())),
            (Activation::Relu, |x| x.max(0.0)),
            (Activation::Relu2, |x| x.max(0.0).powi(2)),
            (Activation::GeluTanh, |x| {
                0.5 * x * (1.0 + (0.797_884_560_802_865 * (x + 0.044715 * x * x * x)).tanh())
            }),
            (Activation::Gelu, |x| 0.5 * x * (1.0 + math::erf(x * 0.5f64.sqrt()))),
        ];
        for isa in Isa::available() {
            for (activation, exact) in functions {
                let mut out = vec![0.0; 37];
                isa.dispatch(Gate { activation, gate: &gate, up: &up, out: &mut out });
                let pairs = gate.iter().zip(&up);
                assert_close(&out, pairs.map(|(&g, &u)| exact(g.into()) * f64::from(u)), 1e-6);
                isa.dispatch(Activate { activation, x: &gate, out: &mut out });
                assert_close(&out, gate.iter().map(|&x| exact(x.into())), 1e-6);
            }
        }
    }

    #[test]
    fn sigmoid_gates_equal_their_definition() {
        let mut random = Random::new(6);
        let (x, gate) = (random.normal(37), random.normal(37));
        for isa in Isa::available() {
            let mut out = vec![0.0; 37];
            isa.dispatch(SigmoidGate { x: &x, gate: &gate, out: &mut out });
            let exact = |x: f32, gate: f32| f64::from(x) / (1.0 + (-f64::from(gate)).exp());
            assert_close(&out, x.iter().zip(&gate).map(|(&x, &gate)| exact(x, gate)), 1e-6);
        }
    }

    #[test]
    fn sums_caps_and_step_sizes_equal_their_definition() {
        let mut random = Random::new(5);
        for isa in Isa::available() {
            let (x, y) = (random.normal(35), random.normal(35));
            let mut out = y.clone();
            isa.dispatch(AddScaled { scale: 0.3, x: &x, out: &mut out });
            assert_close(&out, (0..35).map(|i| f64::from(y[i]) + 0.3 * f64::from(x[i])), 1e-6);

            let mut out = x.clone();
            isa.dispatch(ScaleAndCap { x: &mut out, scale: 3.0, cap: Some(2.0) });
            assert_close(&out, x.iter().map(|&x| 2.0 * (f64::from(x) * 1.5).tanh()), 1e-6);

            let mut out = x.clone();
            isa.dispatch(StepSize { x: &mut out, bias: 0.5, limit: (0.4, 1.5) });
            let exact = |x: f32| (f64::from(x) + 0.5).exp().ln_1p().clamp(0.4, 1.5);
            assert_close(&out, x.iter().map(|&x| exact(x)), 1e-6);
        }
    }
}
