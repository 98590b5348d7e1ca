//! Groups of the microscaling formats: tries neighbours of the scale that rounding chose.

use super::Grid;
use crate::encode::{MAX_GROUP, Scaling};
use crate::{Encoder, Mode};

/// The scale with the least error, and its codes. A smaller scale is finer and clips the largest
/// weights; a larger one can bring them, or most others, closer to a code, since the codes of E2M1
/// are not evenly spaced.
pub(super) fn search(
    encoder: &Encoder,
    plain: Scaling,
    weights: &[f32],
    shares: &[f32],
    codes: &mut [u8],
) -> Option<Scaling> {
    let Scaling::Code(plain) = plain else { return None };
    // NVFP4 has eight scales per factor of two. Try an octave down, and up to where the largest
    // weight gets the code 4 instead of 6.
    let (below, above, first, last) = match encoder.format().mode() {
        Mode::NvFp4 => (5, 6, 1, 0x7e),
        _ => (2, 1, 0, 254),
    };
    let from = plain.saturating_sub(below).max(first);
    let to = plain.saturating_add(above).min(last);
    let mut best = None;
    let mut other = [0u8; MAX_GROUP];
    let other = &mut other[..weights.len()];
    for code in from..=to {
        let scaling = Scaling::Code(code);
        let grid = encoder.grid(scaling);
        let error = fill(&grid, weights, shares, other);
        if error.is_finite() && best.is_none_or(|(least, _)| error < least) {
            best = Some((error, scaling));
            codes.copy_from_slice(other);
        }
    }
    best.map(|(_, scaling)| scaling)
}

/// Writes the nearest codes and returns their weighted squared error.
fn fill(grid: &Grid, weights: &[f32], shares: &[f32], codes: &mut [u8]) -> f64 {
    codes.iter_mut().zip(weights).for_each(|(code, &weight)| *code = grid.nearest(weight));
    grid.error(weights, shares, codes)
}
