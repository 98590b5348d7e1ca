//! [`DraftModel`]: a smaller model that drafts.

use super::Drafter;
use crate::Error;
use crate::model::Model;
use crate::session::{FIRST_VECTOR_ID, Session, Snapshot, common_prefix};
use crate::text::Tokenizer;

/// Drafts the tokens that a smaller model of the same vocabulary finds most probable.
pub struct DraftModel {
    session: Session,
    /// The session before its drafted tokens.
    sure: Option<Snapshot>,
}

impl DraftModel {
    /// Creates a drafter for `target`.
    ///
    /// # Errors
    /// [`Error::DraftVocabulary`] if the models' vocabularies differ in size; if there is not
    /// enough memory for a session.
    pub fn new(draft: &Model, target: &Model) -> Result<Self, Error> {
        if draft.vocab() != target.vocab() {
            return Err(Error::DraftVocabulary { draft: draft.vocab(), target: target.vocab() });
        }
        Ok(Self { session: draft.session()?, sure: None })
    }
}

/// Checks that the tokenizers of a draft model and of its target agree on every token.
///
/// # Errors
/// [`Error::DraftToken`] for the first token that differs.
pub fn check_tokenizers(draft: &Tokenizer, target: &Tokenizer) -> Result<(), Error> {
    let most = draft.largest_id().max(target.largest_id()).unwrap_or(0);
    for id in 0..=most {
        let (draft, target) = (draft.id_to_token(id), target.id_to_token(id));
        if draft != target {
            return Err(Error::DraftToken { id, draft, target });
        }
    }
    Ok(())
}

fn most_probable(logits: &[f32]) -> Option<u32> {
    let best = (0u32..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    best.map(|(id, _)| id)
}

impl Drafter for DraftModel {
    fn draft(&mut self, tokens: &[u32], most: usize) -> Result<Vec<u32>, Error> {
        // The draft model knows nothing of the target's vectors.
        if tokens.iter().any(|&id| id >= FIRST_VECTOR_ID) {
            return Ok(Vec::new());
        }
        if let Some(sure) = &self.sure {
            self.session.restore(sure)?;
        }
        // The tokens are those of another conversation, or of one that was rewound.
        if common_prefix(self.session.tokens(), tokens) < self.session.position() {
            self.session.reset()?;
        }
        let new = tokens.get(self.session.position()..).unwrap_or_default();
        if !new.is_empty() {
            self.session.feed(new)?;
        }
        self.sure = Some(self.session.snapshot()?);
        let mut guesses = Vec::new();
        while guesses.len() < most {
            let Some(next) = self.session.last_logits().and_then(most_probable) else { break };
            guesses.push(next);
            if guesses.len() < most {
                self.session.feed(&[next])?;
            }
        }
        Ok(guesses)
    }
}
