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

/// The formats that a matrix of base format `base` can have, with rising bits; `base` is the first.
pub(super) fn ladder(base: Format) -> Vec<Format> {
    let wider = match base.mode() {
        Mode::Affine => {
            let wider = Format::AFFINE_BITS.into_iter().filter(|&bits| bits > base.bits());
            wider.filter_map(|bits| Format::affine(bits, base.group()).ok()).collect()
        }
        Mode::MxFp4 | Mode::NvFp4 => vec![Format::MXFP8],
        Mode::MxFp8 => Vec::new(),
    };
    std::iter::once(base).chain(wider).collect()
}

/// A format for each candidate: at least `base`, and in all at most `budget` bits, if `base` leaves any.
pub(super) fn mix(candidates: &[Candidate], base: Format, budget: f64) -> Vec<Format> {
    let ladder = ladder(base);
    let bits = |candidate: &Candidate, format: &Format| {
        format.bits_per_weight(candidate.dtype) * candidate.weights as f64
    };
    let error = |candidate: &Candidate, format: &Format| {
        candidate.sensitivity * candidate.weights as f64 * 4f64.powi(-(format.bits() as i32))
    };
    let mut left = budget - candidates.iter().map(|c| bits(c, &base)).sum::<f64>();
    let mut steps = vec![0; candidates.len()];
    loop {
        let mut best: Option<(f64, usize, usize, f64)> = None;
        for (index, candidate) in candidates.iter().enumerate() {
            let Some(now) = ladder.get(steps[index]) else { continue };
            // Not only the next step: a wide one can fit where a matrix lacks the one between.
            let next = ladder.iter().enumerate().skip(steps[index] + 1);
            let next = next.filter(|(_, format)| format.check_cols(candidate.cols).is_ok());
            for (step, format) in next.take(1) {
                let cost = bits(candidate, format) - bits(candidate, now);
                let gain = (error(candidate, now) - error(candidate, format)) / cost.max(1.0);
                if cost <= left && gain > 0.0 && best.is_none_or(|(most, ..)| gain > most) {
                    best = Some((gain, index, step, cost));
                }
            }
        }
        let Some((_, index, step, cost)) = best else { break };
        steps[index] = step;
        left -= cost;
    }
    steps.into_iter().map(|step| ladder.get(step).copied().unwrap_or(base)).collect()
}

/// How much an error in a weight of a matrix matters, from what the matrix does alone: what is read by all later layers counts more, and so do
/// the ends of the model. `edge` says that it is in the first or the last layer.
pub fn prior(role: Role, edge: bool) -> f64 {
    let role = match role {
        Role::TimeStep => 8.0,
        Role::Head | Role::StateIn | Role::Router | Role::CellGate => 4.0,
        Role::Embedding | Role::Value => 3.0,
        Role::Out | Role::Down => 2.0,
        Role::Query | Role::Key | Role::In | Role::OutputGate | Role::Gate | Role::Up => 1.0,
    };
    if edge { 2.0 * role } else { role }
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
            assert!(got <= target.max(4.5) + 1e-9, "{target}: {got}");
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
    fn a_matrix_that_does_not_matter_stays_at_the_base() {
        let candidates = [candidate(1000, 0.0), candidate(1000, 1.0)];
        let formats = mix(&candidates, BASE(), 1e9);
        assert_eq!((formats[0], formats[1].bits()), (BASE(), 8));
    }

    #[test]
    fn groups_that_do_not_divide_the_rows_are_left_out() {
        let narrow = Candidate { cols: 48, ..candidate(1000, 1.0) };
        assert_eq!(mix(&[narrow], Format::NVFP4, 1e9), [Format::NVFP4]);
        assert_eq!(mix(&[candidate(1000, 1.0)], Format::NVFP4, 1e9), [Format::MXFP8]);
    }
}
