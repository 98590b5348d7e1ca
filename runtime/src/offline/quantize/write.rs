//! [`Job::write`]: streams the weights from the mapped source through the method into the new
//! files.
//!
//! The work is a list of blocks of rows in the order of the tensors. Every thread takes the next
//! block, encodes it into its own buffers and writes it to its place; all offsets are known in
//! advance. Memory holds one block per thread, and what the method prepared for the pieces in
//! progress.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kinglet_quant::{Encoder, ErrorMeasure, Quantized};

use super::error::QuantizeError;
use super::job::Job;
use super::method::{Method, RowEncoder};
use super::report::{Report, TensorReport};
use super::shards::{self, Place, Shard};
use super::target::{Piece, TargetTensor};
use crate::Error;
use crate::offline::folder::{self, StagedFolder};
use crate::weights::{Access, Encoding, MatrixData, MatrixView, Progress};

/// Weights per block, unless a row is longer: 4 MiB as f32.
const BLOCK_WEIGHTS: usize = 1 << 20;
/// Bytes copied at a time.
const COPY_BYTES: usize = 4 << 20;
/// Longest time between two calls of the progress callback.
const TICK: Duration = Duration::from_millis(100);

/// Options of [`Job::write`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct WriteOptions {
    /// Number of threads. Defaults to all that the process may use.
    pub threads: Option<usize>,
    /// Whether to replace an existing checkpoint.
    pub replace: bool,
}

impl WriteOptions {
    /// The defaults: all threads, no replacing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`Self::threads`].
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Sets [`Self::replace`].
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }
}

/// Some rows of a piece, or some bytes of a tensor to copy.
#[derive(Clone, Copy, Debug)]
struct Block {
    tensor: usize,
    piece: usize,
    /// First row within the piece, or first byte.
    start: usize,
    len: usize,
}

/// The encoder that the method prepared for a piece, shared by the blocks in progress.
type Prepared<'a> = Arc<dyn RowEncoder + 'a>;

/// A piece in progress. Blocks are taken in order, so there are hardly more pieces than threads.
struct Current<'a> {
    tensor: usize,
    piece: usize,
    /// Number of its unfinished blocks.
    left: usize,
    /// Filled by the first thread, while the others wait.
    encoder: Arc<Mutex<Option<Prepared<'a>>>>,
}

/// A thread's result for a finished block.
struct Done {
    block: usize,
    bytes: u64,
    measure: ErrorMeasure,
}

impl Job {
    /// Checks whether [`Job::write`] would refuse to write to `out`.
    ///
    /// # Errors
    /// [`QuantizeError::Out`], or [`QuantizeError::Io`] if the place can't be examined.
    pub fn check_out(&self, out: &Path, replace: bool) -> Result<(), QuantizeError> {
        folder::check(out, Some(self.folder()), replace).map(drop)
    }

    /// Writes the new checkpoint to the folder `out`, which appears when it is complete and on the
    /// disk. `progress` is called from this thread with the bytes of the source that are done and
    /// the total; `false` stops.
    ///
    /// # Errors
    /// If `out` is refused, a file can't be read or written, a weight is not finite, or the method
    /// fails. Nothing is left behind then.
    pub fn write(
        &self,
        out: &Path,
        method: &dyn Method,
        options: &WriteOptions,
        progress: Progress<'_>,
    ) -> Result<Report, Error> {
        let begun = Instant::now();
        let place = folder::check(out, Some(self.folder()), options.replace)?;
        let (shards, places) =
            shards::lay_out(&self.tensors, self.options().max_shard_bytes, "mlx");
        let staged = StagedFolder::create(&place)?;
        let needed = shards.iter().map(|shard| shard.len).fold(0, u64::saturating_add);
        let files = Files::create(staged.path(), &shards, needed)?;
        // This is only advice.
        let _ = self.weights.advise(Access::Sequential);
        let measures = self.encode(method, &places, &files, options, progress)?;
        files.finish()?;
        let index = shards::index(&self.tensors, &shards, &places);
        let texts =
            [("model.safetensors.index.json", index), ("config.json", self.config() + "\n")];
        for (name, text) in texts {
            let text = text.trim_end().to_string() + "\n";
            files.write_text(&staged.path().join(name), &text)?;
        }
        self.companions().copy(self.folder(), staged.path(), needed)?;
        staged.commit()?;
        let tensors = self.tensors.iter().zip(measures).map(|(tensor, measure)| TensorReport {
            tensor: tensor.clone(),
            measure: tensor.format().map(|_| measure),
        });
        Ok(Report {
            method: method.name().into(),
            tensors: tensors.collect(),
            source_bytes: self.source_bytes(),
            files: shards.into_iter().map(|shard| (shard.name, shard.len)).collect(),
            copied: self.companions().files.clone(),
            left_out: self.companions().left_out.clone(),
            elapsed: begun.elapsed(),
        })
    }

    /// The blocks of all tensors, in order.
    fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        for (tensor, target) in self.tensors.iter().enumerate() {
            let cut = |piece, len: usize, step: usize, blocks: &mut Vec<Block>| {
                let starts = (0..len).step_by(step);
                blocks.extend(starts.map(|start| Block {
                    tensor,
                    piece,
                    start,
                    len: step.min(len - start),
                }));
            };
            if target.copy_of.is_some() {
                // The tensor exists in a file, so its size can't overflow.
                let bytes = usize::try_from(target.bytes()).unwrap_or(usize::MAX);
                cut(0, bytes, COPY_BYTES, &mut blocks);
            }
            for (piece, found) in target.pieces.iter().enumerate() {
                cut(piece, found.source.rows, block_rows(target.cols()), &mut blocks);
            }
        }
        blocks
    }

    /// Writes all blocks, and returns the error of each tensor.
    fn encode(
        &self,
        method: &dyn Method,
        places: &[Place],
        files: &Files,
        options: &WriteOptions,
        progress: Progress<'_>,
    ) -> Result<Vec<ErrorMeasure>, Error> {
        let blocks = self.blocks();
        let total = self.source_bytes();
        let threads = options
            .threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let current: Mutex<Vec<Current<'_>>> = Mutex::new(Vec::new());
        let mut measures = vec![ErrorMeasure::new(); blocks.len()];
        let (sender, receiver) = mpsc::channel::<Result<Done, Error>>();
        let result = std::thread::scope(|scope| {
            for _ in 0..threads.clamp(1, blocks.len().max(1)) {
                let (sender, next, stop, blocks, current) =
                    (sender.clone(), &next, &stop, &blocks, &current);
                let worker = Worker { job: self, method, places, files, current };
                let run = move || {
                    let mut buffers = Buffers::default();
                    while !stop.load(Ordering::Relaxed) {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(block) = blocks.get(index) else { break };
                        let done = worker.block(block, &mut buffers);
                        let failed = done.is_err();
                        let done =
                            done.map(|(bytes, measure)| Done { block: index, bytes, measure });
                        if sender.send(done).is_err() || failed {
                            break;
                        }
                    }
                };
                let builder = std::thread::Builder::new().name("kinglet-quantize".into());
                if let Err(error) = builder.spawn_scoped(scope, run) {
                    stop.store(true, Ordering::Relaxed);
                    return Err(Error::Threads(error));
                }
            }
            drop(sender);
            let mut done = 0;
            loop {
                match receiver.recv_timeout(TICK) {
                    Ok(Ok(found)) => {
                        done += found.bytes;
                        if let Some(measure) = measures.get_mut(found.block) {
                            *measure = found.measure;
                        }
                    }
                    Ok(Err(error)) => {
                        stop.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
                if !progress(done, total) {
                    stop.store(true, Ordering::Relaxed);
                    return Err(QuantizeError::Cancelled.into());
                }
            }
        });
        result?;
        // Sum in the order of the blocks, so that every run gives the same sums.
        let mut by_tensor = vec![ErrorMeasure::new(); self.tensors.len()];
        for (block, measure) in blocks.iter().zip(&measures) {
            if let Some(sum) = by_tensor.get_mut(block.tensor) {
                sum.merge(measure);
            }
        }
        Ok(by_tensor)
    }
}

/// The data that a thread needs to process any block.
struct Worker<'a, 'c> {
    job: &'a Job,
    method: &'a dyn Method,
    places: &'a [Place],
    files: &'a Files,
    current: &'c Mutex<Vec<Current<'a>>>,
}

/// A thread's buffers, reused for each block.
#[derive(Default)]
struct Buffers {
    weights: Vec<f32>,
    row: Vec<f32>,
}

impl<'a> Worker<'a, '_> {
    /// Encodes or copies one block. Returns the bytes read and the error of the encoding.
    fn block(&self, block: &Block, buffers: &mut Buffers) -> Result<(u64, ErrorMeasure), Error> {
        let (Some(target), Some(place)) =
            (self.job.tensors.get(block.tensor), self.places.get(block.tensor))
        else {
            return Ok((0, ErrorMeasure::new()));
        };
        let offset = |part: usize| place.offsets.get(part).copied().unwrap_or_default();
        let write = |part: usize, at: usize, bytes: &[u8]| {
            self.files.write(place.shard, offset(part).saturating_add(at as u64), bytes)
        };
        if let Some(source) = &target.copy_of {
            let data = self.job.weights.get(source)?;
            self.job.weights.check_unchanged()?;
            let end = block.start.saturating_add(block.len);
            let bytes = data.bytes()?.get(block.start..end).unwrap_or_default();
            write(0, block.start, bytes)?;
            data.release(block.start..end);
            return Ok((block.len as u64, ErrorMeasure::new()));
        }
        let Some(piece) = target.pieces.get(block.piece) else {
            return Ok((0, ErrorMeasure::new()));
        };
        let whole = self.job.weights.matrix(&piece.source)?;
        let rows = whole.slice(block.start..block.start.saturating_add(block.len))?;
        self.job.weights.check_unchanged()?;
        let bytes = rows.byte_len() as u64;
        let first = piece.first_row.saturating_add(block.start);
        let Encoding::Quantized(format) = target.encoding else {
            if let MatrixView::Dense { bytes, .. } = rows.view()? {
                write(0, first.saturating_mul(rows.row_bytes()), bytes)?;
            }
            rows.release();
            return Ok((bytes, ErrorMeasure::new()));
        };
        decode(&rows, &mut buffers.weights)?;
        rows.release();
        if let Some(index) = buffers.weights.iter().position(|weight| !weight.is_finite()) {
            let start = piece.source.row_offset.saturating_add(block.start);
            return Err(Error::Weights(crate::weights::WeightsError::NonFinite {
                tensor: piece.source.tensor.name.clone(),
                index: start.saturating_mul(target.cols()).saturating_add(index),
                value: buffers.weights.get(index).copied().unwrap_or(f32::NAN),
            }));
        }
        let encoder = self.prepared(block, target, piece, Encoder::new(format, target.dtype))?;
        let failed =
            |source| QuantizeError::Encode { tensor: target.name.clone(), row: first, source };
        let shape = [block.len, target.cols()];
        let mut out = Quantized::zeroed(format, target.dtype, shape).map_err(failed)?;
        encoder.encode(block.start, &buffers.weights, &mut out).map_err(failed)?;
        drop(encoder);
        self.finished(block);
        let measure = measure(&out, buffers);
        let (codes, scales, biases) = out.into_parts();
        for (part, bytes) in [codes, scales, biases].into_iter().enumerate() {
            let row = bytes.len() / block.len.max(1);
            if !bytes.is_empty() {
                write(part, first.saturating_mul(row), &bytes)?;
            }
        }
        Ok((bytes, measure))
    }

    /// The encoder for the block's piece. The first caller prepares it.
    fn prepared(
        &self,
        block: &Block,
        target: &TargetTensor,
        piece: &Piece,
        encoder: Encoder,
    ) -> Result<Prepared<'a>, Error> {
        let cell = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            let found = current
                .iter()
                .find(|current| (current.tensor, current.piece) == (block.tensor, block.piece));
            match found {
                Some(found) => found.encoder.clone(),
                None => {
                    let encoder = Arc::new(Mutex::new(None));
                    let (tensor, piece, rows) = (block.tensor, block.piece, piece.source.rows);
                    let left = rows.div_ceil(block_rows(target.cols()));
                    current.push(Current { tensor, piece, left, encoder: encoder.clone() });
                    encoder
                }
            }
        };
        let mut prepared = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(prepared) = &*prepared {
            return Ok(prepared.clone());
        }
        let made: Prepared<'a> = Arc::from(self.method.prepare(target, piece, encoder)?);
        *prepared = Some(made.clone());
        Ok(made)
    }

    /// Frees the encoder of the block's piece if this was its last block.
    fn finished(&self, block: &Block) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.retain_mut(|current| {
            if (current.tensor, current.piece) == (block.tensor, block.piece) {
                current.left = current.left.saturating_sub(1);
            }
            current.left > 0
        });
    }
}

/// Rows per block of a matrix with `cols` columns.
fn block_rows(cols: usize) -> usize {
    (BLOCK_WEIGHTS / cols.max(1)).max(1)
}

/// Decodes all rows to f32.
fn decode(rows: &MatrixData, out: &mut Vec<f32>) -> Result<(), Error> {
    let cols = rows.cols();
    let needed = rows.rows().saturating_mul(cols);
    out.clear();
    crate::error::grow(out, needed, "a block of rows")?;
    for (index, row) in out.chunks_exact_mut(cols.max(1)).enumerate() {
        rows.decode_row(index, row)?;
    }
    Ok(())
}

/// The error of the encoded rows.
fn measure(out: &Quantized, buffers: &mut Buffers) -> ErrorMeasure {
    let mut measure = ErrorMeasure::new();
    let Ok(blocks) = out.blocks() else { return measure };
    let cols = out.cols();
    buffers.row.resize(cols, 0.0);
    for (index, weights) in buffers.weights.chunks_exact(cols.max(1)).enumerate() {
        if blocks.decode_row(index, &mut buffers.row).is_ok() {
            measure.add(weights, &buffers.row);
        }
    }
    measure
}

/// The new safetensors files, open, with their headers.
pub(in crate::offline) struct Files {
    files: Vec<(PathBuf, Mutex<File>)>,
    /// Size of all files in bytes, for the message when the disk is full.
    needed: u64,
}

impl Files {
    pub(in crate::offline) fn create(
        folder: &Path,
        shards: &[Shard],
        needed: u64,
    ) -> Result<Self, QuantizeError> {
        let mut files = Self { files: Vec::new(), needed };
        for (index, shard) in shards.iter().enumerate() {
            let path = folder.join(&shard.name);
            let file = File::create_new(&path).map_err(|source| QuantizeError::Io {
                doing: "create",
                path: path.clone(),
                source,
            })?;
            files.files.push((path, Mutex::new(file)));
            files.write(index, 0, &shard.header)?;
        }
        Ok(files)
    }

    pub(in crate::offline) fn write(
        &self,
        shard: usize,
        at: u64,
        bytes: &[u8],
    ) -> Result<(), QuantizeError> {
        let Some((path, file)) = self.files.get(shard) else { return Ok(()) };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(bytes));
        written.map_err(|source| failed_write(path, source, self.needed))
    }

    /// Waits until everything is on the disk.
    pub(in crate::offline) fn finish(&self) -> Result<(), QuantizeError> {
        for (path, file) in &self.files {
            let file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.sync_all().map_err(|source| failed_write(path, source, self.needed))?;
        }
        Ok(())
    }

    pub(in crate::offline) fn write_text(
        &self,
        path: &Path,
        text: &str,
    ) -> Result<(), QuantizeError> {
        let write = || {
            let mut file = File::create_new(path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|source| failed_write(path, source, self.needed))
    }
}

/// The error of a failed write.
pub(super) fn failed_write(path: &Path, source: io::Error, needed: u64) -> QuantizeError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            QuantizeError::DiskFull { path, needed }
        }
        _ => QuantizeError::Io { doing: "write", path, source },
    }
}
