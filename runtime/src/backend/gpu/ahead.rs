//! Decoding ahead of the host: a step begins with the token that the step before chose on the device, and is submitted while the host still
//! waits for the tokens of earlier ones.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::api::{Commands, Gpu, Launches, StateBindings};
use super::program::Program;
use super::readback::Readback;
use super::recording::{RunSize, Step};
use super::sample::Sampling;
use super::state::GpuState;
use super::target::lock;
use crate::Error;
use crate::backend::executable::{Ahead, SessionState, TokenChoice, TokenFuture};

/// Sentinel: no token.
const ABSENT: u32 = u32::MAX;
/// Size of the staging memory of a token, in bytes.
const STAGING: u64 = 16;

/// Numbers of the sequences that decode ahead; 0 is none of them.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Steps of one sequence that are under way.
pub(super) struct GpuAhead<A: Gpu> {
    program: Arc<Program<A>>,
    sampling: Sampling,
    /// Identifies the sequence where steps of several alternate.
    number: u64,
    under_way: VecDeque<Readback<A>>,
    /// Tokens that were read before they were asked for.
    read: VecDeque<Option<u32>>,
    /// The token that the last step has chosen, if the host knows it.
    last: Option<u32>,
}

impl<A: Gpu> GpuAhead<A> {
    pub(super) fn new(program: Arc<Program<A>>, sampling: Sampling) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (under_way, read) = (VecDeque::new(), VecDeque::new());
        Self { program, sampling, number, under_way, read, last: None }
    }

    /// Waits for the oldest step that is under way.
    async fn wait(&mut self) -> Result<Option<u32>, Error> {
        let Some(readback) = self.under_way.pop_front() else {
            return Err(self.program.device.target().fault("no step is under way"));
        };
        let mut token = ABSENT;
        readback
            .read(&*self.program.device, &self.program.token_staging, |words: &[u32]| {
                token = words.first().copied().unwrap_or(ABSENT);
            })
            .await?;
        let token = Some(token).filter(|&token| (token as usize) < self.program.plan.vocab);
        if self.under_way.is_empty() {
            self.last = token;
        }
        Ok(token)
    }

    /// Submits a step. Returns false, with nothing done, where another step ran on the device since, so that the token must come from the host.
    fn try_submit(
        &mut self,
        token: Option<u32>,
        state: &mut GpuState<A>,
        choice: &TokenChoice,
    ) -> Result<bool, Error> {
        let program = self.program.clone();
        let (device, recording) = (&program.device, &program.recording);
        state.prepare(1)?;
        let staging = program.token_staging.take(device, STAGING)?;
        let one = Step { tokens: 1, ..Step::default() };
        let pools = lock(&program.pools);
        let slot = pools.slot(&program, state.tensors())?;
        let run = state.step(slot.number, 0, 1);
        let mut calls = recording.step(&[RunSize { tokens: 1, pool: 0 }], false);
        recording.logits(2, 1, &mut calls);
        recording.sampling(self.sampling.launches(choice), 2, &mut calls);
        let mut turn = lock(&program.turn);
        match token {
            Some(token) => program.write(recording.memory.tokens, &[token]),
            None if *turn == self.number => {}
            None => {
                program.token_staging.give(staging);
                return Ok(false);
            }
        }
        if *turn != self.number {
            program.write(recording.memory.wanted, &[0u32]);
        }
        program.write_steps(&[one, run, one], 1);
        if let Some(draw) = Sampling::draw_bytes(choice) {
            program.write(self.sampling.draw, &draw);
        }
        let mut commands = device.commands();
        let tensors = slot.pool.bindings(&program)?;
        let sessions = [StateBindings { caches: state.bindings(), tensors }];
        let launches = Launches { calls: &calls, ready: &program.ready, sessions: &sessions };
        commands.launch(&launches, None);
        commands.fetch(program.buffer(recording.memory.tokens), 0, &staging, 0, STAGING);
        let submission = commands.submit();
        *turn = self.number;
        drop((turn, pools));
        state.position += 1;
        state.parity ^= 1;
        self.under_way.push_back(Readback::new(submission, vec![(staging, STAGING)]));
        self.last = None;
        Ok(true)
    }
}

impl<A: Gpu> Ahead for GpuAhead<A> {
    fn can(&self, choice: &TokenChoice) -> bool {
        Sampling::can(choice)
    }

    fn submit<'a>(
        &'a mut self,
        token: Option<u32>,
        state: &'a mut dyn SessionState,
        choice: TokenChoice,
    ) -> crate::backend::executable::StepFuture<'a> {
        Box::pin(async move {
            self.program.device.check()?;
            let Some(state) = state.as_any_mut().downcast_mut::<GpuState<A>>() else {
                return Err(Error::ForeignSession);
            };
            if !state.belongs_to(&self.program) {
                return Err(Error::ForeignSession);
            }
            if self.try_submit(token, state, &choice)? {
                return Ok(());
            }
            // A step of another sequence came between.
            while !self.under_way.is_empty() {
                let token = self.wait().await?;
                self.read.push_back(token);
            }
            // Where the host must choose, the caller is going to undo this step, so any token will do.
            let token = self.last.unwrap_or(0);
            self.try_submit(Some(token), state, &choice).map(drop)
        })
    }

    fn next(&mut self) -> TokenFuture<'_> {
        Box::pin(async move {
            match self.read.pop_front() {
                Some(token) => Ok(token),
                None => self.wait().await,
            }
        })
    }

    fn under_way(&self) -> usize {
        self.read.len() + self.under_way.len()
    }
}
