//! [`Prefill`]: feeds a prompt to a session piece by piece.

use super::{PrefixCache, PrefixUse};
use crate::model::Run;
use crate::session::{Session, common_prefix};
use crate::{Error, Logits};

/// Tokens computed between two checks whether to go on.
pub(crate) const PIECE: usize = 512;

/// Boundaries closer than this to the next one, or to the prompt's end, are skipped, except the
/// last: computing so few tokens again costs less than a separate step.
const NEAR: usize = 64;

/// The progress of a prompt. Every call must pass the same cache (or none), session and prompt.
pub(crate) struct Prefill {
    boundaries: Vec<usize>,
    pub(crate) done: PrefixUse,
    pub(crate) total: usize,
}

impl Prefill {
    /// Brings the session to the longest prefix of the prompt that it, or the cache, has.
    ///
    /// # Errors
    /// Those of [`PrefixCache::prefill`].
    pub(crate) fn begin(
        cache: Option<&mut PrefixCache>,
        session: &mut Session,
        prompt: &[u32],
        boundaries: &[usize],
    ) -> Result<Self, Error> {
        if let Some(limit) = session.context_limit.filter(|&limit| prompt.len() > limit) {
            return Err(session.model.full(0, prompt.len(), limit));
        }
        let reused = match cache {
            Some(cache) => cache.resume(session, prompt)?,
            None if prompt.is_empty() => return Err(Error::EmptyRun),
            None => go_back(session, prompt)?,
        };
        let total = prompt.len() - reused;
        let done = PrefixUse { reused, computed: 0, complete: total == 0 };
        Ok(Self { boundaries: spread(boundaries, prompt.len()), done, total })
    }

    /// Computes the next piece. On failure nothing has changed, or the session is poisoned.
    ///
    /// # Errors
    /// Those of [`Session::feed`].
    pub(crate) async fn step(
        &mut self,
        mut cache: Option<&mut PrefixCache>,
        session: &mut Session,
        prompt: &[u32],
    ) -> Result<(), Error> {
        let at = session.position();
        let every = cache.as_ref().map_or(0, |cache| cache.options.every);
        let interval = (every > 0).then(|| at + every - at % every);
        let ahead = |stop: &usize| *stop > at && *stop < prompt.len();
        let stops = self.boundaries.iter().copied().filter(ahead);
        let stop = stops.chain(interval).chain([prompt.len()]).min().unwrap_or(prompt.len());
        let stop = stop.min(prompt.len());
        let boundary = stop == prompt.len() || self.boundaries.contains(&stop);
        let model = session.model().clone();
        let to = stop.min(at + piece(session));
        // A prompt that ends at this boundary will need its logits.
        let logits = if to == stop && boundary { Logits::Last } else { Logits::None };
        let tokens = prompt.get(at..to).unwrap_or_default();
        model.step_async(&mut [Run { session: &mut *session, tokens, logits }]).await?;
        self.done.computed += tokens.len();
        self.done.complete = to == prompt.len();
        match &mut cache {
            Some(cache) if to == stop => cache.keep(session, boundary),
            _ => Ok(()),
        }
    }
}

/// Tokens of a step between two checks whether to go on.
pub(crate) fn piece(session: &Session) -> usize {
    PIECE.min(session.model().executable().max_step_tokens().max(1))
}

/// Brings `session` to the longest prefix of `prompt` that it can reach by itself, and returns its
/// length.
pub(super) fn go_back(session: &mut Session, prompt: &[u32]) -> Result<usize, Error> {
    let own = reach(session, prompt);
    match own {
        0 => session.reset()?,
        own => session.rewind(own)?,
    }
    Ok(own)
}

/// How much of `prompt` the session can reach by going back.
pub(super) fn reach(session: &Session, prompt: &[u32]) -> usize {
    let common = common_prefix(session.tokens(), prompt);
    let whole = common == prompt.len()
        && common == session.position()
        && !session.is_poisoned()
        && session.last_logits().is_some();
    if whole {
        return common;
    }
    // Without logits the last token must be computed again.
    session.reach().at_most(common.min(prompt.len().saturating_sub(1)))
}

/// The boundaries within a prompt of `length` that are worth a separate step, ascending.
fn spread(boundaries: &[usize], length: usize) -> Vec<usize> {
    let mut sorted: Vec<usize> =
        boundaries.iter().copied().filter(|at| (1..length).contains(at)).collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut kept: Vec<usize> = Vec::new();
    for at in sorted.into_iter().rev() {
        if kept.last().is_none_or(|next| next - at >= NEAR) {
            kept.push(at);
        }
    }
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn boundaries_close_together_are_one() {
        assert!(spread(&[], 10).is_empty());
        assert_eq!(spread(&[0, 9, 10, 11, usize::MAX], 10), [9]);
        assert_eq!(spread(&[150, 20, 150], 200), [20, 150]);
        assert_eq!(spread(&[10, 100, 120, 198], 200), [10, 120, 198]);
    }
}
