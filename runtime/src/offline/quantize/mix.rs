//! Where more bits pay: formats of different widths for different matrices, within an average.
//!
//! What a matrix adds to the model's error is taken as `sensitivity * weights * 4^-bits`: each bit halves a weight's error. From the base
//! format on, the step that takes away most error for each bit that it costs is taken again and again, until none fits the average.

use kinglet_quant::{DType, Format, Mode};

use super::roles::Role;

/// A matrix that formats are to be found for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Its weights.
    pub(super) weights: u64,
    /// The type of its scales.
    pub(super) dtype: DType,
    /// Weights of a row: formats whose groups do not divide it are left out.
    pub(super) cols: usize,
    /// How much an error in one of its weights matters, beside others; not negative.
    pub(super) sensitivity: f64,
}

/// The formats that a matrix can have around the default format `base`, with rising bits per weight. Affine: from a bit below `base` on
/// (but not from two bits on unless asked for, which cost more than all the others gain), in groups of `base` and in twice as long ones.
pub(super) fn ladder(base: Format) -> Vec<Format> {
    let bits = match base.mode() {
        Mode::Affine => Format::AFFINE_BITS
            .into_iter()
            .filter(|&bits| bits + 1 >= base.bits() && (bits > 2 || base.bits() == 2)),
        Mode::MxFp4 | Mode::NvFp4 => return vec![base, Format::MXFP8],
        Mode::MxFp8 => return vec![base],
    };
    let groups = [2 * base.group(), base.group()];
    let formats = bits.flat_map(|bits| groups.map(|group| Format::affine(bits, group).ok()));
    formats.flatten().collect()
}

/// The error of a weight in `format`, beside others: half for each bit, and more where more weights share a scale (measured on the
/// demo models with calibration).
fn error(format: &Format) -> f64 {
    let spread = (format.group() as f64 / 64.0).log2();
    4f64.powi(-(format.bits() as i32)) * 1.25f64.powf(spread)
}

/// A format for each candidate: in all at most `budget` bits, if the narrowest leave any.
pub(super) fn mix(candidates: &[Candidate], base: Format, budget: f64) -> Vec<Format> {
    let ladder = ladder(base);
    let bits = |candidate: &Candidate, format: &Format| {
        format.bits_per_weight(candidate.dtype) * candidate.weights as f64
    };
    let fits = |candidate: &Candidate, step: &usize| {
        ladder.get(*step).is_some_and(|format| format.check_cols(candidate.cols).is_ok())
    };
    let format = |step: Option<usize>| step.and_then(|step| ladder.get(step)).copied();
    // A matrix that no format of the ladder fits stays as it is.
    let mut steps: Vec<Option<usize>> = candidates
        .iter()
        .map(|candidate| (0..ladder.len()).find(|step| fits(candidate, step)))
        .collect();
    let narrowest = candidates.iter().zip(&steps);
    let mut left =
        budget - narrowest.map(|(c, step)| bits(c, &format(*step).unwrap_or(base))).sum::<f64>();
    loop {
        let mut best: Option<(f64, usize, usize, f64)> = None;
        for (index, (candidate, step)) in candidates.iter().zip(&steps).enumerate() {
            let Some((step, now)) = step.zip(format(*step)) else { continue };
            // Not only the next one: a small step can gain less for its bits than a large one.
            for next in (step + 1..ladder.len()).filter(|next| fits(candidate, next)) {
                let Some(format) = ladder.get(next) else { continue };
                let cost = bits(candidate, format) - bits(candidate, &now);
                let less = candidate.sensitivity * candidate.weights as f64;
                let gain = less * (error(&now) - error(format)) / cost.max(1.0);
                if cost <= left && gain > 0.0 && best.is_none_or(|(most, ..)| gain > most) {
                    best = Some((gain, index, next, cost));
                }
            }
        }
        let Some((_, index, step, cost)) = best else { break };
        if let Some(held) = steps.get_mut(index) {
            *held = Some(step);
        }
        left -= cost;
    }
    steps.into_iter().map(|step| format(step).unwrap_or(base)).collect()
}

/// How much an error in a weight of a matrix matters beside one in an input projection of a feed-forward network, from what the matrix
/// does. `tied` says that an embedding is the head too, `last` that it is in the last layer, `seen` is the share of the tokens
/// that reach it: below one for experts.
///
/// Measured on the demo models, as the divergence that each kind of matrix alone causes in 3 bits with calibration, for each of its
/// weights. Keys and values of grouped-query attention serve several heads; what writes to the residual stream is read by all
/// that follows; the first layers matter no more than others, the last somewhat more. `quant/QUALITY.md` has the numbers.
pub fn prior(role: Role, tied: bool, last: bool, seen: f64) -> f64 {
    let role = match role {
        Role::TimeStep => 8.0,
        Role::Router | Role::SharedGate | Role::CellGate | Role::StateIn => 4.0,
        Role::Embedding if tied => 3.5,
        Role::Value => 3.0,
        Role::Out => 2.0,
        Role::In | Role::Key => 1.5,
        Role::Down => 1.3,
        Role::Query | Role::Gate | Role::Up => 1.0,
        Role::OutputGate => 0.7,
        Role::Head | Role::Embedding => 0.5,
        // Never in fewer bits.
        Role::Norm | Role::Bias | Role::Conv | Role::Decay | Role::Skip | Role::TimeBias => 0.0,
    };
    role * seen.clamp(0.0, 1.0).sqrt() * if last { 1.4 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: fn() -> Format = || Format::affine(4, 64).unwrap();

    fn candidate(weights: u64, sensitivity: f64) -> Candidate {
        Candidate { weights, dtype: DType::BF16, cols: 256, sensitivity }
    }

    fn average(candidates: &[Candidate], formats: &[Format]) -> f64 {
        let bits: f64 = candidates
            .iter()
            .zip(formats)
            .map(|(c, f)| f.bits_per_weight(c.dtype) * c.weights as f64)
            .sum();
        bits / candidates.iter().map(|c| c.weights as f64).sum::<f64>()
    }

    #[test]
    fn the_average_is_kept_and_the_sensitive_come_first() {
        let candidates: Vec<Candidate> =
            (0..20).map(|i| candidate(1000 + 100 * i, 1.0 + i as f64)).collect();
        let total: f64 = candidates.iter().map(|c| c.weights as f64).sum();
        let mut last = 0.0;
        for target in [4.0, 4.5, 4.8, 5.5, 7.0, 9.0] {
            let formats = mix(&candidates, BASE(), target * total);
            let got = average(&candidates, &formats);
            assert!(got <= target + 1e-9, "{target}: {got}");
            assert!(got >= target.min(8.5) - 0.25, "{target}: {got}");
            assert!(got >= last);
            last = got;
            // A matrix that matters more has no fewer bits than one that matters less and is no larger.
            if target == 4.8 {
                assert!(formats[19].bits() > formats[0].bits());
            }
        }
    }

    #[test]
    fn a_matrix_that_does_not_matter_stays_at_the_narrowest() {
        let candidates = [candidate(1000, 0.0), candidate(1000, 1.0)];
        let formats = mix(&candidates, BASE(), 1e9);
        assert_eq!((formats[0], formats[1].bits()), (Format::affine(3, 128).unwrap(), 8));
    }

    #[test]
    fn groups_that_do_not_divide_the_rows_are_left_out() {
        let narrow = Candidate { cols: 48, ..candidate(1000, 1.0) };
        assert_eq!(mix(&[narrow], Format::NVFP4, 1e9), [Format::NVFP4]);
        let short = Candidate { cols: 192, ..candidate(1000, 0.0) };
        assert_eq!(mix(&[short], BASE(), 1e9), [Format::affine(3, 64).unwrap()]);
        assert_eq!(mix(&[candidate(1000, 1.0)], Format::NVFP4, 1e9), [Format::MXFP8]);
    }
}
