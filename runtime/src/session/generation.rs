//! [`Generation`]: tokens that a session generates one after the other, ahead of the caller where the device can.

use std::collections::VecDeque;

use super::Session;
use crate::Error;
use crate::backend::{Ahead, BackendRun, Logits, SessionState, TokenChoice};
use crate::sampling::{Rng, Sampler};
use crate::session::speculate::{Drafter, Speculating, SpeculationStats};

/// Steps between two states that are kept to come back to: a copy of the recurrent tensors for each so many steps, and at most so
/// many computed again at the end.
const KEEP_EVERY: usize = 16;

/// How a session generates: see [`Session::generate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// The most tokens; unlimited by default.
    pub max_tokens: usize,
    /// How many steps the device may be ahead of the caller; 0 for none. 4 by default.
    pub ahead: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_tokens: usize::MAX, ahead: 4 }
    }
}

impl GenerateOptions {
    /// No limit, up to 4 steps ahead.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`Self::max_tokens`].
    pub fn max_tokens(mut self, most: usize) -> Self {
        self.max_tokens = most;
        self
    }

    /// Sets [`Self::ahead`].
    pub fn ahead(mut self, steps: usize) -> Self {
        self.ahead = steps;
        self
    }
}

/// An answer in the making: what [`Session::generate`] begins.
///
/// Each token is chosen by the sampler from the logits after all before it. The last one that was given out is not in the session
/// yet: it is taken into the state when the next is asked for, so that after [`Generation::finish`] the session holds
/// all tokens but the last, and [`Session::last_logits`] are those that the last was chosen from. Then, or when the value is
/// dropped, the session and the sampler's state are exactly what they would be if tokens had been sampled and fed one by one.
///
/// Where a device can choose by itself (greedy, temperature, top-k, top-p, min-p on the wgpu backend; penalties, DRY, logit
/// biases, typical-p and XTC stay on the host), it goes on with the next steps while the host still reads the tokens of earlier
/// ones; random numbers are the sampler's own, so that a seed gives the tokens that it gives on the host, up to rounding of the
/// logits. To end such an answer costs the steps that were in vain, and at most 16 that are computed again. A session that
/// retains states at intervals ([`Session::retain`]) is not decoded ahead, since these states come with their logits.
pub struct Generation<'a> {
    session: &'a mut Session,
    sampler: &'a mut Sampler,
    decoding: Decoding<'a>,
}

/// What a [`Generation`] is between two tokens, apart from the session and the sampler, which are given to each call: always the same ones, and
/// not used otherwise until [`Decoding::settle`].
pub(crate) struct Decoding<'a> {
    pub(crate) options: GenerateOptions,
    /// Tokens given out.
    given: usize,
    /// The last of them, which is not in the session.
    pending: Option<u32>,
    ahead: Option<Running>,
    /// How often the device left a choice to the host.
    left: usize,
    speculating: Option<Speculating<'a>>,
}

/// Steps under way on a device.
struct Running {
    device: Box<dyn Ahead>,
    choice: TokenChoice,
    /// The sampler's random numbers, of which those of the steps under way were taken.
    numbers: Rng,
    /// States to come back to, each with the tokens that it has taken, oldest first: the first is never behind the session.
    kept: VecDeque<(usize, Box<dyn SessionState>)>,
    submitted: usize,
}

impl Session {
    /// Begins to generate from the session's last logits with `sampler`, which records the tokens.
    pub fn generate<'a>(
        &'a mut self,
        sampler: &'a mut Sampler,
        options: GenerateOptions,
    ) -> Generation<'a> {
        Generation { session: self, sampler, decoding: Decoding::new(options) }
    }
}

impl<'a> Generation<'a> {
    /// Lets `drafter` guess up to `most` tokens at a time, which the model verifies together: see [`speculate`](crate::session::speculate). The
    /// device doesn't go ahead then. Before the first token only. A session that retains states at intervals goes without guesses.
    pub fn speculate(mut self, drafter: Box<dyn Drafter + 'a>, most: usize) -> Self {
        self.decoding.speculate(self.session, drafter, most);
        self
    }

    /// How the guesses of [`Generation::speculate`] went.
    pub fn speculation(&self) -> Option<SpeculationStats> {
        self.decoding.speculation()
    }
}

impl Generation<'_> {
    /// The next token; `None` after [`GenerateOptions::max_tokens`].
    ///
    /// # Errors
    /// Without logits to begin with, [`Error::NoLogits`]; [`Error::Sampling`]; [`Error::ContextFull`] where the session has no
    /// place for the token before; [`Error::Cancelled`] by the session's [`Cancel`](crate::Cancel), after which it can be called
    /// again; those of [`Session::feed`].
    pub fn next_token(&mut self) -> Result<Option<u32>, Error> {
        pollster::block_on(self.next_token_async())
    }

    /// [`Generation::next_token`] without blocking.
    ///
    /// # Errors
    /// As [`Generation::next_token`].
    pub async fn next_token_async(&mut self) -> Result<Option<u32>, Error> {
        self.decoding.next_token(self.session, self.sampler).await
    }

    /// Tokens that the session would hold if the generation ended now.
    pub fn position(&self) -> usize {
        self.session.position()
    }

    /// Whether the device is going ahead.
    pub fn is_ahead(&self) -> bool {
        self.decoding.is_ahead()
    }

    /// Ends the answer after the last token given out: what the device has done beyond it is undone.
    ///
    /// # Errors
    /// Those of a step; the session is poisoned then.
    pub fn finish(self) -> Result<(), Error> {
        pollster::block_on(self.finish_async())
    }

    /// [`Generation::finish`] without blocking.
    ///
    /// # Errors
    /// As [`Generation::finish`].
    pub async fn finish_async(mut self) -> Result<(), Error> {
        self.decoding.settle(self.session).await
    }
}

impl<'a> Decoding<'a> {
    pub(crate) fn new(options: GenerateOptions) -> Self {
        let (given, pending, ahead, left, speculating) = (0, None, None, 0, None);
        Self { options, given, pending, ahead, left, speculating }
    }

    /// As [`Generation::speculate`].
    pub(crate) fn speculate(
        &mut self,
        session: &Session,
        drafter: Box<dyn Drafter + 'a>,
        most: usize,
    ) {
        let retains = session.retained.until_next(session.tokens.len()).is_some();
        if !retains && self.given == 0 {
            self.speculating = Some(Speculating::new(drafter, most));
        }
    }

    /// As [`Generation::speculation`].
    pub(crate) fn speculation(&self) -> Option<SpeculationStats> {
        self.speculating.as_ref().map(|speculating| speculating.stats)
    }

    /// As [`Generation::is_ahead`].
    pub(crate) fn is_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    /// Whether the session's state may be that of other tokens than it says, until [`Decoding::settle`].
    pub(crate) fn is_under_way(&self) -> bool {
        let guessed = self.speculating.as_ref().is_some_and(Speculating::is_under_way);
        guessed || self.ahead.as_ref().is_some_and(|running| running.submitted > 0)
    }

    /// Forgets what is under way, of a session that is another one now.
    pub(crate) fn abandon(&mut self) {
        self.ahead = None;
        self.speculating = None;
    }

    /// The last token that was given out, where the session lacks it.
    pub(crate) fn pending(&self) -> Option<u32> {
        self.pending
    }

    /// Takes the last token that was given out into the session, which is settled.
    pub(crate) async fn take_pending(&mut self, session: &mut Session) -> Result<(), Error> {
        if let Some(token) = self.pending {
            session.feed_async(&[token]).await?;
            self.pending = None;
        }
        Ok(())
    }

    /// As [`Generation::next_token_async`].
    pub(crate) async fn next_token(
        &mut self,
        session: &mut Session,
        sampler: &mut Sampler,
    ) -> Result<Option<u32>, Error> {
        if self.given >= self.options.max_tokens {
            return Ok(None);
        }
        if session.cancel.as_ref().is_some_and(crate::Cancel::is_set) {
            return Err(Error::Cancelled);
        }
        let token = match self.pending {
            None => sample(session, sampler)?,
            Some(before) if self.speculating.is_some() => {
                self.verified(session, sampler, before).await?
            }
            Some(before) => match self.chosen_by_device(session, sampler, before).await? {
                Some(token) => token,
                None => {
                    // The device may have taken it in already.
                    if self.pending.is_some() {
                        session.feed_async(&[before]).await?;
                        self.pending = None;
                    }
                    sample(session, sampler)?
                }
            },
        };
        sampler.accept(token);
        self.pending = Some(token);
        self.given += 1;
        Ok(Some(token))
    }

    /// The token after `before`, which then is in the session, chosen by the host from the logits of a step with guesses.
    async fn verified(
        &mut self,
        session: &mut Session,
        sampler: &mut Sampler,
        before: u32,
    ) -> Result<u32, Error> {
        let Some(speculating) = &mut self.speculating else { return Err(Error::NoLogits) };
        if session.poisoned && !speculating.is_under_way() {
            return Err(Error::PoisonedSession);
        }
        // With the last token nothing is chosen.
        let room = self.options.max_tokens.saturating_sub(self.given);
        let logits = speculating.take(session, before, room).await?;
        self.pending = None;
        Ok(sampler.sample(logits)?)
    }

    /// The token after `before`, which then is in the session; `None` where the host must choose.
    async fn chosen_by_device(
        &mut self,
        session: &mut Session,
        sampler: &mut Sampler,
        before: u32,
    ) -> Result<Option<u32>, Error> {
        if self.ahead.is_none() {
            self.begin(session, sampler);
        }
        let Some(running) = &mut self.ahead else { return Ok(None) };
        // The last token is the host's, which then has the logits.
        let most = self.options.max_tokens.saturating_sub(1).saturating_sub(self.given);
        let held = session.tokens.len();
        let room = session.context_limit.map_or(usize::MAX, |limit| limit.saturating_sub(held));
        if room == 0 {
            self.settle(session).await?;
            return Ok(None);
        }
        let wanted = most.min(self.options.ahead).min(room);
        if wanted == 0 {
            if running.submitted > 0 {
                self.arrive(session, before).await?;
            }
            return Ok(None);
        }
        match self.go_ahead(session, sampler, before, wanted).await {
            Ok(Some(token)) => Ok(Some(token)),
            Ok(None) => {
                self.left += 1;
                self.settle(session).await?;
                Ok(None)
            }
            Err(error) => {
                // Where it can't be undone either, the session stays poisoned.
                let _ = self.settle(session).await;
                Err(error)
            }
        }
    }

    /// Sees to it that `wanted` steps are under way, the first of them with the token `before`, and waits for one.
    async fn go_ahead(
        &mut self,
        session: &mut Session,
        sampler: &mut Sampler,
        before: u32,
        wanted: usize,
    ) -> Result<Option<u32>, Error> {
        let Some(running) = &mut self.ahead else { return Ok(None) };
        // Sound again when all of it is settled.
        session.poisoned = true;
        while running.device.under_way() < wanted {
            let first = running.submitted == 0;
            if running.submitted.is_multiple_of(KEEP_EVERY) {
                let position = session.tokens.len() + running.device.under_way();
                running.kept.push_back((position, session.state.snapshot()?));
            }
            let choice = running.next_choice();
            running.device.submit(first.then_some(before), &mut *session.state, choice).await?;
            running.submitted += 1;
        }
        let chosen = running.device.next().await?;
        session.tokens.push(before);
        self.pending = None;
        running.forget(session.tokens.len());
        if chosen.is_some() {
            sampler.skip(&running.choice);
        }
        Ok(chosen)
    }

    /// Lets the device go ahead, if it can.
    fn begin(&mut self, session: &Session, sampler: &Sampler) {
        let retains = session.retained.until_next(session.tokens.len()).is_some();
        // Where it leaves much to the host, going ahead is in vain.
        let trusted = self.left == 0 || self.left * 64 <= self.given;
        if self.options.ahead == 0 || retains || session.poisoned || !trusted {
            return;
        }
        let Some(choice) = sampler.options().choice(session.model.vocab()) else {
            return;
        };
        let device = session.model.executable().ahead();
        let Some(device) = device.filter(|device| device.can(&choice)) else { return };
        let numbers = sampler.state().random().clone();
        let kept = VecDeque::new();
        self.ahead = Some(Running { device, choice, numbers, kept, submitted: 0 });
    }

    /// Takes in the last token that the device has chosen, with no step under way, and leaves the choice of the next to the host.
    async fn arrive(&mut self, session: &mut Session, token: u32) -> Result<(), Error> {
        self.ahead = None;
        let Session { model, state, tokens, logits, poisoned, .. } = session;
        logits.clear();
        let (wanted, run) = (Logits::Last, [token]);
        let run = BackendRun { tokens: &run, vectors: None, state: &mut **state, wanted, logits };
        model.executable().step(vec![run]).await?;
        tokens.push(token);
        *poisoned = false;
        self.pending = None;
        Ok(())
    }

    /// Brings the session's state to its tokens. It can go on from there.
    pub(crate) async fn settle(&mut self, session: &mut Session) -> Result<(), Error> {
        if let Some(speculating) = &mut self.speculating {
            return speculating.settle(session).await;
        }
        let Some(mut running) = self.ahead.take() else { return Ok(()) };
        let held = session.tokens.len();
        running.forget(held);
        // Without one, no step was submitted.
        let Some((position, state)) = running.kept.pop_front() else { return Ok(()) };
        session.state = state;
        // Later states must not see what comes next, which costs nothing when they are gone.
        drop(running);
        let again = session.tokens.get(position..).unwrap_or_default();
        if !again.is_empty() {
            session.logits.clear();
        }
        let executable = session.model.executable();
        for (index, token) in again.iter().enumerate() {
            let wanted = if index + 1 == again.len() { Logits::Last } else { Logits::None };
            let (state, logits) = (&mut *session.state, &mut session.logits);
            let tokens = std::slice::from_ref(token);
            executable
                .step(vec![BackendRun { tokens, vectors: None, state, wanted, logits }])
                .await?;
        }
        session.poisoned = false;
        Ok(())
    }
}

/// A token by the host.
fn sample(session: &Session, sampler: &mut Sampler) -> Result<u32, Error> {
    let logits = session.last_logits().ok_or(Error::NoLogits)?;
    Ok(sampler.sample(logits)?)
}

impl Running {
    /// Forgets the states that nobody comes back to from `held` tokens: there is a later one, and something to compute after it,
    /// which gives the logits.
    fn forget(&mut self, held: usize) {
        while self.kept.get(1).is_some_and(|(position, _)| *position < held) {
            self.kept.pop_front();
        }
    }

    /// How the step to be submitted chooses.
    fn next_choice(&mut self) -> TokenChoice {
        let mut choice = self.choice;
        if let TokenChoice::Drawn(draw) = &mut choice {
            draw.number = self.numbers.next_f64();
        }
        choice
    }
}

impl Drop for Generation<'_> {
    fn drop(&mut self) {
        // What fails here leaves the session poisoned, as it is while steps are under way.
        let _ = pollster::block_on(self.decoding.settle(self.session));
    }
}
