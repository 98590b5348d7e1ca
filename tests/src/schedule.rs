//! Schedules: how to cut the tokens of some sessions into steps.

use crate::random::Random;

/// Steps, each a list of `(session, tokens)`.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Name for messages.
    pub name: String,
    /// A session occurs at most once in a step.
    pub steps: Vec<Vec<(usize, usize)>>,
}

/// Lengths around those at which backends switch algorithms.
const LENGTHS: &[usize] = &[1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 63, 64, 65, 100];

impl Schedule {
    /// All tokens of all sessions in one step.
    pub fn whole(lengths: &[usize]) -> Self {
        Self { name: "whole".into(), steps: vec![lengths.iter().copied().enumerate().collect()] }
    }

    /// One session after another, `chunk` tokens at a time.
    pub fn apart(lengths: &[usize], chunk: usize) -> Self {
        let mut steps = Vec::new();
        for (session, &length) in lengths.iter().enumerate() {
            for start in (0..length).step_by(chunk) {
                steps.push(vec![(session, chunk.min(length - start))]);
            }
        }
        Self { name: format!("apart by {chunk}"), steps }
    }

    /// Steps of some sessions in random order, each with its own length, until all are done:
    /// sessions meet at different positions.
    pub fn ragged(lengths: &[usize], random: &mut Random) -> Self {
        let mut left = lengths.to_vec();
        let mut steps = Vec::new();
        while left.iter().any(|&left| left > 0) {
            let mut sessions: Vec<usize> = (0..left.len()).filter(|&s| left[s] > 0).collect();
            random.shuffle(&mut sessions);
            sessions.truncate(random.between(1, sessions.len()));
            let step: Vec<_> =
                sessions.iter().map(|&s| (s, random.choose(LENGTHS).min(left[s]))).collect();
            step.iter().for_each(|&(s, taken)| left[s] -= taken);
            steps.push(step);
        }
        Self { name: format!("ragged {steps:?}"), steps }
    }

    /// The schedules for target number `index`. Together the targets cover every way to cut.
    pub fn several(lengths: &[usize], index: usize, random: &mut Random) -> Vec<Self> {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut all = vec![Self::whole(lengths)];
        if longest > 1 {
            // Token by token needs a step per token: not for long sequences on every target.
            let smallest = if longest <= 48 || index.is_multiple_of(3) { 1 } else { 5 };
            let chunks = [smallest, 3, 7, 8, 9, 63, 64, 65];
            all.push(Self::apart(lengths, chunks[index % chunks.len()].min(longest)));
        }
        if longest > 1 || lengths.len() > 1 {
            all.push(Self::ragged(lengths, random));
        }
        all
    }
}
