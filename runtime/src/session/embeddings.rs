//! Vectors in place of tokens: what another model makes of a picture or a sound, or a prompt that was trained instead of written.

use crate::Error;
use crate::backend::Logits;
use crate::fnv1a::Fnv1a;
use crate::model::{Model, Run};
use crate::session::Session;

/// The ids from here on are no tokens: each stands for a vector that [`Session::feed_embeddings`] was given, and is made from its bits. No
/// vocabulary is so large.
pub const FIRST_VECTOR_ID: u32 = 1 << 31;

/// What a position that took `vector` is known by: equal vectors have equal ids.
fn id_of(vector: &[f32]) -> u32 {
    let mut hash = Fnv1a::new();
    hash.write(bytemuck::cast_slice(vector));
    let hash = hash.finish();
    FIRST_VECTOR_ID | (hash ^ (hash >> 32)) as u32
}

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
    /// Their positions have ids from [`FIRST_VECTOR_ID`] on among [`Session::tokens`]. All else goes on as with tokens: snapshots, saving,
    /// reuse of prefixes (equal vectors are equal prefixes). Only computing them again takes who has them:
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
        let ids: Vec<u32> = vectors.chunks_exact(width).map(id_of).collect();
        model.check_room(self, ids.len())?;
        let run = Run { session: &mut *self, tokens: &ids, logits: Logits::Last };
        model.advance(&mut [run], Some(vectors)).await?;
        Ok(&self.logits)
    }
}
