//! A progress bar on terminals, for tasks of more than a second.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time before a bar appears.
const PATIENCE: Duration = Duration::from_secs(1);

/// Unit of a bar.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    /// Bytes, shown as MB or GB.
    Bytes,
    /// Tokens.
    Tokens,
    /// Rounds of a measurement.
    Rounds,
}

/// A bar on standard error that appears after a second and disappears when dropped.
pub(crate) struct Progress {
    what: String,
    unit: Unit,
    begun: Instant,
    bar: Option<ProgressBar>,
    enabled: bool,
}

impl Progress {
    /// Creates a bar that is not shown yet.
    pub(crate) fn new(what: impl Into<String>, unit: Unit) -> Self {
        let enabled = io::stderr().is_terminal();
        Self { what: what.into(), unit, begun: Instant::now(), bar: None, enabled }
    }

    /// Shows progress: `done` of `total`.
    pub(crate) fn set(&mut self, done: u64, total: u64) {
        if !self.enabled || (self.bar.is_none() && self.begun.elapsed() < PATIENCE) {
            return;
        }
        let (what, unit) = (&self.what, self.unit);
        let bar = self.bar.get_or_insert_with(|| {
            let template = match unit {
                Unit::Bytes => "{msg} [{wide_bar}] {bytes} of {total_bytes}, {eta} left",
                Unit::Tokens => "{msg} [{wide_bar}] {pos} of {len} tokens, {eta} left",
                Unit::Rounds => "{msg} [{wide_bar}] {pos} of {len} rounds, {eta} left",
            };
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.with_message(what.clone())
        });
        bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
