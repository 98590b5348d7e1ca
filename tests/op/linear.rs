//! `linear`: `y = s (W f(x) + b)`, with every `f`, stored, also after an activation, and added, with one matrix and several.

use kinglet::models::{self, Activation, GateActivation};
use kinglet::op::{Linear, Op, Output, Prologue, Slice};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::{TOKENS, each};

/// A prologue and its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    None,
    Norm {
        bias: bool,
    },
    /// The mean is subtracted first.
    LayerNorm {
        bias: bool,
    },
    PlainNorm,
    SiluGate,
    /// So many gates, or one for each element.
    SigmoidGate {
        gates: Option<usize>,
    },
    GatedNorm {
        groups: usize,
    },
    /// Whether the groups have one weight in common.
    NormGate {
        groups: usize,
        common: bool,
        activation: GateActivation,
    },
}

const SHAPES: &[(usize, usize)] = &[
    (1, 1),
    (3, 2),
    (5, 7),
    (4, 16),
    (31, 33),
    (64, 64),
    (65, 130),
    (257, 19),
    (12, 300),
    (130, 1030),
];

/// A linear op of `parts` rows by `cols`, checked.
fn check(
    kind: Kind,
    parts: &[usize],
    cols: usize,
    mode: Output,
    stored: Stored,
    lengths: &[usize],
) {
    let name = format!("linear {kind:?} {parts:?} x {cols} {mode:?}");
    let mut rig = Rig::new(name, stored, lengths);
    let eps = 1e-3;
    let mut side = |width: usize, extra: usize| {
        // The input is some columns of a wider buffer.
        let offset = rig.random.between(0, extra);
        let input = rig.input(width + extra, Random::normal);
        Slice { buffer: input.buffer, offset, width }
    };
    let gates = match kind {
        Kind::SigmoidGate { gates } => gates.unwrap_or(cols),
        _ => cols,
    };
    let (input, gate) = (side(cols, 5), side(gates, 3));
    let width = match kind {
        Kind::NormGate { groups, common: true, .. } => cols / groups,
        _ => cols,
    };
    let bias = matches!(kind, Kind::Norm { bias: true } | Kind::LayerNorm { bias: true });
    let norm = rig.norm(width, eps, bias);
    let prologue = match kind {
        Kind::None => Prologue::None,
        Kind::Norm { .. } => Prologue::Norm(norm),
        Kind::LayerNorm { .. } => Prologue::Norm(models::Norm { centred: true, ..norm }),
        Kind::PlainNorm => Prologue::PlainNorm { eps },
        Kind::SiluGate => Prologue::SiluGate { gate },
        Kind::SigmoidGate { .. } => Prologue::SigmoidGate { gate },
        Kind::GatedNorm { groups } => Prologue::GatedNorm { gate, norm, groups },
        Kind::NormGate { groups, activation, .. } => {
            Prologue::NormGate { norm, groups, gate, activation }
        }
    };
    let linears: Vec<_> = parts
        .iter()
        .enumerate()
        .map(|(i, &rows)| {
            // The matrices of one op may have different types.
            rig.stored = Stored::ALL[(stored as usize + i) % 3];
            rig.linear(rows, cols, i % 2 == 0)
        })
        .collect();
    let rows: usize = parts.iter().sum();
    // In every other case the output is some columns of a wider buffer, which keeps the others.
    let (before, after) = match rows % 2 {
        0 => (0, 0),
        _ => (rig.random.between(0, 3), rig.random.between(1, 3)),
    };
    let old = rig.input(before + rows + after, Random::normal).buffer;
    let buffer = match mode {
        Output::Store | Output::Activate(_) if after == 0 => rig.buffer("y", rows),
        _ => old,
    };
    let output = Slice { buffer, offset: before, width: rows };
    rig.op(Op::Linear(Linear { input, prologue, parts: linears, output, mode }));
    rig.check(buffer);
}

#[test]
fn without_prologue_of_every_shape() {
    each(SHAPES, TOKENS, |(rows, cols), stored, lengths| {
        check(Kind::None, &[rows], cols, Output::Store, stored, lengths);
    });
}

#[test]
fn every_number_of_tokens_around_the_tiles() {
    for tokens in 1..=14 {
        let stored = Stored::ALL[tokens % 3];
        check(Kind::None, &[37], 45, Output::Store, stored, &[tokens]);
    }
    check(Kind::Norm { bias: false }, &[70], 70, Output::Store, Stored::Bf16, &[97]);
    check(Kind::Norm { bias: false }, &[70], 70, Output::Store, Stored::F16, &[193]);
}

#[test]
fn behind_a_norm() {
    each(&[(5, 1), (8, 12), (33, 67), (130, 258)], TOKENS, |(rows, cols), stored, lengths| {
        check(Kind::Norm { bias: false }, &[rows], cols, Output::Store, stored, lengths);
        check(Kind::Norm { bias: true }, &[rows], cols, Output::Store, stored, lengths);
        check(Kind::LayerNorm { bias: false }, &[rows], cols, Output::Store, stored, lengths);
        check(Kind::LayerNorm { bias: true }, &[rows], cols, Output::Store, stored, lengths);
        check(Kind::PlainNorm, &[rows], cols, Output::Store, stored, lengths);
    });
}

#[test]
fn behind_a_gate() {
    let shapes = [(6, 1, 1), (9, 15, 1), (9, 15, 5), (40, 64, 2), (17, 264, 8), (17, 264, 264)];
    each(&shapes, TOKENS, |(rows, cols, groups), stored, lengths| {
        let add = Output::Add { scale: 0.22 };
        check(Kind::SiluGate, &[rows], cols, add, stored, lengths);
        check(Kind::GatedNorm { groups }, &[rows], cols, add, stored, lengths);
        for activation in [GateActivation::Silu, GateActivation::Sigmoid] {
            for common in [true, false] {
                let kind = Kind::NormGate { groups, common, activation };
                check(kind, &[rows], cols, add, stored, lengths);
            }
        }
    });
}

#[test]
fn behind_a_sigmoid_gate() {
    // Widths with a gate for each element and for each of as many parts, aligned and not.
    let shapes = [(6, 1, 1), (9, 15, 5), (40, 64, 4), (33, 96, 8), (17, 264, 88), (5, 1056, 33)];
    each(&shapes, TOKENS, |(rows, cols, gates), stored, lengths| {
        let add = Output::Add { scale: 0.22 };
        check(Kind::SigmoidGate { gates: None }, &[rows], cols, add, stored, lengths);
        check(Kind::SigmoidGate { gates: Some(gates) }, &[rows], cols, add, stored, lengths);
    });
}

#[test]
fn before_an_activation() {
    use Activation::{Gelu, GeluTanh, Relu, Relu2, Silu};
    // Several rows: a single one may cancel with its bias.
    let shapes = [(4, 1), (3, 5), (33, 31), (130, 65), (90, 258)];
    for act in [Silu, Gelu, GeluTanh, Relu, Relu2] {
        each(&shapes, TOKENS, |(rows, cols), stored, lengths| {
            let kind = Kind::Norm { bias: rows % 2 == 0 };
            check(kind, &[rows], cols, Output::Activate(act), stored, lengths);
        });
    }
}

#[test]
fn several_matrices_side_by_side() {
    let shapes = [vec![1, 1, 1], vec![64, 16, 16], vec![5, 3], vec![33, 1, 70, 2, 2, 9]];
    each(&shapes, TOKENS, |parts, stored, lengths| {
        check(Kind::Norm { bias: false }, &parts, 65, Output::Store, stored, lengths);
    });
}

#[test]
fn added_to_what_is_there() {
    each(&[(1, 4), (7, 9), (96, 40), (258, 70)], TOKENS, |(rows, cols), stored, lengths| {
        for scale in [1.0, -0.5] {
            check(Kind::None, &[rows], cols, Output::Add { scale }, stored, lengths);
        }
    });
}
