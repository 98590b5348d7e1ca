//! A model on a backend from outside the library.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kinglet::backend::{BackendRun, Executable, SessionState, StepFuture, compile};
use kinglet::{Error, Model};
use kinglet_tests::case_named;

use super::cpu;

/// The processor's executable with its tokens counted.
struct Counting {
    inner: Box<dyn Executable>,
    tokens: Arc<AtomicUsize>,
}

impl Executable for Counting {
    fn new_state(&self) -> Result<Box<dyn SessionState>, Error> {
        self.inner.new_state()
    }

    fn step<'a>(&'a self, runs: Vec<BackendRun<'a>>) -> StepFuture<'a> {
        let tokens = runs.iter().map(|run| run.tokens.len()).sum();
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        self.inner.step(runs)
    }

    fn describe(&self) -> String {
        format!("counting, {}", self.inner.describe())
    }

    fn threads(&self) -> usize {
        self.inner.threads()
    }

    fn max_step_tokens(&self) -> usize {
        self.inner.max_step_tokens()
    }
}

#[test]
fn a_model_runs_on_any_executable() {
    let case = case_named("granitemoehybrid/mixed");
    let options = cpu().threads(1);
    let tokens = Arc::new(AtomicUsize::new(0));
    let model = Model::open_with(&case.folder, &options, |plan, weights| {
        let inner = compile(plan.clone(), weights, &options)?;
        Ok(Box::new(Counting { inner, tokens: tokens.clone() }))
    })
    .unwrap();
    let expected = Model::open(&case.folder, &options).unwrap();
    let (mut ours, mut theirs) = (model.session().unwrap(), expected.session().unwrap());
    assert_eq!(ours.feed(&case.tokens).unwrap(), theirs.feed(&case.tokens).unwrap());
    assert_eq!(tokens.load(Ordering::Relaxed), case.tokens.len());
    assert!(model.describe().starts_with("counting, "), "{}", model.describe());

    let refused = Model::open_with(&case.folder, &options, |_, _| Err(Error::Cancelled));
    assert!(matches!(refused, Err(Error::Cancelled)));
}
