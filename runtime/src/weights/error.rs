//! [`WeightsError`]: everything that can be wrong with the weights of a checkpoint.

use std::fmt;
use std::io;
use std::path::PathBuf;

use kinglet_models::FoldError;

use super::check::Mismatch;
use super::foreign::ConversionError;
use super::header::HeaderError;
use super::index::IndexError;
use super::quantized::QuantizedError;
use crate::weights::folder::Place;

/// An error in the weights. Names of tensors and files come from the checkpoint; messages truncate
/// long ones and escape unprintable characters.
#[derive(Debug)]
#[non_exhaustive]
pub enum WeightsError {
    /// The folder holds no weights in a supported format.
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// Weights in other formats.
        others: Vec<String>,
    },
    /// The path is not a folder.
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// The system reported an error.
    Io {
        /// The operation, as a verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Something other than a file has the file's name.
    NotAFile {
        /// Its path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A symbolic link is dangling.
    DanglingLink {
        /// The link.
        path: PathBuf,
    },
    /// A region extends past the end of its file.
    Region {
        /// The file.
        file: String,
        /// First byte of the region.
        offset: u64,
        /// Its length.
        len: u64,
        /// Length of the file.
        file_len: u64,
    },
    /// A file is too large for the machine's address space.
    TooLargeToMap {
        /// The file.
        file: String,
        /// Its length.
        len: u64,
    },
    /// A file was truncated after it was opened.
    Shrunk {
        /// The file.
        file: String,
        /// Its length when it was opened, in bytes.
        expected: u64,
        /// Its length now, in bytes.
        found: u64,
    },
    /// A safetensors file is invalid.
    Header {
        /// The file.
        file: String,
        /// The problem.
        error: HeaderError,
    },
    /// `model.safetensors.index.json` is invalid.
    Index {
        /// The file.
        path: PathBuf,
        /// The problem.
        error: IndexError,
    },
    /// Tensors are missing, and so are files that may contain them.
    Incomplete {
        /// The folder.
        folder: PathBuf,
        /// The missing files.
        files: Vec<String>,
        /// Number of missing tensors.
        tensors: usize,
        /// One of them.
        first: String,
    },
    /// The folder holds shards of several checkpoints, and no index tells which to use.
    MixedShards {
        /// The folder.
        folder: PathBuf,
        /// A shard of each.
        firsts: Vec<String>,
    },
    /// A tensor is in two files.
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// One file.
        first: String,
        /// The other file.
        second: String,
    },
    /// A requested tensor is not in the checkpoint.
    MissingTensor {
        /// The tensor.
        tensor: String,
    },
    /// A requested tensor is not F32, F16 or BF16.
    UnsupportedDtype {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
    },
    /// A tensor has the wrong shape.
    WrongShape {
        /// The tensor.
        tensor: String,
        /// The expected shape.
        expected: Vec<usize>,
        /// Its shape.
        found: Vec<usize>,
    },
    /// The requested rows are out of range.
    Rows {
        /// The tensor.
        tensor: String,
        /// First requested row.
        start: usize,
        /// Number of requested rows.
        rows: usize,
        /// Number of requested columns.
        cols: usize,
        /// The tensor's shape.
        shape: Vec<usize>,
    },
    /// A weight is NaN or infinite.
    NonFinite {
        /// The tensor.
        tensor: String,
        /// Index of the element, counted over the whole tensor in row-major order.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// A quantized tensor is invalid.
    Quantized {
        /// The tensor that holds the codes.
        tensor: String,
        /// The problem.
        error: QuantizedError,
    },
    /// A layer in another project's quantized layout can't be converted.
    Foreign {
        /// The layer: the common prefix of its tensors' names.
        layer: String,
        /// The reason.
        error: ConversionError,
    },
    /// Weights contain factors of the config, and the model can't be computed with them.
    Folded(FoldError),
    /// The checkpoint does not match the model's configuration.
    Mismatch(Mismatch),
    /// There is not enough memory for a decoded tensor.
    OutOfMemory {
        /// The tensor.
        tensor: String,
        /// Bytes needed.
        bytes: usize,
    },
    /// The bytes of a tensor are not in memory.
    NotInMemory {
        /// The tensor.
        tensor: String,
    },
    /// A progress callback asked to stop.
    Cancelled,
}

impl fmt::Display for WeightsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWeights { folder, others } => no_weights(f, folder, others),
            Self::NotAFolder { path } => write!(
                f,
                "{} is not a folder: pass the folder with config.json and model.safetensors",
                path.display()
            ),
            Self::Io { doing, path, source } => {
                write!(f, "can't {doing} {}: {source}", path.display())
            }
            Self::NotAFile { path, what } => {
                write!(f, "{} is {what}: expected a safetensors file", path.display())
            }
            Self::DanglingLink { path } => write!(
                f,
                "{} is a link to a file that does not exist: the download may be incomplete",
                path.display()
            ),
            Self::Region { file, offset, len, file_len } => write!(
                f,
                "{}: {len} bytes at offset {offset} extend past the end of the file at {file_len}",
                Name(file)
            ),
            Self::TooLargeToMap { file, len } => write!(
                f,
                "{}: {len} bytes exceed this machine's {}-bit address space",
                Name(file),
                usize::BITS
            ),
            Self::Shrunk { file, expected, found } => write!(
                f,
                "{} was truncated from {expected} to {found} bytes after it was opened: \
                 load the model again",
                Name(file)
            ),
            Self::Header { file, error } => write!(f, "{}: {error}", Name(file)),
            Self::Index { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Incomplete { folder, files, tensors, first } => {
                let (s, rest) = if *tensors == 1 { ("", "") } else { ("s", ", ...") };
                let are = if files.len() == 1 { "is" } else { "are" };
                write!(
                    f,
                    "{} is incomplete: {tensors} tensor{s} missing ({}{rest}), and {are} {}: \
                     finish the download",
                    Place(folder),
                    Name(first),
                    Names(files)
                )
            }
            Self::MixedShards { folder, firsts } => write!(
                f,
                "{} holds shards of several checkpoints ({}), and no index tells which to use: \
                 remove the stale ones, or download model.safetensors.index.json",
                Place(folder),
                Names(firsts)
            ),
            Self::DuplicateTensor { tensor, first, second } => write!(
                f,
                "tensor {} is in both {} and {}, and no index tells which to use: remove the stale file",
                Name(tensor),
                Name(first),
                Name(second)
            ),
            Self::MissingTensor { tensor } => {
                write!(f, "tensor {} is not in the checkpoint", Name(tensor))
            }
            Self::UnsupportedDtype { tensor, dtype } => {
                write!(f, "tensor {} has dtype {dtype}, expected F32, F16 or BF16", Name(tensor))
            }
            Self::WrongShape { tensor, expected, found } => write!(
                f,
                "tensor {} has shape {}, expected {}",
                Name(tensor),
                Shape(found),
                Shape(expected)
            ),
            Self::Rows { tensor, start, rows, cols, shape } => write!(
                f,
                "tensor {} of shape {} has no {rows} rows of {cols} columns starting at row {start}",
                Name(tensor),
                Shape(shape)
            ),
            Self::NonFinite { tensor, index, value } => write!(
                f,
                "tensor {} holds {value} at index {index}: the checkpoint is damaged",
                Name(tensor)
            ),
            Self::Quantized { tensor, error } => {
                write!(f, "quantized tensor {}: {error}", Name(tensor))
            }
            Self::Foreign { layer, error } => {
                write!(f, "can't convert the quantized layer {}: {error}", Name(layer))
            }
            Self::Folded(error) => error.fmt(f),
            Self::Mismatch(mismatch) => mismatch.fmt(f),
            Self::OutOfMemory { tensor, bytes } => {
                write!(f, "not enough memory for the {bytes} bytes of tensor {}", Name(tensor))
            }
            Self::NotInMemory { tensor } => write!(
                f,
                "tensor {} is not in memory: its file is read in parts, so make the rows resident first",
                Name(tensor)
            ),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for WeightsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Header { error, .. } => Some(error),
            Self::Index { error, .. } => Some(error),
            _ => None,
        }
    }
}

fn no_weights(
    f: &mut fmt::Formatter<'_>,
    folder: &std::path::Path,
    others: &[String],
) -> fmt::Result {
    write!(
        f,
        "no weights in {}: found neither model.safetensors nor model.safetensors.index.json",
        Place(folder)
    )?;
    let Some(first) = others.first() else {
        return f
            .write_str("; pass the folder of a downloaded model, with its *.safetensors files");
    };
    write!(f, ", only {}", Name(first))?;
    if others.len() > 1 {
        write!(f, " and {} more files", others.len() - 1)?;
    }
    f.write_str(weights_advice(first))
}

/// Advice for a folder with the file `name` in place of weights: the end of a sentence that names
/// the file.
pub(crate) fn weights_advice(name: &str) -> &'static str {
    let ending = name.rsplit('.').next().unwrap_or_default();
    match ending {
        "safetensors" if name.starts_with("adapter") => {
            "; that is only an adapter: merge it into its base model (`merge_and_unload` of `peft`), \
             save the result with `save_pretrained`, and pass that folder"
        }
        "safetensors" if name.starts_with("consolidated") => {
            "; that file uses other tensor names: download model*.safetensors of the same model"
        }
        "safetensors" if name.contains("-of-") => {
            "; if these files are the whole model, rename them to model-00001-of-0000N.safetensors and so on"
        }
        "safetensors" => {
            "; if that is the whole model, rename it to model.safetensors, \
             otherwise download the index file too"
        }
        "gguf" => "; GGUF is not supported: download the original checkpoint in safetensors format",
        "onnx" | "tflite" | "mlmodel" | "xml" => {
            "; exported graphs are not supported: download the original checkpoint in safetensors format"
        }
        "npz" => "; it was written by an old version of MLX: convert the original checkpoint again",
        "h5" | "msgpack" => {
            "; TensorFlow and Flax weights are not supported: download the model in safetensors format"
        }
        _ => {
            ", which is not supported (loading it would run code from the file): \
             load it with `transformers` and save it with \
             `model.save_pretrained(folder, safe_serialization=True)`"
        }
    }
}

/// Displays some names, and how many more there are.
pub(crate) struct Names<'a>(pub(crate) &'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LISTED: usize = 6;
        for (index, name) in self.0.iter().take(LISTED).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}", Name(name))?;
        }
        match self.0.len().saturating_sub(LISTED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Displays a name from a file: quoted, escaped, and truncated if long.
pub(crate) struct Name<'a>(pub(crate) &'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 120;
        let mut chars = self.0.chars();
        f.write_str("`")?;
        for c in chars.by_ref().take(LONGEST) {
            // Quotation marks need no escape within backquotes.
            if c == '"' || c == '\'' {
                write!(f, "{c}")
            } else {
                write!(f, "{}", c.escape_debug())
            }?;
        }
        f.write_str(if chars.next().is_some() { "...`" } else { "`" })
    }
}

/// The message of a JSON error, truncated: it may quote a string of any length from the file.
pub(super) fn json_message(error: &serde_json::Error) -> String {
    const LONGEST: usize = 240;
    let message = error.to_string();
    match message.char_indices().nth(LONGEST) {
        // Keep the position, which is at the end of the message.
        Some((cut, _)) => format!(
            "{}... at line {} column {}",
            message.get(..cut).unwrap_or_default(),
            error.line(),
            error.column()
        ),
        None => message,
    }
}

/// Displays a shape, such as `[2, 3]`.
pub(super) struct Shape<'a, T>(pub(super) &'a [T]);

impl<T: fmt::Display> fmt::Display for Shape<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.0.iter().enumerate() {
            write!(f, "{}{dim}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}
