//! Every op on every backend against its reference in plain `f64`: a file for each op, named as the op.
//!
//! The references ([`kinglet_tests::reference`]) are written from the ops' documentation (`runtime/src/plan/op/`), token by token, and
//! share no code with any backend. [`kinglet_tests::rig`] says what they run on, and how.

mod attention;
mod conv1d;
mod embed;
mod gated_delta_scan;
mod gated_linear;
mod head;
mod linear;
mod mamba2_scan;
mod mamba_scan;
mod messages;
mod mlstm_scan;
mod moe_down;
mod moe_route;
mod moe_up;
mod siblings;

use kinglet_tests::tensors::Stored;

/// Numbers of tokens around those at which backends change their way of computing.
const TOKENS: &[&[usize]] = &[&[1], &[2], &[3], &[5], &[40], &[130], &[7, 1, 33]];

/// Sessions for ops with a state: lengths around those at which a scan goes from step by step to chunks (4 or 8) and from
/// one chunk or page to the next (64).
const SEQUENCES: &[&[usize]] =
    &[&[1], &[8], &[9], &[64], &[65], &[130], &[200], &[70, 3, 20], &[5, 90]];

/// Sessions for ops with a state whose steps have few tokens: up to 4 go step by step everywhere.
const FEW: &[&[usize]] = &[&[2], &[4], &[5], &[4, 2, 5, 1], &[4, 64, 3]];

/// Each way to store weights with each of `shapes`, and a choice of sessions for each that goes round.
fn each<S: Clone>(shapes: &[S], sessions: &[&[usize]], mut test: impl FnMut(S, Stored, &[usize])) {
    let mut turn = 0;
    for shape in shapes {
        for stored in Stored::ALL {
            test(shape.clone(), stored, sessions[turn % sessions.len()]);
            turn += 1;
        }
    }
}
