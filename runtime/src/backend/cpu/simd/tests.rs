//! Every operation of every available unit against plain f64 arithmetic.

use half::{bf16, f16};

use super::{Isa, Kernel, Simd, math};

fn each_isa(f: impl Fn(Isa)) {
    Isa::available().into_iter().for_each(f);
}

/// Applies a function to each element of a slice, in whole and partial vectors.
struct Map<'a> {
    x: &'a [f32],
    name: &'static str,
}

impl Kernel for Map<'_> {
    type Output = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let mut out = vec![0.0; self.x.len()];
        for (x, o) in self.x.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
            let v = s.load_partial(x);
            let v = match self.name {
                "exp" => math::exp(s, v),
                "silu" => math::silu(s, v),
                "clamp" => s.min(s.splat(2.0), s.max(s.splat(1.0), v)),
                "tanh" => math::tanh(s, v),
                _ => math::softplus(s, v),
            };
            s.store_partial(v, o);
        }
        out
    }
}

#[test]
fn a_nan_stays_one() {
    each_isa(|isa| {
        for name in ["exp", "silu", "tanh", "softplus", "clamp"] {
            let x = [0.5, f32::NAN, 1.5, -f32::NAN, 3.0];
            let y = isa.dispatch(Map { x: &x, name });
            let nan: Vec<bool> = y.iter().map(|y| y.is_nan()).collect();
            assert_eq!(nan, [false, true, false, true, false], "{name} on {}", isa.name());
        }
    });
}

#[test]
fn elementary_functions_are_within_a_few_units_in_the_last_place() {
    let mut x: Vec<f32> = (-30_000..=30_000).map(|i| i as f32 * 0.0027).collect();
    x.extend([0.0, -0.0, 1e-30, -1e-30, 1e-6, -1e-6, 87.0, -87.0, 50.0, -50.0]);
    let functions: [(&str, fn(f64) -> f64, f64); 4] = [
        ("exp", f64::exp, 3e-7),
        ("silu", |x| x / (1.0 + (-x).exp()), 4e-7),
        ("tanh", f64::tanh, 4e-7),
        ("softplus", |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), 4e-7),
    ];
    each_isa(|isa| {
        for (name, exact, bound) in functions {
            for (&x, y) in x.iter().zip(isa.dispatch(Map { x: &x, name })) {
                let expected = exact(f64::from(x));
                let error = (f64::from(y) - expected).abs();
                assert!(
                    error <= bound * expected.abs() + 1e-37,
                    "{name}({x}) = {y}, not {expected}, on {}",
                    isa.name()
                );
            }
        }
    });
}

#[test]
fn exp_underflows_to_zero_and_saturates() {
    each_isa(|isa| {
        let y = isa.dispatch(Map { x: &[-1e30, -88.0, 1e30, f32::NEG_INFINITY], name: "exp" });
        assert_eq!((y[0], y[1], y[3]), (0.0, 0.0, 0.0));
        assert!(y[2] > 1e38 && y[2].is_finite());
    });
}

#[test]
fn erf_is_right_to_double_precision() {
    // Abramowitz and Stegun, table 7.1.
    for (x, expected) in [(0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
        assert!((math::erf(x) - expected).abs() < 1e-10);
        assert!((math::erf(-x) + expected).abs() < 1e-10);
    }
    assert!((math::erf(2.999_999) - math::erf(3.000_001)).abs() < 1e-9, "continuous");
    assert!((math::erf(6.0) - 1.0).abs() < 1e-15);
}

/// Sums of bf16, f16 and f32 bytes at an odd address.
struct Loads<'a>(&'a [u8]);

impl Kernel for Loads<'_> {
    type Output = [Vec<f32>; 3];
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [Vec<f32>; 3] {
        let mut out = [vec![], vec![], vec![]];
        let mut keep = |k: usize, v: S::F| {
            let mut block = vec![0.0; S::LANES];
            s.store(v, &mut S::blocks_mut(&mut block).0[0]);
            out[k].extend(block);
        };
        S::bytes2(self.0).0.iter().for_each(|b| keep(0, s.load_bf16(b)));
        S::bytes2(self.0).0.iter().for_each(|b| keep(1, s.load_f16(b)));
        S::bytes4(self.0).0.iter().for_each(|b| keep(2, s.load_f32(b)));
        out
    }
}

#[test]
fn loads_decode_every_half_at_odd_addresses() {
    let mut bytes = vec![0u8];
    bytes.extend((0..=u16::MAX).flat_map(u16::to_le_bytes));
    let bytes = &bytes[1..];
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    each_isa(|isa| {
        let [b16, h16, full] = isa.dispatch(Loads(bytes));
        for bits in 0..=u16::MAX {
            let i = usize::from(bits);
            assert!(same(b16[i], bf16::from_bits(bits).to_f32()), "bf16 {bits:#x} {}", isa.name());
            assert!(same(h16[i], f16::from_bits(bits).to_f32()), "f16 {bits:#x} {}", isa.name());
        }
        for (value, raw) in full.iter().zip(bytes.as_chunks::<4>().0) {
            assert!(same(*value, f32::from_le_bytes(*raw)));
        }
    });
}

/// `[sum, max]` of one vector, and `select_lt`, `min`, `div`, `round` of two.
struct Reductions<'a>(&'a [f32], &'a [f32]);

impl Kernel for Reductions<'_> {
    type Output = (f32, f32, [Vec<f32>; 4]);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let (a, b) = (s.load(&S::blocks(self.0).0[0]), s.load(&S::blocks(self.1).0[0]));
        let store = |v| {
            let mut out = vec![0.0; S::LANES];
            s.store(v, &mut S::blocks_mut(&mut out).0[0]);
            out
        };
        let lanes =
            [s.select_lt(a, b, a, s.zero()), s.min(a, b), s.div(a, b), s.round(a)].map(store);
        (s.sum(a), s.max_lane(a), lanes)
    }
}

#[test]
fn reductions_and_selections_follow_their_definition() {
    let a: Vec<f32> =
        (0..16).map(|i| (i as f32 - 7.3) * if i % 3 == 0 { -1.7 } else { 0.9 }).collect();
    let b: Vec<f32> = (0..16).map(|i| (i * 7 % 16) as f32 - 3.5).collect();
    each_isa(|isa| {
        let (sum, max, [select, min, div, round]) = isa.dispatch(Reductions(&a, &b));
        let lanes = select.len();
        assert!((sum - a[..lanes].iter().sum::<f32>()).abs() < 1e-5);
        assert_eq!(max, a[..lanes].iter().copied().fold(f32::MIN, f32::max));
        for i in 0..lanes {
            assert_eq!(select[i], if a[i] < b[i] { a[i] } else { 0.0 });
            assert_eq!(min[i], a[i].min(b[i]));
            assert_eq!(div[i], a[i] / b[i]);
            assert_eq!(round[i], a[i].round_ties_even());
        }
    });
}
