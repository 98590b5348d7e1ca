//! `head`: `z = scale * (W n(x) + b)`, capped softly where asked, for the tokens whose logits are wanted.

use std::ops::Range;

use kinglet::Logits;
use kinglet::op::Head;
use kinglet_tests::random::Random;
use kinglet_tests::rig::{Bench, Rig, rms};
use kinglet_tests::schedule::Schedule;
use kinglet_tests::target::targets;
use kinglet_tests::tensors::Stored;

use crate::{TOKENS, each};

#[derive(Clone, Copy, Debug)]
struct Choices {
    norm: Option<bool>,
    bias: bool,
    scale: f32,
    cap: Option<f32>,
}

const PLAIN: Choices = Choices { norm: Some(false), bias: false, scale: 1.0, cap: None };

/// A head of `vocab` rows.
fn rig(
    (vocab, hidden): (usize, usize),
    choices: Choices,
    stored: Stored,
    lengths: &[usize],
) -> Bench {
    let name = format!("head {vocab} x {hidden} {choices:?}");
    // Token ids are below the vocabulary.
    let mut rig = Rig::new(name, stored, lengths).distinct(vocab);
    let input = rig.input(hidden, Random::normal);
    let norm = rig.norm(hidden, 1e-5, choices.norm == Some(true));
    let linear = rig.linear(vocab, hidden, choices.bias);
    let Choices { scale, cap, .. } = choices;
    let norm = choices.norm.map(|_| norm);
    rig.finish(Head { input: input.buffer, norm, linear, scale, soft_cap: cap })
}

#[test]
fn every_shape() {
    let shapes = [(1, 1), (3, 5), (64, 16), (65, 33), (257, 66), (1030, 20), (70, 520)];
    each(&shapes, TOKENS, |shape, stored, lengths| {
        rig(shape, PLAIN, stored, lengths).check();
    });
}

#[test]
fn norm_bias_scale_and_cap() {
    for norm in [None, Some(false), Some(true)] {
        for bias in [false, true] {
            for (scale, cap) in [(1.0, None), (0.125, None), (1.0, Some(2.0)), (-3.0, Some(30.0))] {
                let choices = Choices { norm, bias, scale, cap };
                for (stored, lengths) in Stored::ALL.into_iter().zip([&[7, 1, 33][..], &[1], &[9]])
                {
                    rig((37, 21), choices, stored, lengths).check();
                }
            }
        }
    }
}

/// The rows of logits that a run returns, out of all possible ones.
fn kept(wanted: Logits, run: Range<usize>) -> Range<usize> {
    match wanted {
        Logits::None => run.end..run.end,
        Logits::Last => run.end - 1..run.end,
        Logits::All => run,
    }
}

#[test]
fn only_what_is_wanted_is_given_and_to_whom_it_belongs() {
    use Logits::{All, Last, None};
    let mut random = Random::new(3);
    for lengths in [&[1][..], &[1, 1, 1], &[5, 1, 9], &[33, 2]] {
        let bench = rig((41, 19), PLAIN, Stored::F32, lengths);
        let expected = bench.expected();
        for wishes in [[None, None, None], [Last, Last, Last], [All, Last, None], [None, All, Last]]
        {
            // The wanted logits depend on the session's position, so they differ from step to step.
            let wanted = |session: usize, run: Range<usize>| wishes[(session + run.start) % 3];
            for target in targets() {
                let executable = bench.compile(&target);
                let ragged = Schedule::ragged(bench.lengths(), &mut random);
                for schedule in [Schedule::whole(bench.lengths()), ragged] {
                    let got = bench.run(&*executable, &schedule, wanted);
                    let mut done = vec![0; lengths.len()];
                    let mut rows = vec![Vec::new(); lengths.len()];
                    for &(session, tokens) in schedule.steps.iter().flatten() {
                        let run = done[session]..done[session] + tokens;
                        done[session] = run.end;
                        let kept = kept(wanted(session, run.clone()), run);
                        rows[session].extend_from_slice(&expected[session][kept]);
                    }
                    let (error, place) = bench.worst(&got, &rows, rms(&rows));
                    assert!(
                        error <= target.bound,
                        "{} {}: {error} {place}",
                        target.name,
                        schedule.name
                    );
                }
            }
        }
    }
}
