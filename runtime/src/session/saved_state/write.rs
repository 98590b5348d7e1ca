//! Writes a saved session.

#![deny(clippy::wildcard_enum_match_arm)]

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::checksum::Checksum;
use super::error::SavedStateError;
use super::{
    CHECKSUM, FORMAT, HISTORY, LOGITS, LOST_VECTOR, TOKENS, VECTORS, VERSION, VERSION_WITH_VECTORS,
    state_name,
};
use crate::Error;
use crate::backend::{PortableState, SessionState};
use crate::files::atomic_file;
use crate::files::blake2s::Digest;
use crate::model::Model;
use crate::plan::StateKind;
use crate::plan::op::{AttentionSpan, StateId};
use crate::sampling::SamplerState;
use crate::session::{FIRST_VECTOR_ID, Session, Snapshot, TokenList};

/// The parts of a file.
struct Contents<'a> {
    model: &'a Model,
    state: &'a dyn SessionState,
    tokens: &'a TokenList,
    logits: Option<&'a [f32]>,
    sampler: Option<&'a SamplerState>,
}

impl Session {
    /// Saves the session, with the state of its sampler if one is given. [`Model::load_session`]
    /// loads them on any backend, with any number of threads. The file is written atomically; see
    /// [the format](crate::session::saved_state). Retained states are not saved.
    ///
    /// # Errors
    /// If the session is poisoned, the backend can't copy its state, or the file can't be written.
    pub fn save(
        &self,
        path: impl AsRef<Path>,
        sampler: Option<&SamplerState>,
    ) -> Result<(), Error> {
        save(self.contents(sampler)?, path.as_ref())
    }

    /// [`Session::save`] to memory or any other writer. Copies the state from its device, and
    /// hashes the weights on first use. This is cheap enough to do between the turns of a
    /// conversation, which can then go on with another model if the device is lost.
    ///
    /// # Errors
    /// Those of [`Session::save`].
    pub fn write_to(
        &self,
        out: &mut dyn Write,
        sampler: Option<&SamplerState>,
    ) -> Result<(), Error> {
        pollster::block_on(self.write_to_async(out, sampler))
    }

    /// [`Session::write_to`] without blocking.
    ///
    /// # Errors
    /// Those of [`Session::save`].
    pub async fn write_to_async(
        &self,
        out: &mut dyn Write,
        sampler: Option<&SamplerState>,
    ) -> Result<(), Error> {
        let contents = self.contents(sampler)?;
        contents.write(out).await.map_err(|problem| problem.into_error(None))
    }

    fn contents<'a>(&'a self, sampler: Option<&'a SamplerState>) -> Result<Contents<'a>, Error> {
        if self.is_poisoned() {
            return Err(Error::PoisonedSession);
        }
        let logits = self.last_logits();
        let Self { model, tokens, state, .. } = self;
        Ok(Contents { model, state: &**state, tokens, logits, sampler })
    }
}

impl Snapshot {
    /// [`Snapshot::save`] to memory or any other writer. Unlike a snapshot, the bytes survive the
    /// loss of a device.
    ///
    /// # Errors
    /// Those of [`Snapshot::save`].
    pub fn write_to(&self, out: &mut dyn Write) -> Result<(), Error> {
        pollster::block_on(self.write_to_async(out))
    }

    /// [`Snapshot::write_to`] without blocking.
    ///
    /// # Errors
    /// Those of [`Snapshot::save`].
    pub async fn write_to_async(&self, out: &mut dyn Write) -> Result<(), Error> {
        let state = self.state().copy()?;
        let (tokens, logits) = (self.token_list(), self.last_logits());
        let contents =
            Contents { model: self.model(), state: &*state, tokens, logits, sampler: None };
        contents.write(out).await.map_err(|problem| problem.into_error(None))
    }

    /// Saves the snapshot like [`Session::save`] does a session.
    ///
    /// # Errors
    /// If the backend can't copy its state, or the file can't be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        // Copy the state, so that others can read the shared one while this writes to disk.
        let state = self.state().copy()?;
        let (tokens, logits) = (self.token_list(), self.last_logits());
        let contents =
            Contents { model: self.model(), state: &*state, tokens, logits, sampler: None };
        save(contents, path.as_ref())
    }
}

/// An error while writing: either the file's, to which the path is added, or the engine's.
enum Problem {
    File(SavedStateError),
    Engine(Error),
}

impl Problem {
    fn into_error(self, path: Option<&Path>) -> Error {
        match self {
            Self::File(source) => Error::SavedState { path: path.map(Into::into), source },
            Self::Engine(error) => error,
        }
    }
}

impl From<io::Error> for Problem {
    fn from(source: io::Error) -> Self {
        Self::File(SavedStateError::Io { doing: "write", source })
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

fn save(contents: Contents<'_>, path: &Path) -> Result<(), Error> {
    let written = atomic_file::write(path, |file| pollster::block_on(contents.write(file)));
    written.map_err(|problem: Problem| problem.into_error(Some(path)))
}

/// The header under construction: tensors are placed one after the other.
#[derive(Default)]
struct Header {
    tensors: Map<String, Value>,
    end: u64,
}

impl Header {
    fn add(&mut self, name: String, dtype: &str, element_bytes: u64, shape: &[usize]) {
        let bytes = shape.iter().map(|&dim| dim as u64).product::<u64>() * element_bytes;
        let offsets = [self.end, self.end + bytes];
        self.end += bytes;
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets });
        self.tensors.insert(name, entry);
    }
}

/// Writes tensors and updates the checksum.
struct Body<'a> {
    out: &'a mut dyn Write,
    sum: Checksum,
}

impl Body<'_> {
    fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.sum.add(name, bytes);
        self.out.write_all(bytes)
    }

    fn words(&mut self, name: &str, words: &[u32]) -> io::Result<()> {
        if cfg!(target_endian = "little") {
            return self.add(name, bytemuck::cast_slice(words));
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.add(name, &bytes)
    }

    fn floats(&mut self, name: &str, floats: &[f32]) -> io::Result<()> {
        // The same bits.
        self.words(name, bytemuck::cast_slice(floats))
    }
}

impl Contents<'_> {
    async fn write(&self, out: &mut dyn Write) -> Result<(), Problem> {
        let Self { model, state, tokens, logits, sampler } = self;
        let position = tokens.len();
        let states = &model.plan().states;
        let identity = model.identity()?;

        let mut header = Header::default();
        let mut metadata = Map::new();
        let mut field = |name: &str, value: String| metadata.insert(name.into(), value.into());
        field("format", FORMAT.into());
        let (ids, vectors) = tokens.to_parts();
        // A file that needs nothing of a later version stays readable for earlier ones.
        let version = if vectors.is_empty() { VERSION } else { VERSION_WITH_VECTORS };
        field("version", version.into());
        field("model", model.spec().model_type.clone());
        for (name, value) in identity.fields() {
            field(name, format!("{value:016x}"));
        }
        field("position", position.to_string());
        header.add(TOKENS.into(), "U32", 4, &[position]);
        if !vectors.is_empty() {
            header.add(VECTORS.into(), "U32", 4, &[vectors.len(), size_of::<Digest>() / 4]);
        }
        if let Some(logits) = logits {
            header.add(LOGITS.into(), "F32", 4, &[logits.len()]);
        }
        let mut random = None;
        if let Some(sampler) = sampler {
            let text = serde_json::to_string(sampler.random()).map_err(io::Error::from)?;
            field("sampler", text.clone());
            random = Some(text);
            header.add(HISTORY.into(), "U32", 4, &[sampler.history().len()]);
        }
        for (index, state) in states.iter().enumerate() {
            let name = state_name(index, &state.name);
            match &state.kind {
                StateKind::Tensor { shape } => header.add(name, "F32", 4, shape),
                StateKind::KeyValue { kv_heads, key_dim, value_dim, window, sinks } => {
                    let span = AttentionSpan { window: *window, sinks: *sinks };
                    let shape = |width: usize| [*kv_heads, span.count(position), width];
                    header.add(format!("{name}.keys"), "F32", 4, &shape(*key_dim));
                    header.add(format!("{name}.values"), "F32", 4, &shape(*value_dim));
                }
            }
        }
        header.add(CHECKSUM.into(), "U64", 8, &[1]);
        let Header { mut tensors, .. } = header;
        tensors.insert("__metadata__".into(), metadata.into());
        let mut text = Value::from(tensors).to_string();
        // The format requires tensors to start at a multiple of 8 bytes.
        text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
        out.write_all(&(text.len() as u64).to_le_bytes())?;
        out.write_all(text.as_bytes())?;

        let mut body = Body { out, sum: Checksum::new() };
        body.sum.add("sampler", random.unwrap_or_default().as_bytes());
        body.words(TOKENS, &ids)?;
        if !vectors.is_empty() {
            body.words(VECTORS, vectors.as_flattened())?;
        }
        if let Some(logits) = logits {
            body.floats(LOGITS, logits)?;
        }
        if let Some(sampler) = sampler {
            body.words(HISTORY, &in_file(sampler.history(), tokens, &ids))?;
        }
        for (index, described) in states.iter().enumerate() {
            let name = state_name(index, &described.name);
            // Export one state at a time, so that there is never a second copy of all.
            let exported = state.export(StateId(index)).await?;
            if exported_len(&exported) != expected_len(&described.kind, position) {
                return Err(Error::StateForm { id: index }.into());
            }
            match exported {
                PortableState::Tensor(values) => body.floats(&name, &values)?,
                PortableState::KeyValue { keys, values, .. } => {
                    body.floats(&format!("{name}.keys"), &keys)?;
                    body.floats(&format!("{name}.values"), &values)?;
                }
            }
        }
        let sum = body.sum.value();
        body.out.write_all(&sum.to_le_bytes())?;
        Ok(())
    }
}

/// Maps a sampler's history to the file's ids. `held` are the session's tokens, and `ids` their ids
/// in the file.
fn in_file<'a>(history: &'a [u32], held: &[u32], ids: &[u32]) -> Cow<'a, [u32]> {
    if history.iter().all(|&id| id < FIRST_VECTOR_ID) {
        return Cow::Borrowed(history);
    }
    let known: HashMap<u32, u32> = held.iter().copied().zip(ids.iter().copied()).collect();
    let place = |&id: &u32| match known.get(&id) {
        _ if id < FIRST_VECTOR_ID => id,
        Some(place) => *place,
        None => LOST_VECTOR,
    };
    history.iter().map(place).collect()
}

fn exported_len(state: &PortableState) -> [usize; 2] {
    match state {
        PortableState::Tensor(values) => [values.len(), 0],
        PortableState::KeyValue { keys, values, .. } => [keys.len(), values.len()],
    }
}

fn expected_len(kind: &StateKind, position: usize) -> [usize; 2] {
    match kind {
        StateKind::Tensor { shape } => [shape.iter().product(), 0],
        StateKind::KeyValue { kv_heads, key_dim, value_dim, window, sinks } => {
            let span = AttentionSpan { window: *window, sinks: *sinks };
            [*key_dim, *value_dim].map(|width| kv_heads * span.count(position) * width)
        }
    }
}
