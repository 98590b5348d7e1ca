//! [`TokenList`]: the tokens and vectors that a session was fed.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use super::FIRST_VECTOR_ID;
use super::vectors::{self, Vector};
use crate::Error;
use crate::files::blake2s::{Blake2s, Digest};

/// Ids of tokens and vectors in order, readable as a slice. It keeps the vectors alive, without
/// which their ids would be meaningless.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenList {
    ids: Vec<u32>,
    /// One for each id of a vector, in order.
    vectors: Vec<Arc<Vector>>,
}

impl Deref for TokenList {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        &self.ids
    }
}

impl From<Vec<u32>> for TokenList {
    /// Tokens only.
    fn from(ids: Vec<u32>) -> Self {
        debug_assert!(!ids.iter().any(|&id| is_vector(id)), "a vector needs a hold");
        Self { ids, vectors: Vec::new() }
    }
}

impl TokenList {
    /// Rebuilds a sequence from `stored` ids, where vector ids count from [`FIRST_VECTOR_ID`] into
    /// `digests`. `None` if an index is out of range.
    ///
    /// # Errors
    /// If there are too many vectors.
    pub(crate) fn from_parts(stored: &[u32], digests: &[Digest]) -> Result<Option<Self>, Error> {
        let distinct = vectors::hold(digests)?;
        let (mut ids, mut vectors) = (stored.to_vec(), Vec::new());
        for id in ids.iter_mut().filter(|id| is_vector(**id)) {
            let Some(vector) = distinct.get((*id - FIRST_VECTOR_ID) as usize) else {
                return Ok(None);
            };
            *id = vector.id();
            vectors.push(vector.clone());
        }
        Ok(Some(Self { ids, vectors }))
    }

    /// The inverse of [`TokenList::from_parts`]. The result is the same for the same contents in every
    /// process.
    pub(crate) fn to_parts(&self) -> (Vec<u32>, Vec<Digest>) {
        let mut places = HashMap::new();
        let mut digests = Vec::new();
        for vector in &self.vectors {
            places.entry(vector.id()).or_insert_with(|| {
                digests.push(*vector.digest());
                FIRST_VECTOR_ID + (digests.len() - 1) as u32
            });
        }
        let ids = self.ids.iter().map(|id| places.get(id).copied().unwrap_or(*id)).collect();
        (ids, digests)
    }

    /// A hash of the sequence that is the same in every process.
    pub(crate) fn digest(&self) -> Digest {
        let (ids, digests) = self.to_parts();
        let mut hash = Blake2s::new();
        // Hashing the length keeps ids and digests apart.
        hash.write(&(ids.len() as u64).to_le_bytes());
        hash.write_words(&ids);
        hash.write_words(digests.as_flattened());
        hash.finish()
    }

    /// Appends a token.
    pub(crate) fn push(&mut self, token: u32) {
        debug_assert!(!is_vector(token), "a vector needs a hold");
        self.ids.push(token);
    }

    /// Removes the last token.
    pub(crate) fn pop(&mut self) {
        self.truncate(self.ids.len().saturating_sub(1));
    }

    /// Appends tokens, or `vectors` in their place if there are any.
    pub(crate) fn extend(&mut self, tokens: &[u32], vectors: &[Arc<Vector>]) {
        if vectors.is_empty() {
            debug_assert!(!tokens.iter().any(|&id| is_vector(id)), "a vector needs a hold");
            self.ids.extend_from_slice(tokens);
        } else {
            self.ids.extend(vectors.iter().map(|vector| vector.id()));
            self.vectors.extend_from_slice(vectors);
        }
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        let cut = self.ids.get(len..).unwrap_or_default();
        let gone = cut.iter().filter(|&&id| is_vector(id)).count();
        self.vectors.truncate(self.vectors.len() - gone);
        self.ids.truncate(len);
    }

    pub(crate) fn clear(&mut self) {
        self.ids.clear();
        self.vectors.clear();
    }

    /// The distinct vectors.
    pub(crate) fn distinct_vectors(&self) -> Vec<Arc<Vector>> {
        let mut vectors = self.vectors.clone();
        vectors.sort_unstable_by_key(|vector| vector.id());
        vectors.dedup_by_key(|vector| vector.id());
        vectors
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.ids) + size_of_val(&*self.vectors)
    }
}

fn is_vector(id: u32) -> bool {
    id >= FIRST_VECTOR_ID
}

#[cfg(test)]
mod tests {
    use super::super::vectors::{digest_of, hold};
    use super::*;

    fn sample() -> TokenList {
        let digests = [7.5, 8.5, 7.5].map(|x| digest_of(&[x]));
        let mut list = TokenList::default();
        list.extend(&[1, 2], &[]);
        let vectors = hold(&digests).unwrap();
        list.extend(&[0; 3], &vectors);
        list.push(3);
        list
    }

    #[test]
    fn parts_say_all_of_it() {
        let list = sample();
        let (ids, digests) = list.to_parts();
        assert_eq!(ids, [1, 2, FIRST_VECTOR_ID, FIRST_VECTOR_ID + 1, FIRST_VECTOR_ID, 3]);
        assert_eq!(digests, [7.5, 8.5].map(|x| digest_of(&[x])));
        let again = TokenList::from_parts(&ids, &digests).unwrap().unwrap();
        assert_eq!((&*again, again.digest()), (&*list, list.digest()));
        assert!(TokenList::from_parts(&ids, &digests[..1]).unwrap().is_none());
    }

    #[test]
    fn vectors_are_held_as_long_as_their_ids_are_there() {
        let mut list = sample();
        let count = |list: &TokenList| (list.len(), list.vectors.len());
        assert_eq!((count(&list), list.distinct_vectors().len()), ((6, 3), 2));
        list.pop();
        assert_eq!(count(&list), (5, 3));
        list.truncate(9);
        list.truncate(4);
        assert_eq!((count(&list), list.distinct_vectors().len()), ((4, 2), 2));
        list.pop();
        list.truncate(1);
        assert_eq!(count(&list), (1, 0));
        list.clear();
        list.pop();
        assert!(list.is_empty());
    }

    #[test]
    fn what_differs_has_another_digest() {
        let digest = |ids: &[u32], floats: &[f32]| {
            let mut list = TokenList::default();
            list.extend(ids, &[]);
            let digests: Vec<Digest> = floats.iter().map(|&x| digest_of(&[x])).collect();
            list.extend(&[], &hold(&digests).unwrap());
            list.digest()
        };
        let all = [
            digest(&[], &[]),
            digest(&[1], &[]),
            digest(&[1, 2], &[]),
            digest(&[1], &[3.25]),
            digest(&[1], &[3.5]),
            digest(&[1], &[3.25, 3.25]),
            digest(&[1], &[3.25, 3.5]),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|other| other != one), "{i}");
        }
    }
}
