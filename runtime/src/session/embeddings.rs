//! Vectors in place of tokens: what another model makes of a picture or a sound, or a prompt that was trained instead of written.

use crate::Error;
use crate::backend::Logits;
use crate::files::blake2s::Digest;
use crate::model::{Embedded, Model, Run};
use crate::session::Session;
use crate::session::vectors::{digest_of, hold};

/// Ids from here on are not tokens: each stands for a vector that [`Session::feed_embeddings`] was given. No vocabulary is so large.
///
/// Vectors have the same id exactly if they have the same bits, told apart by a cryptographic hash of 256 bits. An id holds in this process, and as
/// long as a session, a snapshot or a [`PrefixCache`](crate::PrefixCache) holds a position of the vector. Fed again after that, it has another id.
pub const FIRST_VECTOR_ID: u32 = 1 << 31;

impl Model {
    /// Elements of the vector that a token is embedded as.
    pub fn embedding_width(&self) -> usize {
        self.spec().embedding.table.cols
    }

    /// What `tokens` are embedded as, `[tokens, width]`: rows of the table, before the factor that some models put on them.
    ///
    /// # Errors
    /// When a token is out of range, or the table can't be read.
    pub fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let (vocab, width) = (self.vocab(), self.embedding_width());
        if let Some(index) = tokens.iter().position(|&id| id as usize >= vocab) {
            return Err(Error::TokenOutOfRange { id: tokens[index], index, vocab });
        }
        self.weights().check_unchanged()?;
        let table = self.weights().matrix(&self.spec().embedding.table)?;
        let mut rows = vec![0.0; tokens.len() * width];
        for (&id, row) in tokens.iter().zip(rows.chunks_exact_mut(width)) {
            table.decode_row(id as usize, row)?;
        }
        Ok(rows)
    }
}

impl Session {
    /// Takes vectors, `[n, width]`, as [`Session::feed`] takes tokens, each in place of what a token is embedded as: as rows of the table, before the
    /// factor that some models put on them. Returns the logits after the last of them, `[vocab]`.
    ///
    /// Their positions have ids from [`FIRST_VECTOR_ID`] on among [`Session::tokens`]. All else works as with tokens: snapshots, saving,
    /// reuse of prefixes (equal vectors are equal prefixes). The session keeps no vectors, so it can't compute them again:
    /// [`Session::rewind_and_replay`] across them is an error.
    ///
    /// # Errors
    /// When there are none, their number is no multiple of [`Model::embedding_width`], or one is not finite; when the session is full or poisoned:
    /// nothing has changed then. As [`Session::feed`].
    pub fn feed_embeddings(&mut self, vectors: &[f32]) -> Result<&[f32], Error> {
        pollster::block_on(self.feed_embeddings_async(vectors))
    }

    /// [`Session::feed_embeddings`] without blocking.
    ///
    /// # Errors
    /// As [`Session::feed_embeddings`].
    pub async fn feed_embeddings_async(&mut self, vectors: &[f32]) -> Result<&[f32], Error> {
        let model = self.model.clone();
        let width = model.embedding_width();
        if !vectors.len().is_multiple_of(width) {
            return Err(Error::EmbeddingsLength { floats: vectors.len(), width });
        }
        if let Some(at) = vectors.iter().position(|x| !x.is_finite()) {
            return Err(Error::EmbeddingNotFinite { vector: at / width, element: at % width });
        }
        model.check_room(self, vectors.len() / width)?;
        let digests: Vec<Digest> = vectors.chunks_exact(width).map(digest_of).collect();
        let held = hold(&digests)?;
        let ids: Vec<u32> = held.iter().map(|vector| vector.id()).collect();
        let run = Run { session: &mut *self, tokens: &ids, logits: Logits::Last };
        model.advance(&mut [run], Some(Embedded { floats: vectors, held: &held })).await?;
        Ok(&self.logits)
    }
}
