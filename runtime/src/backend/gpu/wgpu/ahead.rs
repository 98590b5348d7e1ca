//! Decoding ahead of the host: steps whose token the step before has chosen on the device, submitted while the host still reads
//! the tokens of earlier ones.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use super::program::{Program, Recorder};
use super::readback::Readback;
use super::sample::Sampling;
use super::state::WgpuState;
use crate::Error;
use crate::backend::executable::{Ahead, SessionState, TokenChoice, TokenFuture};

/// What stands for no token.
const ABSENT: u32 = u32::MAX;
/// Bytes of a token's staging buffer.
const STAGING: u64 = 16;

/// Numbers of the sequences that decode ahead; 0 is none of them.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Steps of one sequence that are under way.
pub(super) struct WgpuAhead {
    program: Arc<Program>,
    sampling: Arc<Sampling>,
    /// Who it is where steps of several take turns.
    number: u64,
    under_way: VecDeque<Readback>,
    /// Tokens that were read before they were asked for.
    read: VecDeque<Option<u32>>,
    /// The token that the last step has chosen, if the host knows it.
    last: Option<u32>,
}

impl WgpuAhead {
    pub(super) fn new(program: Arc<Program>, sampling: Arc<Sampling>) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (under_way, read) = (VecDeque::new(), VecDeque::new());
        Self { program, sampling, number, under_way, read, last: None }
    }

    /// Waits for the oldest step that is under way.
    async fn wait(&mut self) -> Result<Option<u32>, Error> {
        let Some(readback) = self.under_way.pop_front() else {
            return Err(self.program.device.fault("no step is under way"));
        };
        let mut token = ABSENT;
        readback
            .read(&self.program.device, &self.program.spare_tokens, |words: &[u32]| {
                token = words.first().copied().unwrap_or(ABSENT);
            })
            .await?;
        let token = Some(token).filter(|&token| (token as usize) < self.program.plan.vocab);
        if self.under_way.is_empty() {
            self.last = token;
        }
        Ok(token)
    }

    /// Records and submits a step. False, with nothing done, where the device has taken another step since, so that the token must
    /// come from the host.
    fn try_submit(
        &mut self,
        token: Option<u32>,
        state: &mut WgpuState,
        choice: &TokenChoice,
    ) -> Result<bool, Error> {
        let program = self.program.clone();
        let device = &program.device;
        state.prepare(1)?;
        let staging = program.spare_tokens.take(device, STAGING)?;
        let steps = [[0, 1, 0, 0], [0, 1, state.position as u32, state.parity], [0, 1, 0, 0]];
        let queue = &device.queue;
        let mut turn = program.recording.lock().unwrap_or_else(PoisonError::into_inner);
        match token {
            Some(token) => queue.write_buffer(&program.memory.tokens, 0, &token.to_le_bytes()),
            None if *turn == self.number => {}
            None => {
                program.spare_tokens.give(staging);
                return Ok(false);
            }
        }
        if *turn != self.number {
            queue.write_buffer(&program.memory.wanted, 0, &0u32.to_le_bytes());
        }
        program.write_steps(&steps, 1);
        if let Some(draw) = Sampling::draw_bytes(choice) {
            queue.write_buffer(&self.sampling.draw, 0, &draw);
        }
        let mut encoder = device.device.create_command_encoder(&Default::default());
        let mut recorder = Recorder::new(&mut encoder, None);
        program.record_step(&mut recorder, &[(&*state, 1)], 1, false);
        program.record_logits(&mut recorder, 2, 1, self.sampling.dispatches(choice));
        drop(recorder);
        let tokens = &program.memory.tokens;
        encoder.copy_buffer_to_buffer(tokens, 0, &staging, 0, Some(STAGING));
        let submission = queue.submit([encoder.finish()]);
        *turn = self.number;
        drop(turn);
        state.position += 1;
        state.parity ^= 1;
        self.under_way.push_back(Readback::new(submission, vec![(staging, STAGING)]));
        self.last = None;
        Ok(true)
    }
}

impl Ahead for WgpuAhead {
    fn can(&self, choice: &TokenChoice) -> bool {
        self.sampling.can(choice)
    }

    fn submit<'a>(
        &'a mut self,
        token: Option<u32>,
        state: &'a mut dyn SessionState,
        choice: TokenChoice,
    ) -> crate::backend::executable::StepFuture<'a> {
        Box::pin(async move {
            self.program.device.check()?;
            let Some(state) = state.as_any_mut().downcast_mut::<WgpuState>() else {
                return Err(Error::ForeignSession);
            };
            if !state.belongs_to(&self.program) {
                return Err(Error::ForeignSession);
            }
            if self.try_submit(token, state, &choice)? {
                return Ok(());
            }
            // Another sequence's step came between.
            while !self.under_way.is_empty() {
                let token = self.wait().await?;
                self.read.push_back(token);
            }
            // Where the host must choose, a step of any token will do: it is going to be undone.
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
