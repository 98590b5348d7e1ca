//! [`Events`]: an answer as an iterator.

use super::{Answer, AnswerError, Event};
use crate::{PrefixCache, Session};

/// The events of an answer, from [`Answer::events`]. Blocks. Ends after [`Event::End`] or an error.
/// If it is dropped earlier, the session stays usable and the answer can go on.
pub struct Events<'a, 'd> {
    answer: &'a mut Answer<'d>,
    session: &'a mut Session,
    cache: Option<&'a mut PrefixCache>,
    failed: bool,
}

impl<'a, 'd> Events<'a, 'd> {
    pub(super) fn new(
        answer: &'a mut Answer<'d>,
        session: &'a mut Session,
        cache: Option<&'a mut PrefixCache>,
    ) -> Self {
        Self { answer, session, cache, failed: false }
    }

    /// Ends the answer here: the next event is the end.
    ///
    /// # Errors
    /// Those of [`Answer::stop`].
    pub fn stop(&mut self) -> Result<(), AnswerError> {
        self.answer.stop()
    }

    /// The answer.
    pub fn answer(&self) -> &Answer<'d> {
        self.answer
    }
}

impl Iterator for Events<'_, '_> {
    type Item = Result<Event, AnswerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let event = self.answer.next(self.session, self.cache.as_deref_mut());
        self.failed = event.is_err();
        event.transpose()
    }
}

impl Drop for Events<'_, '_> {
    fn drop(&mut self) {
        // On failure the session stays poisoned, as it is while steps are in flight.
        let _ = self.answer.pause(self.session);
    }
}
