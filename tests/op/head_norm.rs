//! `head_norm`: `y = rotate(x / sqrt(mean(x^2) + eps) * weight)` for each head of each part.

use kinglet::models::Rope;
use kinglet::op::{HeadNorm, HeadPart, Op, Slice};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::{TOKENS, each};

/// A part: heads, their width, whether they are normed, whether they are rotated, and whether they are in the second buffer.
type Part = (usize, usize, bool, bool, bool);

fn check(parts: &[Part], pairs: usize, interleaved: bool, stored: Stored, lengths: &[usize]) {
    let name = format!("head_norm {parts:?} pairs {pairs} interleaved {interleaved}");
    let mut rig = Rig::new(name, stored, lengths);
    let width = |second: bool| -> usize {
        let own = parts.iter().filter(|part| part.4 == second);
        own.map(|(heads, dim, ..)| heads * dim).sum()
    };
    // Columns of others before and after them.
    let first = rig.input(3 + width(false) + 2, Random::normal);
    let second = rig.input(1 + width(true) + 4, Random::normal);
    let (mut from, mut all, mut total) = ([3, 1], Vec::new(), 0);
    for &(heads, head_dim, normed, rotated, in_second) in parts {
        let norm = normed.then(|| rig.norm(head_dim, 1e-3, false));
        let (buffer, offset) = match in_second {
            false => (first.buffer, &mut from[0]),
            true => (second.buffer, &mut from[1]),
        };
        let input = Slice { buffer, offset: *offset, width: heads * head_dim };
        *offset += input.width;
        total += input.width;
        all.push(HeadPart { input, head_dim, norm, rotated });
    }
    let inv_freq = (0..pairs).map(|i| 0.5f32.powi(i as i32)).collect();
    let rope = match pairs % 2 {
        0 => Rope { attention_factor: 0.8, interleaved, ..Rope::exact(300.0, 2 * pairs) },
        _ => Rope { inv_freq, attention_factor: 1.1, interleaved, dynamic: None, exact: None },
    };
    let output = rig.buffer("y", total);
    let rope = (pairs > 0).then_some(rope);
    rig.op(Op::HeadNorm(HeadNorm { parts: all, rope, output }));
    rig.check(output);
}

#[test]
fn every_part_and_rotation() {
    let shapes: [(&[Part], usize); 7] = [
        (&[(1, 1, true, false, false)], 0),
        (&[(2, 3, false, false, true)], 0),
        (&[(3, 8, true, true, false), (1, 8, true, true, false)], 4),
        // Elements after the pairs stay.
        (&[(2, 9, true, true, false), (5, 1, false, false, true)], 3),
        (
            &[(4, 66, true, true, true), (2, 66, true, true, false), (1, 40, false, false, false)],
            33,
        ),
        (&[(6, 130, false, true, false), (2, 130, true, false, false)], 20),
        (
            &[(1, 7, true, false, false), (1, 200, false, false, true), (3, 5, true, false, false)],
            0,
        ),
    ];
    let mut turn = 0;
    each(&shapes, TOKENS, |(parts, pairs), stored, lengths| {
        turn += 1;
        check(parts, pairs, turn % 2 == 0, stored, lengths);
    });
}
