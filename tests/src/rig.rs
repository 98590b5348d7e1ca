//! A test bench for one op: a plan made by hand that feeds chosen rows to the op and reads its output back.
//!
//! ```text
//! embed, embed, ...   token i puts row i of each table into its buffer: the op's inputs
//! the op              under test
//! head                an identity matrix, so that the "logits" are the op's output buffer
//! ```
//!
//! Each [`Rig`] is compiled for every [`Target`] and run with every way to cut its sessions into
//! steps; each result is compared with [`crate::reference`]'s for single sessions. The rig itself
//! knows no backend.

use std::ops::Range;
use std::sync::Arc;

use kinglet::backend::{BackendRun, Executable, Logits, PortableState, SessionState, compile};
use kinglet::models::{self as spec, Conv, Matrix, ModelSpec, Norm, TensorSpec};
use kinglet::op::{AttentionSpan, BufferId, Embed, Head, Op, Slice, StateId};
use kinglet::plan::{Buffer, Plan, State, StateFormat, StateKind};
use kinglet::weights::Weights;

use crate::random::Random;
use crate::reference::{Pass, Rows, run};
use crate::schedule::Schedule;
use crate::target::{Target, targets};
use crate::tensors::{Stored, Tensors};

/// A plan under construction.
pub struct Rig {
    name: String,
    /// Storage type of the following tensors.
    pub stored: Stored,
    /// Source of the tensors and inputs; a test may use it too.
    pub random: Random,
    lengths: Vec<usize>,
    distinct: usize,
    bound: f64,
    position: usize,
    tensors: Tensors,
    count: usize,
    inputs: Vec<(BufferId, Vec<f64>)>,
    buffers: Vec<Buffer>,
    states: Vec<State>,
    ops: Vec<Op>,
}

/// A buffer that is filled from a table.
#[derive(Clone, Debug)]
pub struct Input {
    /// Where the op finds it.
    pub buffer: BufferId,
    /// Its contents for each token of all sessions, one session after another.
    pub rows: Vec<Vec<f64>>,
}

impl Rig {
    /// Creates a rig with a session of each of these lengths. Weights are stored as `stored`;
    /// `name` seeds all randomness.
    pub fn new(name: impl Into<String>, stored: Stored, lengths: &[usize]) -> Self {
        let name = format!("{}, {}, sessions {lengths:?}", name.into(), stored.name());
        Self {
            random: Random::named(&name),
            name,
            stored,
            lengths: lengths.to_vec(),
            distinct: lengths.iter().sum(),
            bound: 1.0,
            position: 0,
            tensors: Tensors::default(),
            count: 0,
            inputs: Vec::new(),
            buffers: Vec::new(),
            states: Vec::new(),
            ops: Vec::new(),
        }
    }

    /// Multiplies the targets' bounds by `factor`, for ops that sum over a sequence or divide by small numbers.
    pub fn bound(mut self, factor: f64) -> Self {
        self.bound = factor;
        self
    }

    /// Lets sessions begin at `position` with states of zeros. The reference begins at 0.
    pub fn starting_at(mut self, position: usize) -> Self {
        self.position = position;
        self
    }

    /// Draws only `distinct` rows of inputs; further tokens repeat them.
    pub fn distinct(mut self, distinct: usize) -> Self {
        self.distinct = distinct.min(self.distinct);
        self
    }

    /// Tokens of all sessions.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Token ids of all sessions.
    fn ids(&self) -> Vec<u32> {
        (0..self.tokens()).map(|i| (i % self.distinct) as u32).collect()
    }

    /// A buffer whose elements are drawn by `draw`.
    pub fn input(&mut self, width: usize, mut draw: impl FnMut(&mut Random) -> f64) -> Input {
        let random = &mut self.random;
        let mut row = || (0..width).map(|_| draw(random)).collect();
        let rows = (0..self.distinct).map(|_| row()).collect();
        self.input_rows(rows)
    }

    /// A buffer with these rows, one for each distinct token.
    pub fn input_rows(&mut self, mut rows: Vec<Vec<f64>>) -> Input {
        assert_eq!(rows.len(), self.distinct);
        rows.iter_mut().flatten().for_each(|x| *x = Stored::F32.round(*x));
        let buffer = self.buffer("input", rows[0].len());
        self.inputs.push((buffer, rows.concat()));
        let rows = self.ids().iter().map(|&id| rows[id as usize].clone()).collect();
        Input { buffer, rows }
    }

    /// A buffer in its own slot.
    pub fn buffer(&mut self, name: &'static str, width: usize) -> BufferId {
        let slot = self.buffers.len();
        self.buffers.push(Buffer { name, width, slot });
        BufferId(slot)
    }

    /// All columns of a buffer.
    pub fn whole(&self, buffer: BufferId) -> Slice {
        Slice { buffer, offset: 0, width: self.buffers[buffer.0].width }
    }

    fn fresh(&mut self, what: &str) -> String {
        self.count += 1;
        format!("{what}.{}", self.count)
    }

    /// A tensor whose elements are drawn by `draw`.
    pub fn tensor(
        &mut self,
        shape: &[usize],
        mut draw: impl FnMut(&mut Random) -> f64,
    ) -> TensorSpec {
        let (name, elements) = (self.fresh("tensor"), shape.iter().product());
        let values: Vec<f64> =
            (0..elements).map(|_| self.stored.round(draw(&mut self.random))).collect();
        self.tensors.push(&name, shape, self.stored, &values);
        TensorSpec::new(name, shape)
    }

    /// A matrix that preserves the magnitude of its input. In half of the cases it is part of a
    /// larger tensor.
    pub fn matrix(&mut self, rows: usize, cols: usize) -> Matrix {
        let fused = self.random.between(0, 1) == 1;
        let (before, after) =
            if fused { (self.random.between(0, 5), self.random.between(0, 5)) } else { (0, 0) };
        let size = (cols as f64).powf(-0.5);
        let tensor = self.tensor(&[before + rows + after, cols], |random| size * random.normal());
        Matrix { tensor, row_offset: before, rows, cols }
    }

    /// A matrix, with a bias if there should be one: of its rows or of all rows of its tensor. One in three has a factor on the result.
    pub fn linear(&mut self, rows: usize, cols: usize, bias: bool) -> spec::Linear {
        let weight = self.matrix(rows, cols);
        let whole = self.count.is_multiple_of(2);
        let elements = if whole { weight.tensor.shape[0] } else { rows };
        let bias = bias.then(|| self.tensor(&[elements], Random::normal));
        let scale = if self.count.is_multiple_of(3) { 0.6 } else { 1.0 };
        spec::Linear { weight, bias, scale }
    }

    /// A norm with weights around 1, in half of all cases stored as their distance from it. One in three has a factor on the result.
    pub fn norm(&mut self, width: usize, eps: f32, bias: bool) -> Norm {
        let offset = (self.count % 2) as f64;
        let weight = self.tensor(&[width], |random| 1.0 - offset + 0.3 * random.normal());
        let bias = bias.then(|| self.tensor(&[width], Random::normal));
        let scale = if self.count.is_multiple_of(3) { 0.7 } else { 1.0 };
        Norm { weight, bias, eps, offset: offset as f32, scale, centred: false }
    }

    /// A depthwise convolution.
    pub fn conv(&mut self, channels: usize, kernel: usize, bias: bool) -> Conv {
        let weight = self.tensor(&[channels, 1, kernel], Random::normal);
        let bias = bias.then(|| self.tensor(&[channels], Random::normal));
        Conv { weight, bias, channels, kernel }
    }

    /// A state tensor.
    pub fn state(&mut self, shape: &[usize]) -> StateId {
        self.push_state(StateKind::Tensor { shape: shape.to_vec() })
    }

    /// A key/value cache; values of no width are elements of the keys.
    pub fn cache(
        &mut self,
        kv_heads: usize,
        [key_dim, value_dim]: [usize; 2],
        span: AttentionSpan,
    ) -> StateId {
        let AttentionSpan { window, sinks } = span;
        self.push_state(StateKind::KeyValue { kv_heads, key_dim, value_dim, window, sinks })
    }

    fn push_state(&mut self, kind: StateKind) -> StateId {
        let name = format!("layer.0.state{}", self.states.len());
        self.states.push(State { name, kind, format: StateFormat::F32, exact: false });
        StateId(self.states.len() - 1)
    }

    /// Adds an op.
    pub fn op(&mut self, op: Op) {
        self.ops.push(op);
    }

    /// Minimum number of embedding rows if the output to read is `width` wide.
    pub fn vocab(&self, width: usize) -> usize {
        self.distinct.max(width)
    }

    /// A head that copies the buffer. Rows of its matrix beyond the buffer's width are zero.
    fn identity(&mut self, output: BufferId) -> Head {
        let width = self.buffers[output.0].width;
        let vocab = self.vocab(width);
        let element = |i: usize| if i / width == i % width { 1.0 } else { 0.0 };
        let values: Vec<f64> = (0..vocab * width).map(element).collect();
        self.tensors.push("identity", &[vocab, width], Stored::F32, &values);
        let linear = Matrix::whole("identity", vocab, width).into();
        Head { input: output, norm: None, linear, scale: 1.0, soft_cap: None }
    }

    /// The tensors so far.
    pub fn weights(&self) -> Weights {
        self.tensors.weights()
    }

    /// The plan that ends in `head`, with its weights.
    pub fn finish(mut self, head: Head) -> Bench {
        let vocab = head.linear.weight.rows;
        let mut ops = Vec::new();
        for (i, (buffer, mut values)) in std::mem::take(&mut self.inputs).into_iter().enumerate() {
            let width = self.buffers[buffer.0].width;
            // Rows for ids that occur in no session.
            values.resize(vocab * width, 0.0);
            let name = format!("table.{i}");
            self.tensors.push(&name, &[vocab, width], Stored::F32, &values);
            let table = Matrix::whole(name, vocab, width);
            ops.push(Op::Embed(Embed { table: Some(table), scale: 1.0, output: buffer }));
        }
        let ids = self.ids();
        assert!(ids.iter().all(|&id| (id as usize) < vocab), "more inputs than rows of tables");
        ops.append(&mut self.ops);
        let plan = Plan {
            hidden: self.buffers[head.input.0].width,
            vocab,
            ops: ops.into_iter().chain([Op::Head(head)]).collect(),
            slots: self.buffers.iter().map(|buffer| buffer.width).collect(),
            buffers: self.buffers,
            states: self.states,
        };
        Bench {
            name: self.name,
            plan: Arc::new(plan),
            weights: self.tensors.weights(),
            lengths: self.lengths,
            ids,
            bound: self.bound,
            position: self.position,
            copied: None,
        }
    }

    /// Compares the buffer `output` with the reference on every target, for several ways to cut the
    /// sessions into steps. Each element must satisfy `|got - expected| <= bound * (rms +
    /// |expected|)`, where `rms` is over all expected elements.
    pub fn check(mut self, output: BufferId) {
        let head = self.identity(output);
        Bench { copied: Some(output), ..self.finish(head) }.check();
    }
}

/// A plan with weights, and the sessions that run on it.
pub struct Bench {
    name: String,
    plan: Arc<Plan>,
    weights: Weights,
    lengths: Vec<usize>,
    ids: Vec<u32>,
    bound: f64,
    /// Where sessions begin.
    position: usize,
    /// The buffer that the head copies, if it does nothing else.
    copied: Option<BufferId>,
}

impl Bench {
    /// A whole model, on sessions of these lengths; the targets' bounds are multiplied by `bound`.
    pub fn of_model(
        name: impl Into<String>,
        spec: &ModelSpec,
        weights: Weights,
        lengths: &[usize],
        bound: f64,
    ) -> Self {
        let name = format!("{}, sessions {lengths:?}", name.into());
        let mut random = Random::named(&name);
        let tokens: usize = lengths.iter().sum();
        let ids = (0..tokens).map(|_| random.between(0, spec.vocab - 1) as u32).collect();
        let (plan, lengths) = (Arc::new(Plan::new(spec)), lengths.to_vec());
        Self { name, plan, weights, lengths, ids, bound, position: 0, copied: None }
    }

    /// The reference's result for each session, `[sessions][T, vocab]`, or `[T, width]` of a copied
    /// buffer.
    pub fn expected(&self) -> Vec<Rows> {
        let one = |session: Range<usize>| {
            let tokens = &self.ids[session];
            let Some(copied) = self.copied else { return run(&self.plan, &self.weights, tokens) };
            let mut pass = Pass::new(&self.plan, &self.weights, tokens);
            let (_head, ops) = self.plan.ops.split_last().expect("a plan ends in a head");
            ops.iter().for_each(|op| pass.op(op));
            pass.buffers.swap_remove(copied.0)
        };
        self.sessions().into_iter().map(one).collect()
    }

    /// Rows of each session in the inputs.
    pub fn sessions(&self) -> Vec<Range<usize>> {
        let starts = self.lengths.iter().scan(0, |start, length| {
            let session = *start..*start + length;
            *start = session.end;
            Some(session)
        });
        starts.collect()
    }

    /// Tokens of each session.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The plan, ready to run on `target`.
    pub fn compile(&self, target: &Target) -> Box<dyn Executable> {
        compile(self.plan.clone(), &self.weights, &target.options)
            .unwrap_or_else(|e| panic!("{} on {}: {e}", self.name, target.name))
    }

    /// The state of a session that begins.
    fn new_state(&self, executable: &dyn Executable) -> Box<dyn SessionState> {
        let mut state = executable.new_state().unwrap();
        for (id, tensor) in self.plan.states.iter().enumerate().filter(|_| self.position > 0) {
            let zeros = PortableState::Tensor(vec![0.0; tensor.elements(0)]);
            state.import(self.position, StateId(id), zeros).unwrap();
        }
        state
    }

    /// The final logits of each session, `[rows, vocab]`; `wanted` selects which are computed, by
    /// session and by its tokens in the step.
    pub fn run(
        &self,
        executable: &dyn Executable,
        schedule: &Schedule,
        wanted: impl Fn(usize, Range<usize>) -> Logits,
    ) -> Vec<Vec<f32>> {
        let sessions = self.sessions();
        let new = |_| self.new_state(executable);
        let mut states: Vec<Box<dyn SessionState>> = sessions.iter().map(new).collect();
        let mut logits = vec![Vec::new(); sessions.len()];
        let mut done = vec![0; sessions.len()];
        for step in &schedule.steps {
            let tokens: usize = step.iter().map(|(_, tokens)| tokens).sum();
            assert!(tokens <= executable.max_step_tokens(), "the test asks for too long a step");
            let mut free: Vec<_> = states.iter_mut().zip(&mut logits).map(Some).collect();
            let mut runs = Vec::new();
            for &(session, tokens) in step {
                let (state, logits) = free[session].take().expect("a session twice in a step");
                let start = done[session];
                done[session] += tokens;
                let wanted = wanted(session, start..start + tokens);
                let tokens = &self.ids[sessions[session].start + start..][..tokens];
                runs.push(BackendRun {
                    tokens,
                    vectors: None,
                    state: &mut **state,
                    wanted,
                    logits,
                    stream: None,
                });
            }
            pollster::block_on(executable.step(runs))
                .unwrap_or_else(|e| panic!("{}, {}: {e}", self.name, schedule.name));
        }
        assert_eq!(done, self.lengths, "the schedule must take every token");
        logits
    }

    /// See [`Rig::check`].
    pub fn check(&self) {
        let expected = self.expected();
        let rms = rms(&expected);
        let mut random = Random::named(&self.name);
        let (mut failures, mut worst_of_all) = (Vec::new(), 0.0f64);
        let few = std::env::var("KINGLET_TEST_ONLY").is_ok_and(|only| only == "subgroups");
        // There are many of these, and the software adapter is slow with wide subgroups.
        if few && !self.has_products() && !random.clone().between(0, 3).is_multiple_of(4) {
            return;
        }
        for (index, target) in targets().iter().enumerate() {
            if target.products_only && !self.has_products() {
                continue;
            }
            let executable = self.compile(target);
            let mut schedules = Schedule::several(&self.lengths, index, &mut random);
            schedules.truncate(if few { 2 } else { usize::MAX });
            for schedule in schedules {
                let got = self.run(&*executable, &schedule, |_, _| Logits::All);
                let (error, place) = self.worst(&got, &expected, rms);
                worst_of_all = worst_of_all.max(error);
                // A NaN fails as well.
                if error.is_nan() || error > target.bound * self.bound {
                    let (target, schedule) = (&target.name, &schedule.name);
                    failures.push(format!("{target}, {schedule}: {error:.2e} {place}"));
                }
            }
        }
        println!("{}: {worst_of_all:.1e}", self.name);
        assert!(
            failures.is_empty(),
            "{}: {} failures\n{}",
            self.name,
            failures.len(),
            failures.iter().take(6).cloned().collect::<Vec<_>>().join("\n")
        );
    }

    /// Whether the tested op multiplies with weights, apart from embedding and head.
    fn has_products(&self) -> bool {
        let mut tested =
            self.plan.ops.iter().filter(|op| !matches!(op, Op::Embed(_) | Op::Head(_)));
        let products = |op: &Op| {
            matches!(
                op,
                Op::Linear(_)
                    | Op::GatedLinear(_)
                    | Op::HeadLinear(_)
                    | Op::MoeUp(_)
                    | Op::MoeDown(_)
            )
        };
        tested.clone().next().is_none() || tested.any(products)
    }

    /// The largest `|got - expected| / (rms + |expected|)` and its place; NaN if `got` contains
    /// one.
    pub fn worst(&self, got: &[Vec<f32>], expected: &[Vec<Vec<f64>>], rms: f64) -> (f64, String) {
        let (mut worst, mut place) = (0.0f64, String::new());
        for (session, (got, expected)) in got.iter().zip(expected).enumerate() {
            assert_eq!(got.len(), expected.len() * self.plan.vocab, "rows of logits");
            for (token, (got, expected)) in got.chunks(self.plan.vocab).zip(expected).enumerate() {
                // Beyond the buffer's width the head's rows are zero.
                let expected = expected.iter().copied().chain(std::iter::repeat(0.0));
                for (column, (&got, expected)) in got.iter().zip(expected).enumerate() {
                    let difference = (f64::from(got) - expected).abs();
                    let error =
                        if difference == 0.0 { 0.0 } else { difference / (rms + expected.abs()) };
                    if error.is_nan() || error > worst {
                        worst = error;
                        place = format!(
                            "(session {session} token {token} column {column}: {got}, not {expected})"
                        );
                    }
                    if error.is_nan() {
                        return (worst, place);
                    }
                }
            }
        }
        (worst, place)
    }
}

/// Root of the mean square.
pub fn rms(rows: &[Vec<Vec<f64>>]) -> f64 {
    let count: usize = rows.iter().flatten().map(Vec::len).sum();
    let sum: f64 = rows.iter().flatten().flatten().map(|x| x * x).sum();
    (sum / count.max(1) as f64).sqrt()
}
