//! Reads a saved session. Everything in it is checked before use.

#![deny(clippy::wildcard_enum_match_arm)]

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use bytemuck::Pod;
use safetensors::Dtype;
use serde::Deserialize;

use super::checksum::Checksum;
use super::error::SavedStateError;

use super::{
    CHECKSUM, FORMAT, HISTORY, LOGITS, LOST_VECTOR, TOKENS, VECTORS, VERSION, VERSION_WITH_VECTORS,
    VERSIONS, state_name,
};
use crate::Error;
use crate::backend::PortableState;
use crate::files::blake2s::Digest;
use crate::model::Model;
use crate::plan::StateKind;
use crate::plan::op::{AttentionSpan, StateId};
use crate::sampling::{Rng, SamplerState};
use crate::session::{FIRST_VECTOR_ID, Session, TokenList};
use crate::weights::{HeaderError, Tensor, parse_header};

/// Largest header accepted, in bytes. A saved session's takes a few hundred bytes per layer.
const MAX_HEADER: u64 = 64 << 20;

/// A loaded session.
pub struct SavedSession {
    /// The session, ready to go on.
    pub session: Session,
    /// The sampler's state, if one was saved with it.
    pub sampler: Option<SamplerState>,
}

impl Model {
    /// Loads a session that [`Session::save`] wrote with this model, on any backend and with any
    /// number of threads.
    ///
    /// # Errors
    /// [`Error::SavedState`], with what differs or is damaged. If there is not enough memory.
    pub fn load_session(&self, path: impl AsRef<Path>) -> Result<SavedSession, Error> {
        let path = path.as_ref();
        let of_file = |source| Error::SavedState { path: Some(path.into()), source };
        let file = open(path).map_err(of_file)?;
        self.read_session(file).map_err(|error| {
            if let Error::SavedState { source, .. } = error { of_file(source) } else { error }
        })
    }

    /// [`Model::load_session`] from memory or any other reader.
    ///
    /// # Errors
    /// Those of [`Model::load_session`].
    pub fn read_session(&self, input: impl Read + Seek) -> Result<SavedSession, Error> {
        let of_input = |source| Error::SavedState { path: None, source };
        let mut file = SavedFile::new(input).map_err(of_input)?;
        let position = file.check_model(self).map_err(of_input)?;
        file.check_tensors(self, position).map_err(of_input)?;
        let mut session = self.session()?;
        if let Some(limit) = session.context_limit.filter(|&limit| position > limit) {
            return Err(self.full(0, position, limit));
        }
        let vocab = self.vocab();
        // Read in the file's order, which is that of the checksum.
        let random = file.random().map_err(of_input)?;
        session.tokens = file.token_list(vocab, of_input)?;
        if file.tensors.contains_key(LOGITS) {
            session.logits = file.floats(LOGITS).map_err(of_input)?;
        }
        let sampler = match random {
            Some(random) => {
                let history = file.history(vocab).map_err(of_input)?;
                Some(SamplerState::from_parts(random, history))
            }
            None => None,
        };
        for (index, state) in self.plan().states.iter().enumerate() {
            let name = state_name(index, &state.name);
            let portable = match &state.kind {
                StateKind::Tensor { .. } => {
                    PortableState::Tensor(file.floats(&name).map_err(of_input)?)
                }
                StateKind::KeyValue { window, sinks, .. } => PortableState::KeyValue {
                    first: AttentionSpan { window: *window, sinks: *sinks }.held(position).1,
                    keys: file.floats(&format!("{name}.keys")).map_err(of_input)?,
                    values: file.floats(&format!("{name}.values")).map_err(of_input)?,
                },
            };
            session.state.import(position, StateId(index), portable)?;
        }
        file.check_sum().map_err(of_input)?;
        Ok(SavedSession { session, sampler })
    }
}

fn open(path: &Path) -> Result<BufReader<File>, SavedStateError> {
    let failed = |source| SavedStateError::Io { doing: "open", source };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    // Check before opening: opening a named pipe would wait for a writer.
    if !metadata.is_file() {
        let problem = "it is not a regular file";
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, problem)));
    }
    Ok(BufReader::new(File::open(path).map_err(failed)?))
}

/// What the header and the tokens of a saved session tell, without reading its state.
pub(crate) struct Heading {
    /// The tokens it was fed.
    pub(crate) tokens: TokenList,
    /// Whether it has the logits after the last of them.
    pub(crate) has_logits: bool,
}

/// Reads the heading of the file `path`, if it is a session of `model`.
pub(crate) fn read_heading(model: &Model, path: &Path) -> Result<Heading, Error> {
    let of_file = |source| Error::SavedState { path: Some(path.into()), source };
    let mut file = SavedFile::new(open(path).map_err(of_file)?).map_err(of_file)?;
    let position = file.check_model(model).map_err(of_file)?;
    file.check_tensors(model, position).map_err(of_file)?;
    let tokens = file.token_list(model.vocab(), of_file)?;
    Ok(Heading { tokens, has_logits: file.tensors.contains_key(LOGITS) })
}

/// The part of the header that the tensors' parser ignores. That parser has checked that it is
/// JSON.
#[derive(Deserialize)]
struct WithMetadata {
    #[serde(rename = "__metadata__", default)]
    metadata: BTreeMap<String, String>,
}

/// An open file with a valid header.
struct SavedFile<R> {
    input: R,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Tensor>,
    /// This process's ids of the file's vectors, by the file's ids. Filled when the tokens are
    /// read.
    vectors: HashMap<u32, u32>,
    /// Offset of the tensors' bytes.
    data: u64,
    /// The checksum of what was read so far. Covers the whole file once every tensor was read in
    /// the file's order.
    sum: Checksum,
}

fn unreadable(source: io::Error) -> SavedStateError {
    SavedStateError::Io { doing: "read", source }
}

impl<R: Read + Seek> SavedFile<R> {
    fn new(mut input: R) -> Result<Self, SavedStateError> {
        let len = input.seek(SeekFrom::End(0)).map_err(unreadable)?;
        input.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        let broken = SavedStateError::Header;
        let mut prefix = [0; 8];
        if len < 8 {
            return Err(broken(HeaderError::TooShort { len }));
        }
        input.read_exact(&mut prefix).map_err(unreadable)?;
        let header = u64::from_le_bytes(prefix);
        if header > MAX_HEADER {
            return Err(broken(HeaderError::TooLong { header, limit: MAX_HEADER }));
        }
        let Some(data_len) = len.checked_sub(8 + header) else {
            return Err(broken(HeaderError::PastEnd { header, len }));
        };
        let mut json = bytes_for(header)?;
        input.read_exact(&mut json).map_err(unreadable)?;
        let data_len = usize::try_from(data_len).map_err(|_| too_large())?;
        let tensors = parse_header(&json, data_len).map_err(broken)?;
        // Repeated names, and values other than strings, are errors too.
        let with: WithMetadata =
            serde_json::from_slice(&json).map_err(|_| SavedStateError::NotASession)?;
        Ok(Self {
            input,
            metadata: with.metadata,
            tensors: tensors.into_iter().map(|tensor| (tensor.name.to_string(), tensor)).collect(),
            vectors: HashMap::new(),
            data: 8 + header,
            sum: Checksum::new(),
        })
    }

    fn field(&self, name: &'static str) -> Result<&str, SavedStateError> {
        let field = self.metadata.get(name).map(String::as_str);
        field.ok_or(SavedStateError::Field { name, value: None })
    }

    /// Checks that this is a session of `model`, and returns its position.
    fn check_model(&self, model: &Model) -> Result<usize, SavedStateError> {
        if self.metadata.get("format").is_none_or(|format| format != FORMAT) {
            return Err(SavedStateError::NotASession);
        }
        let version = self.field("version")?;
        if ![VERSION, VERSION_WITH_VECTORS].contains(&version) {
            let found = short(version);
            return Err(SavedStateError::Version { found, expected: VERSIONS });
        }
        let identity = model.identity().map_err(|error| {
            unreadable(io::Error::other(format!("the model's own weights: {error}")))
        })?;
        let get = |name: &str| self.metadata.get(name).map(String::as_str);
        let differences = identity.differences(get);
        if !differences.is_empty() {
            let model = short(self.metadata.get("model").map_or("?", |model| model));
            return Err(SavedStateError::OtherModel { model, differences });
        }
        let position = self.field("position")?;
        let wrong = || SavedStateError::Field { name: "position", value: Some(short(position)) };
        // A larger position has no room for its tokens. This bound keeps the sizes below from
        // overflowing.
        let fits = |position: &usize| *position <= self.tensors_len();
        position.parse().ok().filter(fits).ok_or_else(wrong)
    }

    /// Bytes of all tensors.
    fn tensors_len(&self) -> usize {
        self.tensors.values().map(|tensor| tensor.range.end).max().unwrap_or(0)
    }

    /// Checks that the tensors are those of a session of `model` at `position`.
    fn check_tensors(&self, model: &Model, position: usize) -> Result<(), SavedStateError> {
        let mut known: Vec<String> = vec![TOKENS.into(), CHECKSUM.into()];
        self.expect(TOKENS, Dtype::U32, &[position])?;
        self.expect(CHECKSUM, Dtype::U64, &[1])?;
        if self.field("version")? == VERSION_WITH_VECTORS {
            let count = self.tensor(VECTORS)?.shape.first().copied().unwrap_or(0);
            self.expect(VECTORS, Dtype::U32, &[count, size_of::<Digest>() / 4])?;
            known.push(VECTORS.into());
        }
        if self.tensors.contains_key(LOGITS) {
            self.expect(LOGITS, Dtype::F32, &[model.vocab()])?;
            known.push(LOGITS.into());
        }
        match (self.tensors.get(HISTORY), self.metadata.contains_key("sampler")) {
            (Some(tensor), true) => {
                let len = tensor.shape.first().copied().unwrap_or(0);
                self.expect(HISTORY, Dtype::U32, &[len])?;
                known.push(HISTORY.into());
            }
            (None, true) => return Err(SavedStateError::MissingTensor { name: HISTORY.into() }),
            (_, false) => {}
        }
        for (index, state) in model.plan().states.iter().enumerate() {
            let name = state_name(index, &state.name);
            match &state.kind {
                StateKind::Tensor { shape } => {
                    self.expect(&name, Dtype::F32, shape)?;
                    known.push(name);
                }
                StateKind::KeyValue { kv_heads, key_dim, value_dim, window, sinks } => {
                    let span = AttentionSpan { window: *window, sinks: *sinks };
                    for (part, width) in [("keys", *key_dim), ("values", *value_dim)] {
                        let shape = [*kv_heads, span.count(position), width];
                        let name = format!("{name}.{part}");
                        self.expect(&name, Dtype::F32, &shape)?;
                        known.push(name);
                    }
                }
            }
        }
        known.sort_unstable();
        let surplus = self.tensors.keys().find(|name| known.binary_search(name).is_err());
        match surplus {
            Some(name) => Err(SavedStateError::SurplusTensor { name: short(name) }),
            None => Ok(()),
        }
    }

    fn expect(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<(), SavedStateError> {
        let tensor = self.tensor(name)?;
        if tensor.dtype != dtype || *tensor.shape != *shape {
            return Err(SavedStateError::WrongTensor {
                name: name.into(),
                found: format!("{} {:?}", tensor.dtype, tensor.shape),
                expected: format!("{dtype} {shape:?}"),
            });
        }
        Ok(())
    }

    fn tensor(&self, name: &str) -> Result<&Tensor, SavedStateError> {
        let tensor = self.tensors.get(name);
        tensor.ok_or_else(|| SavedStateError::MissingTensor { name: name.into() })
    }

    /// Reads the bytes of a tensor into `memory`, which has its size.
    fn read(&mut self, name: &str, memory: &mut [u8]) -> Result<(), SavedStateError> {
        let start = self.tensor(name)?.range.start as u64;
        self.input.seek(SeekFrom::Start(self.data + start)).map_err(unreadable)?;
        self.input.read_exact(memory).map_err(unreadable)
    }

    /// Reads a tensor whose elements have 4 bytes.
    fn elements<T: Pod>(&mut self, name: &str) -> Result<Vec<T>, SavedStateError> {
        let mut elements = Vec::new();
        let len = self.tensor(name)?.range.len() / size_of::<T>();
        elements.try_reserve_exact(len).map_err(|_| too_large())?;
        elements.resize(len, T::zeroed());
        self.read(name, bytemuck::cast_slice_mut(&mut elements))?;
        self.sum.add(name, bytemuck::cast_slice(&elements));
        let words: &mut [u32] = bytemuck::cast_slice_mut(&mut elements);
        words.iter_mut().for_each(|word| *word = u32::from_le(*word));
        Ok(elements)
    }

    fn floats(&mut self, name: &str) -> Result<Vec<f32>, SavedStateError> {
        let floats: Vec<f32> = self.elements(name)?;
        if floats.iter().any(|x| !x.is_finite()) {
            return Err(SavedStateError::NotFinite { name: name.into() });
        }
        Ok(floats)
    }

    /// Reads a sampler's history: tokens, and vectors by the ids they have in this process.
    fn history(&mut self, vocab: usize) -> Result<Vec<u32>, SavedStateError> {
        let vectors = std::mem::take(&mut self.vectors);
        let known = |id| vectors.contains_key(&id) || id == LOST_VECTOR;
        let mut history = self.ids(HISTORY, vocab, known)?;
        for id in &mut history {
            *id = vectors.get(id).copied().unwrap_or(*id);
        }
        self.vectors = vectors;
        Ok(history)
    }

    /// Reads the tokens and vectors that the session was fed.
    fn token_list(
        &mut self,
        vocab: usize,
        failed: impl Fn(SavedStateError) -> Error,
    ) -> Result<TokenList, Error> {
        let Some(vectors) = self.tensors.get(VECTORS) else {
            let ids = self.ids(TOKENS, vocab, |_| true).map_err(&failed)?;
            if let Some(index) = ids.iter().position(|&id| id >= FIRST_VECTOR_ID) {
                return Err(failed(SavedStateError::WeakVectors { index }));
            }
            return Ok(ids.into());
        };
        let count = vectors.shape.first().copied().unwrap_or(0);
        let known = |id: u32| ((id - FIRST_VECTOR_ID) as usize) < count;
        let ids = self.ids(TOKENS, vocab, known).map_err(&failed)?;
        let words: Vec<u32> = self.elements(VECTORS).map_err(&failed)?;
        let digests: &[Digest] = words.as_chunks().0;
        let missing = || failed(SavedStateError::MissingTensor { name: VECTORS.into() });
        let tokens = TokenList::from_parts(&ids, digests)?.ok_or_else(missing)?;
        let places = ids.iter().copied().zip(tokens.iter().copied());
        self.vectors = places.filter(|(id, _)| *id >= FIRST_VECTOR_ID).collect();
        Ok(tokens)
    }

    /// Reads ids that are below `vocab`, or are from [`FIRST_VECTOR_ID`] on and known as vectors.
    fn ids(
        &mut self,
        name: &'static str,
        vocab: usize,
        is_vector: impl Fn(u32) -> bool,
    ) -> Result<Vec<u32>, SavedStateError> {
        let ids: Vec<u32> = self.elements(name)?;
        let known = |id: u32| (id as usize) < vocab || (id >= FIRST_VECTOR_ID && is_vector(id));
        match ids.iter().enumerate().find(|&(_, &id)| !known(id)) {
            Some((index, &id)) => Err(SavedStateError::Token { name, id, index, vocab }),
            None => Ok(ids),
        }
    }

    /// Parses the sampler's random numbers.
    fn random(&mut self) -> Result<Option<Rng>, SavedStateError> {
        let text = self.metadata.get("sampler").map(String::as_str);
        self.sum.add("sampler", text.unwrap_or_default().as_bytes());
        let Some(text) = text else { return Ok(None) };
        let wrong = || SavedStateError::Field { name: "sampler", value: Some(short(text)) };
        let rng: Rng = serde_json::from_str(text).map_err(|_| wrong())?;
        if rng.is_stuck() { Err(wrong()) } else { Ok(Some(rng)) }
    }

    fn check_sum(&mut self) -> Result<(), SavedStateError> {
        let mut bytes = [0; 8];
        self.read(CHECKSUM, &mut bytes)?;
        let (found, expected) = (u64::from_le_bytes(bytes), self.sum.value());
        if found != expected {
            return Err(SavedStateError::Checksum { found, expected });
        }
        Ok(())
    }
}

fn bytes_for(len: u64) -> Result<Vec<u8>, SavedStateError> {
    let len = usize::try_from(len).map_err(|_| too_large())?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| too_large())?;
    bytes.resize(len, 0);
    Ok(bytes)
}

fn too_large() -> SavedStateError {
    unreadable(io::ErrorKind::OutOfMemory.into())
}

/// Truncates a file's text for a message.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}
