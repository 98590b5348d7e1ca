//! [`Generation`]: generates tokens one by one, running ahead of the caller if the device can.

use std::collections::VecDeque;

use super::Session;
use crate::Error;
use crate::backend::{Ahead, BackendRun, Logits, SessionState, TokenChoice};
use crate::sampling::{Rng, Sampler};
use crate::session::speculate::{Drafter, Source, Speculating, SpeculationStats};

/// Steps between two snapshots to return to. Each costs a copy of the recurrent tensors, and at
/// most this many steps are computed again at the end.
const KEEP_EVERY: usize = 16;

/// How a session generates: see [`Session::generate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// Most tokens; unlimited by default.
    pub max_tokens: usize,
    /// Most steps that the device may run ahead of the caller; 0 for none. 4 by default.
    pub ahead: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_tokens: usize::MAX, ahead: 4 }
    }
}

impl GenerateOptions {
    /// The defaults: no limit, up to 4 steps ahead.
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

/// An answer that is being generated, from [`Session::generate`].
///
/// The sampler chooses each token from the logits after all tokens before it. The last token
/// returned is not in the session yet: it is fed when the next one is requested. So after
/// [`Generation::finish`] the session holds all tokens but the last, and [`Session::last_logits`]
/// are those that the last was chosen from. Then, or when the value is dropped, the session and the
/// sampler's state are exactly as if tokens had been sampled and fed one by one.
///
/// On the wgpu backend the device can choose tokens by itself: greedy, or with temperature, top-k,
/// top-p and min-p. (Penalties, DRY, logit biases, typical-p and XTC stay on the host.) It then
/// runs the next steps while the host still reads the tokens of earlier ones. It uses the sampler's
/// own random numbers, so a seed gives the same tokens as on the host, up to rounding of the
/// logits. Ending such an answer wastes the steps in flight, and computes at most 16 again. A
/// session that retains states at intervals ([`Session::retain`]) is not run ahead, since these
/// states need their logits.
pub struct Generation<'a> {
    session: &'a mut Session,
    sampler: &'a mut Sampler,
    decoding: Decoding<'a>,
}

/// The state of a [`Generation`] between two tokens. Every call must pass the same session and
/// sampler, which must not be used otherwise until [`Decoding::settle`].
pub(crate) struct Decoding<'a> {
    pub(crate) options: GenerateOptions,
    /// Number of tokens returned.
    given: usize,
    /// The last of them, which is not in the session.
    pending: Option<u32>,
    ahead: Option<Running>,
    /// Number of choices that the device left to the host.
    left: usize,
    speculating: Option<Speculating<'a>>,
}

/// Steps in flight on a device.
struct Running {
    device: Box<dyn Ahead>,
    choice: TokenChoice,
    /// The sampler's random numbers, advanced past those of the steps in flight.
    numbers: Rng,
    /// Snapshots to return to, each with the number of tokens it holds, oldest first. The first
    /// never holds more than the session.
    kept: VecDeque<(usize, Box<dyn SessionState>)>,
    submitted: usize,
}

impl Session {
    /// Starts generating from the session's last logits with `sampler`, which records the tokens.
    pub fn generate<'a>(
        &'a mut self,
        sampler: &'a mut Sampler,
        options: GenerateOptions,
    ) -> Generation<'a> {
        Generation { session: self, sampler, decoding: Decoding::new(options) }
    }
}

impl<'a> Generation<'a> {
    /// Lets `drafter` draft up to `most` tokens at a time, which the model verifies together: see
    /// [`speculate`](crate::session::speculate). The device doesn't run ahead then. Must be called
    /// before the first token. A session that retains states at intervals ignores it.
    pub fn speculate(mut self, drafter: Box<dyn Drafter + 'a>, most: usize) -> Self {
        self.decoding.speculate(self.session, Source::Drafter(drafter), most);
        self
    }

    /// Like [`Generation::speculate`], with drafts of the model's own prediction head
    /// ([`ModelOptions::prediction_head`](crate::ModelOptions::prediction_head)). If it was not
    /// loaded, nothing is drafted. Heads are trained to predict one token; further ones are right
    /// less often.
    pub fn speculate_with_head(mut self, most: usize) -> Self {
        self.decoding.speculate(self.session, Source::Head, most);
        self
    }

    /// Statistics of [`Generation::speculate`].
    pub fn speculation(&self) -> Option<SpeculationStats> {
        self.decoding.speculation()
    }
}

impl Generation<'_> {
    /// Generates the next token; `None` after [`GenerateOptions::max_tokens`].
    ///
    /// # Errors
    /// [`Error::NoLogits`] if there are no logits to start from; [`Error::Sampling`];
    /// [`Error::ContextFull`] if the session has no room for the previous token;
    /// [`Error::Cancelled`] by the session's [`Cancel`](crate::Cancel), after which it can be
    /// called again; those of [`Session::feed`].
    pub fn next_token(&mut self) -> Result<Option<u32>, Error> {
        pollster::block_on(self.next_token_async())
    }

    /// [`Generation::next_token`] without blocking.
    ///
    /// # Errors
    /// Those of [`Generation::next_token`].
    pub async fn next_token_async(&mut self) -> Result<Option<u32>, Error> {
        self.decoding.next_token(self.session, self.sampler).await
    }

    /// The number of tokens that the session would hold if the generation ended now.
    pub fn position(&self) -> usize {
        self.session.position()
    }

    /// Whether the device is running ahead.
    pub fn is_ahead(&self) -> bool {
        self.decoding.is_ahead()
    }

    /// Ends the answer after the last token returned, and undoes what the device did beyond it.
    ///
    /// # Errors
    /// Those of a step. The session is then poisoned.
    pub fn finish(self) -> Result<(), Error> {
        pollster::block_on(self.finish_async())
    }

    /// [`Generation::finish`] without blocking.
    ///
    /// # Errors
    /// Those of [`Generation::finish`].
    pub async fn finish_async(mut self) -> Result<(), Error> {
        self.decoding.settle(self.session).await
    }
}

impl<'a> Decoding<'a> {
    pub(crate) fn new(options: GenerateOptions) -> Self {
        let (given, pending, ahead, left, speculating) = (0, None, None, 0, None);
        Self { options, given, pending, ahead, left, speculating }
    }

    /// See [`Generation::speculate`].
    pub(crate) fn speculate(&mut self, session: &Session, source: Source<'a>, most: usize) {
        let retains = session.retained.until_next(session.tokens.len()).is_some();
        if !retains && self.given == 0 {
            self.speculating = Some(Speculating::new(source, most));
        }
    }

    /// See [`Generation::speculation`].
    pub(crate) fn speculation(&self) -> Option<SpeculationStats> {
        self.speculating.as_ref().map(|speculating| speculating.stats)
    }

    /// See [`Generation::is_ahead`].
    pub(crate) fn is_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    /// Whether the session's state may be that of other tokens than it lists, until
    /// [`Decoding::settle`].
    pub(crate) fn is_under_way(&self) -> bool {
        let guessed = self.speculating.as_ref().is_some_and(Speculating::is_under_way);
        guessed || self.ahead.as_ref().is_some_and(|running| running.submitted > 0)
    }

    /// Drops what is in flight, because the session was replaced or used otherwise.
    pub(crate) fn abandon(&mut self) {
        self.ahead = None;
        self.speculating = None;
    }

    /// The last token returned, if the session lacks it.
    pub(crate) fn pending(&self) -> Option<u32> {
        self.pending
    }

    /// Feeds the last token returned to the session, which must be settled.
    pub(crate) async fn take_pending(&mut self, session: &mut Session) -> Result<(), Error> {
        if let Some(token) = self.pending {
            session.feed_async(&[token]).await?;
            self.pending = None;
        }
        Ok(())
    }

    /// See [`Generation::next_token_async`].
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
                    // The device may have fed it already.
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

    /// Feeds `before`, and lets the host choose the next token from the logits of a speculative
    /// step.
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
        // Nothing is chosen after the last token.
        let room = self.options.max_tokens.saturating_sub(self.given);
        let logits = speculating.take(session, before, room).await?;
        self.pending = None;
        Ok(sampler.sample(logits)?)
    }

    /// Feeds `before`, and returns the next token as the device chose it; `None` if the host must
    /// choose.
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
        // The host chooses the last token, so that it has the logits.
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
                self.feed_last_chosen(session, before).await?;
            }
            return Ok(None);
        }
        match self.run_ahead(session, sampler, before, wanted).await {
            Ok(Some(token)) => Ok(Some(token)),
            Ok(None) => {
                self.left += 1;
                self.settle(session).await?;
                Ok(None)
            }
            Err(error) => {
                // If this fails too, the session stays poisoned.
                let _ = self.settle(session).await;
                Err(error)
            }
        }
    }

    /// Ensures that `wanted` steps are in flight, the first of them with the token `before`, and
    /// waits for one.
    async fn run_ahead(
        &mut self,
        session: &mut Session,
        sampler: &mut Sampler,
        before: u32,
        wanted: usize,
    ) -> Result<Option<u32>, Error> {
        let Some(running) = &mut self.ahead else { return Ok(None) };
        // Cleared when everything is settled.
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

    /// Lets the device run ahead, if it can.
    fn begin(&mut self, session: &Session, sampler: &Sampler) {
        let retains = session.retained.until_next(session.tokens.len()).is_some();
        // If the device leaves many choices to the host, running ahead is wasted.
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

    /// Feeds the last token that the device chose, with no step in flight, and leaves the next
    /// choice to the host.
    async fn feed_last_chosen(&mut self, session: &mut Session, token: u32) -> Result<(), Error> {
        self.ahead = None;
        let Session { model, state, tokens, logits, poisoned, .. } = session;
        logits.clear();
        let (wanted, run) = (Logits::Last, [token]);
        let run = BackendRun {
            tokens: &run,
            vectors: None,
            state: &mut **state,
            wanted,
            logits,
            stream: None,
        };
        model.executable().step(vec![run]).await?;
        tokens.push(token);
        *poisoned = false;
        self.pending = None;
        Ok(())
    }

    /// Brings the session's state to its tokens. The generation can go on from there.
    pub(crate) async fn settle(&mut self, session: &mut Session) -> Result<(), Error> {
        if let Some(speculating) = &mut self.speculating {
            return speculating.settle(session).await;
        }
        let Some(mut running) = self.ahead.take() else { return Ok(()) };
        let held = session.tokens.len();
        running.forget(held);
        // Without a snapshot, no step was submitted.
        let Some((position, state)) = running.kept.pop_front() else { return Ok(()) };
        session.state = state;
        // Drop the later snapshots first: a shared buffer would otherwise be copied by the next
        // step.
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
                .step(vec![BackendRun {
                    tokens,
                    vectors: None,
                    state,
                    wanted,
                    logits,
                    stream: None,
                }])
                .await?;
        }
        session.poisoned = false;
        Ok(())
    }
}

/// Lets the host choose a token.
fn sample(session: &Session, sampler: &mut Sampler) -> Result<u32, Error> {
    let logits = session.last_logits().ok_or(Error::NoLogits)?;
    Ok(sampler.sample(logits)?)
}

impl Running {
    /// Drops snapshots that are no longer needed to return to `held` tokens, once a later one
    /// exists that still leaves a token to compute, for the logits.
    fn forget(&mut self, held: usize) {
        while self.kept.get(1).is_some_and(|(position, _)| *position < held) {
            self.kept.pop_front();
        }
    }

    /// The choice for the next step to be submitted.
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
        // On failure the session stays poisoned, as it is while steps are in flight.
        let _ = pollster::block_on(self.decoding.settle(self.session));
    }
}
