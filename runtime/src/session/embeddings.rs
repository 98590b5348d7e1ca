//! Vectors in place of tokens: another model's encoding of an image or a sound, or a trained
//! prompt.

use crate::Error;
use crate::backend::Logits;
use crate::files::blake2s::Digest;
use crate::model::{Embedded, Model, Run};
use crate::session::Session;
use crate::session::vectors::{digest_of, hold};

/// First id of a vector. Larger ids are not tokens: each stands for a vector that was passed to
/// [`Session::feed_embeddings`]. No vocabulary is this large.
///
/// Vectors have the same id exactly if they have the same bits, as told apart by a cryptographic
/// hash of 256 bits. An id is valid only in this process, and only while a session, a snapshot or a
/// [`PrefixCache`](crate::PrefixCache) holds a position of the vector. A vector fed again later
/// gets another id.
pub const FIRST_VECTOR_ID: u32 = 1 << 31;

impl Model {
    /// Width of an embedding: elements of the vector for a token.
    pub fn embedding_width(&self) -> usize {
        self.spec().embedding.table.cols
    }

    /// The embeddings of `tokens`, `[tokens, width]`: rows of the table, before the factor that
    /// some models multiply them by.
    ///
    /// # Errors
    /// If a token is out of range, or the table can't be read.
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
    /// Feeds vectors, `[n, width]`, like [`Session::feed`] does tokens. Each replaces a token's
    /// embedding, before the factor that some models multiply it by. Returns the logits after the
    /// last one, `[vocab]`.
    ///
    /// In [`Session::tokens`] the vectors have ids from [`FIRST_VECTOR_ID`] on. Everything else
    /// works as with tokens: snapshots, saving, reuse of prefixes (equal vectors are equal
    /// prefixes). The session keeps no vectors and can't compute them again, so
    /// [`Session::rewind_and_replay`] across them is an error.
    ///
    /// # Errors
    /// If there are none, their number is not a multiple of [`Model::embedding_width`], or one is
    /// not finite; if the session is full or poisoned. Nothing has changed then. Otherwise those of
    /// [`Session::feed`].
    pub fn feed_embeddings(&mut self, vectors: &[f32]) -> Result<&[f32], Error> {
        pollster::block_on(self.feed_embeddings_async(vectors))
    }

    /// [`Session::feed_embeddings`] without blocking.
    ///
    /// # Errors
    /// Those of [`Session::feed_embeddings`].
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
