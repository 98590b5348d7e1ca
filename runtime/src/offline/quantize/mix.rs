//! Mixed precision: formats of different widths for different matrices, within an average.
//!
//! A matrix's contribution to the model's error is estimated as `sensitivity * weights * 4^-bits`:
//! each bit halves a weight's error. Starting from the base format, the step with the largest
//! reduction of error per bit is taken repeatedly, until none fits the average.

use kinglet_quant::{DType, Format, Mode};

use super::roles::Role;

/// A matrix that needs a format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Number of its weights.
    pub(super) weights: u64,
    /// The type of its scales.
    pub(super) dtype: DType,
    /// Weights per row. Formats whose groups don't divide it are skipped.
    pub(super) cols: usize,
    /// Relative weight of an error in one of its weights; not negative.
    pub(super) sensitivity: f64,
}

/// The formats to choose from around the default format `base`, by rising bits per weight. For
/// affine: from one bit below `base` (but not down to two bits unless asked for, since that costs
/// more than all the others gain), in groups as in `base` and twice as long.
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

/// The relative error of a weight in `format`: halved by each bit, and larger if more weights share
/// a scale (measured on the demo models with calibration).
fn error(format: &Format) -> f64 {
    let spread = (format.group() as f64 / 64.0).log2();
    4f64.powi(-(format.bits() as i32)) * 1.25f64.powf(spread)
}

/// Chooses a format for each candidate with at most `budget` bits in total, unless the narrowest
/// need more.
pub(super) fn mix(candidates: &[Candidate], base: Format, budget: f64) -> Vec<Format> {
    let ladder = ladder(base);
    let bits = |candidate: &Candidate, format: &Format| {
        format.bits_per_weight(candidate.dtype) * candidate.weights as f64
    };
    let fits = |candidate: &Candidate, step: &usize| {
        ladder.get(*step).is_some_and(|format| format.check_cols(candidate.cols).is_ok())
    };
    let format = |step: Option<usize>| step.and_then(|step| ladder.get(step)).copied();
    // A matrix that fits no format of the ladder stays unquantized.
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
            // Try all wider formats: a small step can gain less per bit than a large one.
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

/// The relative weight of an error in a matrix, compared with the input projection of a
/// feed-forward network, by the matrix's role. `tied`: the embedding is also the head. `last`: it
/// is in the last layer. `seen`: the share of tokens that reach it, below one for experts.
///
/// Measured on the demo models, as the divergence per weight that each kind of matrix alone causes
/// in 3 bits with calibration. Keys and values of grouped-query attention serve several heads;
/// matrices that write to the residual stream affect everything after them; the first layers matter
/// no more than others, the last somewhat more. `quant/QUALITY.md` has the numbers.
pub fn prior(role: Role, tied: bool, last: bool, seen: f64) -> f64 {
    let role = match role {
        Role::TimeStep => 8.0,
        Role::Router | Role::SharedGate | Role::CellGate | Role::StateIn => 4.0,
        Role::Embedding if tied => 3.5,
        Role::Value | Role::Latent => 3.0,
        Role::Out => 2.0,
        Role::In | Role::Key => 1.5,
        Role::Down => 1.3,
        Role::Query | Role::Gate | Role::Up | Role::Adapter => 1.0,
        Role::OutputGate => 0.7,
        Role::Head | Role::Embedding => 0.5,
        // These are never quantized.
        Role::Norm
        | Role::Bias
        | Role::Conv
        | Role::Recurrent
        | Role::Decay
        | Role::Skip
        | Role::Mix
        | Role::TimeBias => 0.0,
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
            // A matrix that matters more never gets fewer bits than one of at most its size that
            // matters less.
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
