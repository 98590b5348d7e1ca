//! Quantization by calibration: error feedback with the second moments of each matrix's inputs.
//!
//! [`Calibration`] runs the full-precision model over a text and sums `x x^T` for the input `x` of
//! every projection; an expert's tokens are weighted by the square of their router weight. As a
//! [`Method`] it encodes each matrix with [`Feedback`]: the later columns compensate the error of a
//! column, as far as their inputs are correlated. A table that no projection reads is searched for
//! the least error of its weights.
//!
//! The moments of a whole model can be larger than the model. They are gathered for as many inputs
//! at a time as [`CalibrationOptions::memory`] allows, in the order in which matrices are encoded,
//! with another pass over the text for each part. The model stays mapped meanwhile.

mod sites;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use kinglet_quant::{
    EncodeError, Encoder, Feedback, FeedbackError, Hessian, Quantized, Refinement, RowMut,
};

use crate::backend::cpu::CpuExecutable;
use crate::backend::cpu::observe::{Moments, Observer, Site};
use crate::offline::eval::TextTokens;
use crate::offline::quantize::{
    EachRow, Job, Method, Piece, QuantizeError, RowEncoder, TargetTensor,
};
use crate::{Error, Model, ModelOptions};
use sites::Reads;

/// Inputs to keep when the next ones are gathered: slower threads may still ask for them.
const KEPT: usize = 4;
/// Added to the diagonal of the moments, relative to its mean. Raised tenfold, up to 1, if the
/// inputs are too correlated.
const DAMPING: f64 = 0.01;

/// Options for calibrating a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalibrationOptions {
    /// Tokens per window. Each window is read from an empty state.
    pub context: usize,
    /// Most tokens of the text to use.
    pub tokens: usize,
    /// Most bytes of moments held at a time. Those of one layer are held even if larger.
    pub memory: u64,
    /// How often the chosen codes and scales are refined, each given all others of its row.
    pub sweeps: usize,
}

impl Default for CalibrationOptions {
    fn default() -> Self {
        Self { context: 512, tokens: 1 << 17, memory: 2 << 30, sweeps: 2 }
    }
}

/// Called with the tokens done and the total of a pass over the text; `false` stops.
pub type KeepGoing<'a> = dyn FnMut(u64, u64) -> bool + Send + 'a;

/// The second moments of a model's inputs on a text.
pub struct Calibration<'a> {
    model: Model,
    executable: CpuExecutable,
    options: CalibrationOptions,
    windows: Vec<Vec<u32>>,
    reads: HashMap<(String, usize), Reads>,
    /// Inputs with their width, in the order in which the job needs them.
    order: Vec<(Site, usize)>,
    gathered: Mutex<Gathered<'a>>,
}

struct Gathered<'a> {
    moments: BTreeMap<Site, Moments>,
    progress: Box<KeepGoing<'a>>,
    passes: usize,
}

impl<'a> Calibration<'a> {
    /// Creates a calibration of `model`, the checkpoint that `job` quantizes, on a text. `progress`
    /// is called while the text is read: in [`Calibration::gather`], and again from a thread of
    /// [`Job::write`] if the memory can't hold all inputs at once.
    ///
    /// # Errors
    /// If the text does not fill one window, an option is out of range, a token is not in the
    /// vocabulary, or a thread can't be started.
    pub fn new(
        model: &Model,
        job: &Job,
        text: &TextTokens,
        options: CalibrationOptions,
        progress: Box<KeepGoing<'a>>,
    ) -> Result<Self, Error> {
        let context = options.context;
        if !(1..=1 << 20).contains(&context) {
            let (name, value) = ("context", context.to_string());
            return Err(Error::Option { name, value, expected: "from 1 to 1048576" });
        }
        let vocab = model.vocab();
        if let Some(index) = text.tokens.iter().position(|&id| id as usize >= vocab) {
            let id = text.tokens.get(index).copied().unwrap_or_default();
            return Err(Error::TokenOutOfRange { id, index, vocab });
        }
        let tokens = text.tokens.get(..options.tokens).unwrap_or(&text.tokens);
        let windows: Vec<Vec<u32>> = tokens
            .chunks_exact(context)
            .map(|window| {
                let mut window = window.to_vec();
                if let (Some(begin), Some(first)) = (text.begin, window.first_mut()) {
                    *first = begin;
                }
                window
            })
            .collect();
        if windows.is_empty() {
            let tokens = tokens.len();
            return Err(QuantizeError::CalibrationText { tokens, context }.into());
        }
        let reads = sites::reads(model.plan());
        let mut order = Vec::new();
        let quantized = job.tensors().iter().filter(|tensor| tensor.format().is_some());
        for piece in quantized.flat_map(|tensor| &tensor.pieces) {
            let Some(found) = reads.get(&key(piece)) else { continue };
            for site in found.all.into_iter().chain([found.site]) {
                if order.iter().all(|(known, _)| *known != site) {
                    order.push((site, found.cols));
                }
            }
        }
        let compute = ModelOptions::new().threads(model.threads());
        let plan = std::sync::Arc::new(model.plan().clone());
        Ok(Self {
            executable: CpuExecutable::new(plan, model.weights(), &compute)?,
            model: model.clone(),
            options,
            windows,
            reads,
            order,
            gathered: Mutex::new(Gathered { moments: BTreeMap::new(), progress, passes: 0 }),
        })
    }

    /// Number of tokens read.
    pub fn tokens(&self) -> usize {
        self.windows.len() * self.options.context
    }

    /// Number of passes over the text so far.
    pub fn passes(&self) -> usize {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner).passes
    }

    /// Reads the text for the first inputs, which are all if the memory allows.
    ///
    /// # Errors
    /// [`QuantizeError::Cancelled`] if the progress callback returns false, and errors of the
    /// model.
    pub fn gather(&self) -> Result<(), Error> {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        self.pass(&mut gathered, 0)
    }

    /// Gathers the inputs from index `first` on.
    fn pass(&self, gathered: &mut Gathered<'_>, first: usize) -> Result<(), Error> {
        let wanted = self.order.get(first..).unwrap_or_default();
        let mut bytes = 0u64;
        let mut sites = Vec::new();
        for &(site, width) in wanted {
            let size = (width as u64).saturating_mul(width as u64).saturating_mul(4);
            // The input of a mixture's shared tokens is useful only together with those of its
            // experts.
            let apart = sites.last().is_some_and(|last: &Site| last.op != site.op);
            if apart && bytes.saturating_add(size) > self.options.memory {
                break;
            }
            bytes = bytes.saturating_add(size);
            sites.push(site);
        }
        let before: Vec<Site> =
            self.order[..first].iter().rev().take(KEPT).map(|(site, _)| *site).collect();
        gathered.moments.retain(|site, _| before.contains(site));
        let mut observer = Observer::new(self.model.plan(), self.model.weights(), sites)?;
        let total = self.tokens() as u64;
        for (index, window) in self.windows.iter().enumerate() {
            self.model.weights().check_unchanged()?;
            self.executable.observe(window, &mut observer)?;
            let done = (index + 1) * self.options.context;
            if !(gathered.progress)(done as u64, total) {
                return Err(QuantizeError::Cancelled.into());
            }
        }
        gathered.moments.append(&mut observer.into_moments());
        gathered.passes += 1;
        Ok(())
    }

    /// The moments of a matrix's input.
    fn hessian(&self, reads: &Reads) -> Result<Hessian, Error> {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        if !gathered.moments.contains_key(&reads.site) {
            let wanted = reads.all.unwrap_or(reads.site);
            let first = self.order.iter().position(|(site, _)| *site == wanted).unwrap_or(0);
            self.pass(&mut gathered, first)?;
        }
        let own = gathered.moments.get(&reads.site);
        let all = reads.all.and_then(|site| gathered.moments.get(&site));
        let failed = |error: FeedbackError| Error::Quantize(QuantizeError::Feedback(error));
        blend(reads.cols, own, all).map_err(failed)
    }
}

/// Blends an expert's moments with those of all tokens: with as many own tokens as inputs, half of
/// each.
fn blend(
    cols: usize,
    own: Option<&Moments>,
    all: Option<&Moments>,
) -> Result<Hessian, FeedbackError> {
    let (own, all) = (seen(own, cols), seen(all, cols));
    let mut sums = vec![0.0f64; cols * cols];
    let tokens = own.map_or(0, |(own, _)| own.tokens);
    let share = match (own, all) {
        (Some(_), Some(_)) => cols as f64 / (cols as f64 + tokens as f64),
        (None, Some(_)) => 1.0,
        _ => 0.0,
    };
    for (found, weight) in [(own, 1.0 - share), (all, share)] {
        let Some((moments, trace)) = found.filter(|_| weight > 0.0) else { continue };
        // Scale both to the same size: an expert's moments are smaller by the router's weights.
        let factor = weight / trace;
        sums.iter_mut().zip(&moments.sum).for_each(|(sum, x)| *sum += factor * f64::from(*x));
    }
    // The moments of all inputs help even if the expert saw no token.
    let known = own.or(all).is_some();
    Hessian::from_sums(cols, tokens.max(u64::from(known)), sums)
}

/// Moments of at least one token, with their trace.
fn seen(moments: Option<&Moments>, cols: usize) -> Option<(&Moments, f64)> {
    let moments = moments.filter(|moments| moments.tokens > 0 && moments.width == cols)?;
    let trace: f64 = moments.sum.iter().step_by(cols + 1).map(|&x| f64::from(x)).sum();
    (trace > 0.0).then_some((moments, trace))
}

fn key(piece: &Piece) -> (String, usize) {
    (piece.source.tensor.name.clone(), piece.source.row_offset)
}

impl Method for Calibration<'_> {
    fn name(&self) -> &str {
        "feedback"
    }

    fn prepare<'a>(
        &'a self,
        target: &TargetTensor,
        piece: &Piece,
        encoder: Encoder,
    ) -> Result<Box<dyn RowEncoder + 'a>, QuantizeError> {
        let Some(reads) = self.reads.get(&key(piece)) else {
            return Ok(Box::new(EachRow(move |weights: &[f32], out: &mut RowMut<'_>| {
                encoder.search_row(weights, None, out)
            })));
        };
        let failed = |problem: String| QuantizeError::Method {
            method: self.name().into(),
            tensor: target.name.clone(),
            problem,
        };
        let hessian = self.hessian(reads).map_err(|error| match error {
            Error::Quantize(error) => error,
            error => failed(error.to_string()),
        })?;
        let mut damping = DAMPING;
        loop {
            match Feedback::new(hessian.clone(), damping) {
                Ok(feedback) => {
                    let refinement = match self.options.sweeps {
                        0 => None,
                        _ => Some(Refinement::new(&hessian, damping)),
                    };
                    let refinement = refinement.transpose();
                    let refinement = refinement.map_err(|error| failed(error.to_string()))?;
                    let sweeps = self.options.sweeps;
                    return Ok(Box::new(FeedbackRows { feedback, refinement, sweeps, encoder }));
                }
                Err(FeedbackError::NotPositive { .. }) if damping < 1.0 => damping *= 10.0,
                Err(error) => return Err(failed(error.to_string())),
            }
        }
    }
}

struct FeedbackRows {
    feedback: Feedback,
    refinement: Option<Refinement>,
    sweeps: usize,
    encoder: Encoder,
}

impl RowEncoder for FeedbackRows {
    fn encode(&self, _: usize, weights: &[f32], out: &mut Quantized) -> Result<(), EncodeError> {
        let mut rows: Vec<RowMut<'_>> = out.rows_mut().collect();
        let fed_back = self.feedback.encode_rows(&self.encoder, weights, &mut rows);
        let refined = fed_back.and_then(|()| match &self.refinement {
            Some(refinement) => {
                refinement.refine_rows(&self.encoder, weights, &mut rows, self.sweeps)
            }
            None => Ok(()),
        });
        refined.map_err(|error| match error {
            FeedbackError::Encode(error) => error,
            // The Hessian has as many columns as the matrix, and the pipeline passes whole rows.
            FeedbackError::Length { part, found, needed } => {
                EncodeError::Length { part, found, needed }
            }
            other => {
                debug_assert!(false, "{other}");
                EncodeError::Memory { bytes: None }
            }
        })
    }
}
