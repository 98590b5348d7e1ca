//! Every op on every backend against its reference in plain `f64`: one file per op, named like the
//! op.
//!
//! The references ([`kinglet_tests::reference`]) are written from the ops' documentation
//! (`runtime/src/plan/op/`), token by token, and share no code with any backend.
//! [`kinglet_tests::rig`] describes how they run.

mod attention;
mod concat;
mod conv1d;
mod embed;
mod expert_norm;
mod gated_delta_scan;
mod gated_linear;
mod head;
mod head_linear;
mod head_norm;
mod hybrid_attention;
mod kernel_attention;
mod layers;
mod linear;
mod linear_attention;
mod mamba2_scan;
mod mamba_scan;
mod messages;
mod mlstm_scan;
mod moe_down;
mod moe_route;
mod moe_up;
mod multi_level_attention;
mod positions;
mod residual_norm;
mod siblings;
mod slstm_scan;

use kinglet_tests::tensors::Stored;

/// Numbers of tokens around those at which backends switch algorithms.
const TOKENS: &[&[usize]] = &[&[1], &[2], &[3], &[5], &[40], &[130], &[7, 1, 33]];

/// Session lengths for ops with a state, around those at which a scan switches from single steps to
/// chunks (4 or 8) and from one chunk or page to the next (64).
const SEQUENCES: &[&[usize]] =
    &[&[1], &[8], &[9], &[64], &[65], &[130], &[200], &[70, 3, 20], &[5, 90]];

/// Sessions with few tokens per step for ops with a state: up to 4 tokens step one by one
/// everywhere.
const FEW: &[&[usize]] = &[&[2], &[4], &[5], &[4, 2, 5, 1], &[4, 64, 3]];

/// Each weight type with each of `shapes`, cycling through `sessions`.
fn each<S: Clone>(shapes: &[S], sessions: &[&[usize]], mut test: impl FnMut(S, Stored, &[usize])) {
    let mut turn = 0;
    for shape in shapes {
        for stored in Stored::ALL {
            test(shape.clone(), stored, sessions[turn % sessions.len()]);
            turn += 1;
        }
    }
}
