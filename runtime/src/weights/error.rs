//! [`WeightsError`]: all that can be wrong with the weights of a checkpoint.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::check::Mismatch;
use super::foreign::ConversionError;
use super::header::HeaderError;
use super::index::IndexError;
use super::quantized::QuantizedError;
use crate::weights::folder::Place;

/// What went wrong with the weights. Names of tensors and files come from the checkpoint; the messages
/// cut long ones and escape what is not printable.
#[derive(Debug)]
#[non_exhaustive]
pub enum WeightsError {
    /// The folder holds no weights that can be read.
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// Weights in other formats that are there.
        others: Vec<String>,
    },
    /// What was given is no folder.
    NotAFolder {
        /// What was given.
        path: PathBuf,
    },
    /// The system refused.
    Io {
        /// What was tried: a verb.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Where a file should be there is something else.
    NotAFile {
        /// Its path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A symbolic link to nothing.
    DanglingLink {
        /// The link.
        path: PathBuf,
    },
    /// A region of a file that the file does not have.
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
    /// A file that the machine's addresses do not reach across.
    TooLargeToMap {
        /// The file.
        file: String,
        /// Its length.
        len: u64,
    },
    /// A file became shorter after it was opened.
    Shrunk {
        /// The file.
        file: String,
        /// Bytes that it had.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// A safetensors file is broken.
    Header {
        /// The file.
        file: String,
        /// In what way.
        error: HeaderError,
    },
    /// `model.safetensors.index.json` is broken.
    Index {
        /// The file.
        path: PathBuf,
        /// In what way.
        error: IndexError,
    },
    /// Tensors are missing, and files as well that they may be in.
    Incomplete {
        /// The folder.
        folder: PathBuf,
        /// The files that are not there.
        files: Vec<String>,
        /// How many tensors are missing.
        tensors: usize,
        /// One of them.
        first: String,
    },
    /// The folder holds the shards of several checkpoints, and nothing says which of them counts.
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
    /// A tensor that was asked for is not there.
    MissingTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor that was asked for has elements of another type than F32, F16 or BF16.
    UnsupportedDtype {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
    },
    /// A tensor has another shape than it should.
    WrongShape {
        /// The tensor.
        tensor: String,
        /// The shape that it should have.
        expected: Vec<usize>,
        /// The shape that it has.
        found: Vec<usize>,
    },
    /// Rows were asked for that a tensor does not have.
    Rows {
        /// The tensor.
        tensor: String,
        /// First row asked for.
        start: usize,
        /// Number of rows asked for.
        rows: usize,
        /// Columns asked for.
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
    /// A quantized tensor cannot be read.
    Quantized {
        /// The tensor that holds the codes.
        tensor: String,
        /// What is wrong.
        error: QuantizedError,
    },
    /// A layer in the quantized layout of another project cannot be converted.
    Foreign {
        /// The layer: its tensors' names up to the last dot.
        layer: String,
        /// Why.
        error: ConversionError,
    },
    /// The checkpoint does not fit the model's configuration.
    Mismatch(Mismatch),
    /// There is not enough memory for a decoded tensor.
    OutOfMemory {
        /// The tensor.
        tensor: String,
        /// Bytes needed.
        bytes: usize,
    },
    /// The bytes of a tensor were asked for that are not in memory, or not as many as its shape needs.
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
                "{} is no folder: give the folder that holds config.json and model.safetensors",
                path.display()
            ),
            Self::Io { doing, path, source } => {
                write!(f, "could not {doing} {}: {source}", path.display())
            }
            Self::NotAFile { path, what } => {
                write!(f, "{} is {what}, where a safetensors file should be", path.display())
            }
            Self::DanglingLink { path } => write!(
                f,
                "{} is a link to a file that is not there: the download may be incomplete",
                path.display()
            ),
            Self::Region { file, offset, len, file_len } => write!(
                f,
                "{}: the {len} bytes from {offset} are not within the file's {file_len}",
                Name(file)
            ),
            Self::TooLargeToMap { file, len } => write!(
                f,
                "{}: {len} bytes are more than this machine's {}-bit addresses reach across",
                Name(file),
                usize::BITS
            ),
            Self::Shrunk { file, expected, found } => write!(
                f,
                "{} had {expected} bytes when it was opened and has {found} now: \
                 somebody changed it, load the model again",
                Name(file)
            ),
            Self::Header { file, error } => write!(f, "{}: {error}", Name(file)),
            Self::Index { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Incomplete { folder, files, tensors, first } => {
                let (s, rest) = if *tensors == 1 { ("", "") } else { ("s", ", ...") };
                let are = if files.len() == 1 { "is" } else { "are" };
                write!(
                    f,
                    "{} is incomplete: {tensors} tensor{s} missing ({}{rest}), and so {are} {}: \
                     the download was not finished, download what is lacking",
                    Place(folder),
                    Name(first),
                    Names(files)
                )
            }
            Self::MixedShards { folder, firsts } => write!(
                f,
                "{} holds the shards of several checkpoints ({}), and no index says which of them counts: \
                 remove those that are left over, or download model.safetensors.index.json",
                Place(folder),
                Names(firsts)
            ),
            Self::DuplicateTensor { tensor, first, second } => write!(
                f,
                "tensor {} is in {} and in {}, and no index says which one counts: remove the file that is left over",
                Name(tensor),
                Name(first),
                Name(second)
            ),
            Self::MissingTensor { tensor } => {
                write!(f, "tensor {} is not in the checkpoint", Name(tensor))
            }
            Self::UnsupportedDtype { tensor, dtype } => write!(
                f,
                "tensor {} has dtype {dtype}; F32, F16 and BF16 can be read",
                Name(tensor)
            ),
            Self::WrongShape { tensor, expected, found } => write!(
                f,
                "tensor {} has shape {}, {} was expected",
                Name(tensor),
                Shape(found),
                Shape(expected)
            ),
            Self::Rows { tensor, start, rows, cols, shape } => write!(
                f,
                "tensor {} of shape {} has no {rows} rows of {cols} from row {start} on",
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
                write!(f, "the quantized layer {} cannot be converted: {error}", Name(layer))
            }
            Self::Mismatch(mismatch) => mismatch.fmt(f),
            Self::OutOfMemory { tensor, bytes } => {
                write!(f, "not enough memory for the {bytes} bytes of tensor {}", Name(tensor))
            }
            Self::NotInMemory { tensor } => write!(
                f,
                "the bytes of tensor {} are not in memory: its file is read in parts, so read the rows first",
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
        "no weights in {}: neither model.safetensors nor model.safetensors.index.json is there",
        Place(folder)
    )?;
    let Some(first) = others.first() else {
        return f.write_str(
            "; give the folder that a model was downloaded to, with its *.safetensors files",
        );
    };
    write!(f, ", only {}", Name(first))?;
    if others.len() > 1 {
        write!(f, " and {} more files", others.len() - 1)?;
    }
    f.write_str(instead_of_weights(first))
}

/// What to do where the file `name` is there instead of weights: the end of a sentence that names it.
pub(crate) fn instead_of_weights(name: &str) -> &'static str {
    let ending = name.rsplit('.').next().unwrap_or_default();
    match ending {
        "safetensors" if name.starts_with("adapter") => {
            "; that is an adapter alone: merge it into its base model (`merge_and_unload` of `peft`), \
             store the result with `save_pretrained`, and give that folder"
        }
        "safetensors" if name.starts_with("consolidated") => {
            "; that file has tensors under names of its own: download model*.safetensors of the same model as well"
        }
        "safetensors" if name.contains("-of-") => {
            "; if these files are the whole model, rename them to model-00001-of-0000N.safetensors and so on"
        }
        "safetensors" => {
            "; if that is the whole model, rename it to model.safetensors, \
             else fetch the index file as well"
        }
        "gguf" => {
            "; GGUF files are not read: download the original checkpoint in safetensors format"
        }
        "onnx" | "tflite" | "mlmodel" | "xml" => {
            "; exported graphs are not read: download the original checkpoint in safetensors format"
        }
        "npz" => "; it is of an older version of MLX: convert the original checkpoint again",
        "h5" | "msgpack" => {
            "; weights of TensorFlow and Flax are not read: download the model in safetensors format"
        }
        _ => {
            ", which is not read (loading it would run code from the file): \
             load it with `transformers` and store it with \
             `model.save_pretrained(folder, safe_serialization=True)`"
        }
    }
}

/// Some names, and how many more there are.
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

/// A name out of a file: quoted, escaped, and cut where it is long.
pub(crate) struct Name<'a>(pub(crate) &'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 120;
        let mut chars = self.0.chars();
        f.write_str("`")?;
        for c in chars.by_ref().take(LONGEST) {
            // Quotation marks need no escape inside backquotes.
            if c == '"' || c == '\'' {
                write!(f, "{c}")
            } else {
                write!(f, "{}", c.escape_debug())
            }?;
        }
        f.write_str(if chars.next().is_some() { "...`" } else { "`" })
    }
}

/// What a JSON error says, cut: it may quote a string of any length out of the file.
pub(super) fn json_message(error: &serde_json::Error) -> String {
    const LONGEST: usize = 240;
    let message = error.to_string();
    match message.char_indices().nth(LONGEST) {
        // The place is at the end of the message, so it is put back.
        Some((cut, _)) => format!(
            "{}... at line {} column {}",
            message.get(..cut).unwrap_or_default(),
            error.line(),
            error.column()
        ),
        None => message,
    }
}

/// A shape: `[2, 3]`.
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
