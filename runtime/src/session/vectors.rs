//! Identities of the vectors that sessions are fed in place of tokens.
//!
//! Prefixes are compared by 32-bit ids, among which those of vectors are mixed with those of
//! tokens. A 31-bit hash as the id could give two vectors the same one: anyone who can choose the
//! image finds such a pair in a second, and the state of one would be reused for the other. So a
//! vector is identified by 256 bits of [BLAKE2s](crate::files::blake2s), and its id is a number
//! that the process assigns: the same for equal digests, different for different ones. Code that
//! compares ids (the tree of prefixes, rewinding, drafts) thereby compares digests. Files hold the
//! digests; an id in them means nothing elsewhere.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use super::FIRST_VECTOR_ID;
use crate::Error;
use crate::files::blake2s::{Blake2s, Digest};

/// A vector that a session, a snapshot or a cache entry still refers to. Its id is freed with the
/// last reference.
#[derive(Debug)]
pub(crate) struct Vector {
    id: u32,
    digest: Digest,
}

/// Approximate memory of one vector's identity, in bytes: itself, and its entries in [`Ids`].
pub(crate) const VECTOR_BYTES: usize = 128;

impl Vector {
    /// Its id, at least [`FIRST_VECTOR_ID`].
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Its identity across processes.
    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        ids().forget(self);
    }
}

/// The digest of a vector's bits; 0 and -0 differ.
pub(crate) fn digest_of(vector: &[f32]) -> Digest {
    let mut hash = Blake2s::new();
    hash.write_words(bytemuck::cast_slice(vector));
    hash.finish()
}

/// The vectors with these digests, for as long as the result is held.
///
/// # Errors
/// If 2^31 other vectors are held.
pub(crate) fn hold(digests: &[Digest]) -> Result<Vec<Arc<Vector>>, Error> {
    let mut held = Vec::with_capacity(digests.len());
    for digest in digests {
        // Lock per vector: dropping a vector on failure locks too.
        let vector = ids().hold(digest);
        held.push(vector.ok_or(Error::OutOfMemory {
            what: "identities of vectors",
            bytes: digests.len().saturating_mul(VECTOR_BYTES),
        })?);
    }
    Ok(held)
}

/// The ids of this process. All models share them, so that no id means different vectors to two
/// models.
fn ids() -> MutexGuard<'static, Ids> {
    static IDS: LazyLock<Mutex<Ids>> = LazyLock::new(Mutex::default);
    IDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ids of the vectors that are held.
#[derive(Default)]
struct Ids {
    by_digest: HashMap<Digest, Weak<Vector>>,
    used: HashSet<u32>,
    /// Where the search for the next free id starts, counted from [`FIRST_VECTOR_ID`]. It wraps
    /// around, so that an id that a caller keeps too long is reassigned only after 2^31 others.
    next: u32,
}

impl Ids {
    fn hold(&mut self, digest: &Digest) -> Option<Arc<Vector>> {
        // An entry that can't be upgraded is about to be removed.
        if let Some(vector) = self.by_digest.get(digest).and_then(Weak::upgrade) {
            return Some(vector);
        }
        if self.used.len() as u64 >= u64::from(FIRST_VECTOR_ID) {
            return None;
        }
        let id = loop {
            let id = FIRST_VECTOR_ID | self.next;
            self.next = (self.next + 1) & !FIRST_VECTOR_ID;
            if self.used.insert(id) {
                break id;
            }
        };
        let vector = Arc::new(Vector { id, digest: *digest });
        self.by_digest.insert(*digest, Arc::downgrade(&vector));
        Some(vector)
    }

    fn forget(&mut self, vector: &Vector) {
        self.used.remove(&vector.id);
        // The digest may be held again under another id by now.
        if self.by_digest.get(&vector.digest).is_some_and(|weak| weak.strong_count() == 0) {
            self.by_digest.remove(&vector.digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u32) -> Digest {
        digest_of(&[f32::from_bits(0x3f80_0000 + number), -0.5])
    }

    fn is_held(digest: &Digest) -> bool {
        ids().by_digest.contains_key(digest)
    }

    #[test]
    fn equal_vectors_have_one_id_as_long_as_one_is_held() {
        let digests: Vec<Digest> = (0..50).chain(0..50).map(digest).collect();
        let mut held = hold(&digests).unwrap();
        let again = held.split_off(50);
        let of = |held: &[Arc<Vector>]| held.iter().map(|vector| vector.id()).collect::<Vec<_>>();
        let ids_of_first = of(&held);
        assert_eq!(ids_of_first, of(&again));
        assert!(ids_of_first.iter().all(|&id| id >= FIRST_VECTOR_ID));
        assert_eq!(ids_of_first.iter().collect::<HashSet<_>>().len(), 50);
        drop(held);
        assert!(digests.iter().all(is_held));
        assert_eq!(of(&hold(&digests[..50]).unwrap()), ids_of_first);
        drop(again);
        assert!(!digests.iter().any(is_held), "nothing is left of them");
        assert!(ids_of_first.iter().all(|id| !ids().used.contains(id)));
    }

    #[test]
    fn ids_go_round_and_pass_over_those_that_are_held() {
        let mut own = Ids { next: FIRST_VECTOR_ID - 1, ..Ids::default() };
        own.used.insert(FIRST_VECTOR_ID);
        let vectors = [100, 101].map(|number| own.hold(&digest(number)).unwrap());
        assert_eq!([vectors[0].id(), vectors[1].id()], [u32::MAX, FIRST_VECTOR_ID + 1]);
    }

    #[test]
    fn threads_that_hold_and_let_go_agree() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 200..if cfg!(miri) { 210 } else { 400 } {
                        let one = hold(&[digest(number)]).unwrap();
                        let other = hold(&[digest(number)]).unwrap();
                        assert_eq!(one[0].id(), other[0].id());
                    }
                });
            }
        });
        assert!(!(200..400).any(|number| is_held(&digest(number))));
    }

    #[test]
    fn every_bit_counts() {
        assert_ne!(digest_of(&[0.0]), digest_of(&[-0.0]));
        assert_ne!(digest_of(&[1.0]), digest_of(&[1.0, 0.0]));
    }
}
