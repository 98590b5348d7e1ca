//! Affine groups: clipped ranges, then least squares.
//!
//! For given codes, the best scale and bias are a linear regression of the weights on the codes;
//! for a given scale and bias, the best codes are the nearest. Alternating the two never increases
//! the error, but ends in a local minimum, so the search starts from several ranges that clip more
//! or less at either edge. Finally the scale is rounded to its type, up and down, the bias is
//! fitted to that scale, and the codes to both: the error of a bf16 scale is up to 1/512, half a
//! step at the far end of 8 bits.

use crate::encode::{MAX_GROUP, Scaling, range, round_code};
use crate::{DType, Encoder};

/// Fractions of the range that are kept, by bits: with fewer codes clipping pays more.
const KEPT: [&[f32]; 9] = [
    &[],
    &[],
    &[1.1, 1.0, 0.9, 0.8, 0.72, 0.65, 0.58, 0.52, 0.46, 0.4],
    &[1.05, 1.0, 0.94, 0.88, 0.82, 0.76, 0.7, 0.64, 0.58],
    &[1.03, 1.0, 0.97, 0.94, 0.9, 0.86, 0.82, 0.78, 0.73],
    &[1.015, 1.0, 0.985, 0.96, 0.93, 0.9, 0.86],
    &[1.008, 1.0, 0.99, 0.98, 0.96, 0.94],
    &[],
    &[1.002, 1.0, 0.998, 0.995],
];

/// How the clipped part is split: all at the upper edge, half, all at the lower edge.
const SPLITS: [f32; 3] = [0.0, 0.5, 1.0];

/// Number of rounds of regression and rounding.
const ROUNDS: usize = 6;

/// A scale and a bias, in units of the group's range divided by the largest code, relative to its
/// smallest weight.
#[derive(Clone, Copy)]
struct Line {
    scale: f32,
    bias: f32,
}

/// The scale and bias with the least error, rounded to `encoder`'s type, and their codes; `None` if
/// the group has no usable range.
pub(super) fn search(
    encoder: &Encoder,
    weights: &[f32],
    shares: &[f32],
    codes: &mut [u8],
) -> Option<Scaling> {
    let bits = encoder.format().bits();
    let max = ((1u32 << bits) - 1) as f32;
    let (least, most) = range(weights);
    let unit = (most - least) / max;
    // Squares of weights must fit f32.
    if !(1e-15..1e15).contains(&unit) || least.abs().max(most.abs()) > 1e16 {
        return None;
    }
    let mut units = [0.0f32; MAX_GROUP];
    let units = &mut units[..weights.len()];
    units.iter_mut().zip(weights).for_each(|(u, w)| *u = (w - least) / unit);
    let total: f32 = shares.iter().sum();

    // The two best starting points.
    let start = Line { scale: 1.0, bias: 0.0 };
    let mut best = [(f64::INFINITY, start); 2];
    for &kept in KEPT.get(bits).copied().unwrap_or_default() {
        for split in SPLITS {
            let begin = Line { scale: kept, bias: split * (1.0 - kept) * max };
            let found = regress(units, shares, total, max, begin);
            if found.0 < best[0].0 {
                best = [found, best[0]];
            } else if found.0 < best[1].0 {
                best[1] = found;
            }
        }
    }

    let mut result = None;
    let mut other = [0u8; MAX_GROUP];
    let other = &mut other[..weights.len()];
    for (mut error, mut line) in best {
        if !error.is_finite() {
            continue;
        }
        for _ in 0..ROUNDS {
            let next = regress(units, shares, total, max, line);
            let better = next.0 < error * 0.9999;
            if next.0 < error {
                (error, line) = next;
            }
            if !better {
                break;
            }
        }
        let (scale, bias) = (line.scale * unit, least + line.bias * unit);
        for (scale, bias) in orientations(encoder.float(), scale, bias, max) {
            let mut bias = encoder.float().round(bias);
            // The first round fits the bias to the rounded scale, the second its codes to both.
            for _ in 0..2 {
                let (error, offset) = fill(weights, shares, total, max, scale, bias, other);
                // Skip if a bias overflowed.
                if error.is_finite() && result.is_none_or(|(least, _)| error < least) {
                    result = Some((error, Scaling::Affine { scale, bias }));
                    codes.copy_from_slice(other);
                }
                let fitted = encoder.float().round(bias + offset);
                if fitted == bias {
                    break;
                }
                bias = fitted;
            }
        }
    }
    result.map(|(_, scaling)| scaling)
}

/// Scales of the type near `scale`, each with the bias that keeps the middle of the range in place,
/// and, if the type is coarse, the same counted from the other edge: the smaller of two biases is
/// rounded less.
fn orientations(float: DType, scale: f32, bias: f32, max: f32) -> impl Iterator<Item = (f32, f32)> {
    let middle = bias + scale * max / 2.0;
    let step = match float {
        DType::F32 => 0.0,
        DType::F16 => 1.0 / 1024.0,
        DType::BF16 => 1.0 / 128.0,
    };
    // For f32 the neighbours make no measurable difference.
    let neighbours: &[f32] = if float == DType::F32 { &[0.0] } else { &[-0.5, 0.0, 0.5] };
    let signs: &[f32] = if float == DType::F32 { &[1.0] } else { &[1.0, -1.0] };
    let mut last = 0.0;
    neighbours
        .iter()
        .map(move |neighbour| float.round(scale * (1.0 + neighbour * step)))
        .filter(move |&scale| {
            let new = scale != last && scale > 0.0 && scale.is_finite();
            last = scale;
            new
        })
        .flat_map(move |scale| signs.iter().map(move |sign| sign * scale))
        .map(move |scale| (scale, middle - scale * max / 2.0))
}

/// The line that best fits the codes nearest to `begin`, and its weighted squared error, in units.
fn regress(units: &[f32], shares: &[f32], total: f32, max: f32, begin: Line) -> (f64, Line) {
    const LANES: usize = 8;
    let inverse = 1.0 / begin.scale;
    let [mut q, mut qq, mut e, mut qe, mut ee] = [[0.0f32; LANES]; 5];
    // Group sizes are multiples of 16.
    let (units, _) = units.as_chunks::<LANES>();
    let (shares, _) = shares.as_chunks::<LANES>();
    for (units, shares) in units.iter().zip(shares) {
        for lane in 0..LANES {
            let value = (units[lane] - begin.bias) * inverse;
            let code = (value.max(0.0).min(max) + 8_388_608.0) - 8_388_608.0;
            // Regressing the residual keeps digits that a regression of the value itself would
            // cancel.
            let left = value - code;
            let (share_code, share_left) = (shares[lane] * code, shares[lane] * left);
            q[lane] += share_code;
            qq[lane] += share_code * code;
            e[lane] += share_left;
            qe[lane] += share_left * code;
            ee[lane] += share_left * left;
        }
    }
    let sum = |lanes: [f32; LANES]| lanes.into_iter().map(f64::from).sum::<f64>();
    let [q, qq, e, qe, ee] = [sum(q), sum(qq), sum(e), sum(qe), sum(ee)];
    let total = f64::from(total);
    let determinant = total * qq - q * q;
    // All weights that count have the same code: only the bias can be fitted.
    let slope =
        if determinant > 1e-6 * total * qq { (total * qe - q * e) / determinant } else { 0.0 };
    let offset = (e - slope * q) / total;
    let scale = f64::from(begin.scale);
    let error = scale * scale * (ee - slope * qe - offset * e);
    let line = Line {
        scale: (scale * (1.0 + slope)) as f32,
        bias: (f64::from(begin.bias) + scale * offset) as f32,
    };
    if line.scale > 0.0 && error.is_finite() { (error, line) } else { (f64::INFINITY, begin) }
}

/// Writes the codes nearest to `weights`; returns their weighted squared error and the weighted
/// mean of the residual, by which the bias should grow.
fn fill(
    weights: &[f32],
    shares: &[f32],
    total: f32,
    max: f32,
    scale: f32,
    bias: f32,
    codes: &mut [u8],
) -> (f32, f32) {
    const LANES: usize = 8;
    let inverse = 1.0 / scale;
    let (mut squares, mut left) = ([0.0f32; LANES], [0.0f32; LANES]);
    let (codes, _) = codes.as_chunks_mut::<LANES>();
    let (weights, _) = weights.as_chunks::<LANES>();
    let (shares, _) = shares.as_chunks::<LANES>();
    for ((weights, shares), codes) in weights.iter().zip(shares).zip(codes) {
        for lane in 0..LANES {
            let code = round_code((weights[lane] - bias) * inverse, max);
            codes[lane] = code;
            let error = weights[lane] - (scale * f32::from(code) + bias);
            let share = shares[lane] * error;
            left[lane] += share;
            squares[lane] += share * error;
        }
    }
    (squares.into_iter().sum(), left.into_iter().sum::<f32>() / total)
}
