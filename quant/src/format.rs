//! [`Format`]: the quantized layout of a matrix.

use std::fmt;

use crate::DType;

/// How a code and its group's scale give a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// `w = scale * q + bias`, with `q` an unsigned integer; scale and bias are floats. Scales may
    /// be negative.
    Affine,
    /// `w = scale * q`, `q` E2M1, the scale E8M0, groups of 32 (OCP MXFP4).
    MxFp4,
    /// `w = scale * q`, `q` E4M3, the scale E8M0, groups of 32 (OCP MXFP8 with E4M3 elements).
    MxFp8,
    /// `w = scale * q`, `q` E2M1, the scale E4M3, groups of 16 (NVIDIA NVFP4), optionally with a
    /// factor for the whole matrix.
    NvFp4,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 4] = [Self::Affine, Self::MxFp4, Self::MxFp8, Self::NvFp4];

    /// The name in `config.json`: `affine`, `mxfp4`, `mxfp8`, `nvfp4`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Affine => "affine",
            Self::MxFp4 => "mxfp4",
            Self::MxFp8 => "mxfp8",
            Self::NvFp4 => "nvfp4",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Mode {
    type Err = FormatError;
    fn from_str(name: &str) -> Result<Self, FormatError> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| FormatError::UnknownMode { name: name.chars().take(40).collect() })
    }
}

/// Type of a group's scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleType {
    /// Affine: scale and bias are floats of this type.
    Float(DType),
    /// A power of two in a byte.
    E8M0,
    /// A small float in a byte.
    E4M3,
}

impl ScaleType {
    /// Size of a scale, in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::Float(dtype) => dtype.size(),
            Self::E8M0 | Self::E4M3 => 1,
        }
    }
}

/// A quantized layout: the codes of `group` consecutive weights along the inputs share a scale.
///
/// A row of `cols` weights is `cols * bits / 32` little-endian words of 32 bits, in which weight
/// `i` is bits `i * bits .. (i + 1) * bits`, counted from the lowest bit of the first word (with 3,
/// 5 and 6 bits a weight may straddle two words), and `cols / group` scales; in affine mode also as
/// many biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Format {
    mode: Mode,
    bits: u8,
    group: u8,
}

impl Format {
    /// OCP MXFP4.
    pub const MXFP4: Self = Self { mode: Mode::MxFp4, bits: 4, group: 32 };
    /// OCP MXFP8 (E4M3).
    pub const MXFP8: Self = Self { mode: Mode::MxFp8, bits: 8, group: 32 };
    /// NVIDIA NVFP4.
    pub const NVFP4: Self = Self { mode: Mode::NvFp4, bits: 4, group: 16 };
    /// Possible bits of affine codes.
    pub const AFFINE_BITS: [usize; 6] = [2, 3, 4, 5, 6, 8];
    /// Possible group sizes of affine codes.
    pub const AFFINE_GROUPS: [usize; 3] = [32, 64, 128];

    /// Affine codes of `bits` bits in groups of `group`.
    ///
    /// # Errors
    /// Unless `bits` is 2, 3, 4, 5, 6 or 8 and `group` 32, 64 or 128.
    pub fn affine(bits: usize, group: usize) -> Result<Self, FormatError> {
        Self::new(Mode::Affine, Some(bits), Some(group))
    }

    /// The format of `mode` with `bits` and `group`, or MLX's defaults for those not given: affine
    /// 4 bits in groups of 64; each other mode has only one format.
    ///
    /// # Errors
    /// If the mode has no such format.
    pub fn new(mode: Mode, bits: Option<usize>, group: Option<usize>) -> Result<Self, FormatError> {
        let only = match mode {
            Mode::MxFp4 => Self::MXFP4,
            Mode::MxFp8 => Self::MXFP8,
            Mode::NvFp4 => Self::NVFP4,
            Mode::Affine => {
                let (bits, group) = (bits.unwrap_or(4), group.unwrap_or(64));
                if !Self::AFFINE_BITS.contains(&bits) || !Self::AFFINE_GROUPS.contains(&group) {
                    return Err(FormatError::NoSuchFormat { mode, bits, group });
                }
                // Both were just found in a short list.
                return Ok(Self { mode, bits: bits as u8, group: group as u8 });
            }
        };
        let (bits, group) = (bits.unwrap_or(only.bits()), group.unwrap_or(only.group()));
        if (bits, group) != (only.bits(), only.group()) {
            return Err(FormatError::NoSuchFormat { mode, bits, group });
        }
        Ok(only)
    }

    /// Infers the format of a matrix of `cols` columns whose rows are `words` words of 32 bits with
    /// `groups` scales; `float_scales` tells whether these are floats (affine) or bytes.
    /// Checkpoints are read this way, since entries of config.json are often missing or belong to
    /// another layer.
    ///
    /// # Errors
    /// If no format has such rows.
    pub fn infer(
        cols: usize,
        words: usize,
        groups: usize,
        float_scales: bool,
    ) -> Result<Self, FormatError> {
        let error = || FormatError::NoSuchRows { cols, words, groups, float_scales };
        let exact = |a: Option<usize>, b: usize| {
            a.filter(|a| b > 0 && a % b == 0).map(|a| a / b).ok_or_else(error)
        };
        let bits = exact(words.checked_mul(32), cols)?;
        let group = exact(Some(cols), groups)?;
        let format = match (float_scales, bits, group) {
            (true, ..) => Self::affine(bits, group).map_err(|_| error())?,
            (false, 4, 32) => Self::MXFP4,
            (false, 8, 32) => Self::MXFP8,
            (false, 4, 16) => Self::NVFP4,
            _ => return Err(error()),
        };
        Ok(format)
    }

    /// How codes give weights.
    pub const fn mode(self) -> Mode {
        self.mode
    }

    /// Bits per code.
    pub const fn bits(self) -> usize {
        self.bits as usize
    }

    /// Number of weights that share a scale.
    pub const fn group(self) -> usize {
        self.group as usize
    }

    /// Size of a row's codes in bytes, a multiple of 4. `cols` must be a multiple of the group; see
    /// [`Self::check_cols`].
    pub const fn row_bytes(self, cols: usize) -> usize {
        // A group is a multiple of 16 weights, so the division is exact; this order can't overflow
        // if the result fits.
        cols / 8 * self.bits as usize
    }

    /// Number of scales of a row.
    pub const fn groups(self, cols: usize) -> usize {
        cols / self.group as usize
    }

    /// The type of the scales; `float` is the type of affine ones.
    pub const fn scale_type(self, float: DType) -> ScaleType {
        match self.mode {
            Mode::Affine => ScaleType::Float(float),
            Mode::MxFp4 | Mode::MxFp8 => ScaleType::E8M0,
            Mode::NvFp4 => ScaleType::E4M3,
        }
    }

    /// Bits per weight including scales (and biases); `float` is the type of affine ones.
    pub fn bits_per_weight(self, float: DType) -> f64 {
        let per_group = match self.mode {
            Mode::Affine => 2 * float.size(),
            _ => 1,
        };
        self.bits() as f64 + 8.0 * per_group as f64 / self.group() as f64
    }

    /// Fails unless rows of `cols` weights are whole groups.
    ///
    /// # Errors
    /// [`FormatError::Ragged`].
    pub fn check_cols(self, cols: usize) -> Result<(), FormatError> {
        // Rows are then whole words too: nvfp4's groups of 16 nibbles are two words.
        match cols % self.group() {
            0 => Ok(()),
            _ => Err(FormatError::Ragged { format: self, cols }),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode {
            Mode::Affine => write!(f, "{}-bit affine, groups of {}", self.bits, self.group),
            mode => write!(f, "{mode}"),
        }
    }
}

/// An invalid format, or a matrix that does not fit one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FormatError {
    /// No mode has this name.
    UnknownMode {
        /// The name, or its beginning.
        name: String,
    },
    /// The mode has no format with these bits and group size.
    NoSuchFormat {
        /// The mode.
        mode: Mode,
        /// Requested bits.
        bits: usize,
        /// Requested group size.
        group: usize,
    },
    /// No format has such rows.
    NoSuchRows {
        /// Weights per row.
        cols: usize,
        /// Words of 32 bits per row.
        words: usize,
        /// Scales per row.
        groups: usize,
        /// Whether scales are floats.
        float_scales: bool,
    },
    /// The last group of a row would be shorter than the others.
    Ragged {
        /// The format.
        format: Format,
        /// Weights per row.
        cols: usize,
    },
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownMode { name } => {
                write!(
                    f,
                    "unknown quantization mode {name:?}; expected affine, mxfp4, mxfp8 or nvfp4"
                )
            }
            Self::NoSuchFormat { mode: Mode::Affine, bits, group } => write!(
                f,
                "affine quantization has 2, 3, 4, 5, 6 or 8 bits and groups of 32, 64 or 128, \
                 not {bits} bits and groups of {group}"
            ),
            Self::NoSuchFormat { mode, bits, group } => {
                let only = match mode {
                    Mode::MxFp8 => Format::MXFP8,
                    Mode::NvFp4 => Format::NVFP4,
                    _ => Format::MXFP4,
                };
                let (only_bits, only_group) = (only.bits, only.group);
                write!(
                    f,
                    "{mode} has {only_bits} bits and groups of {only_group}, \
                     not {bits} bits and groups of {group}"
                )
            }
            Self::NoSuchRows { cols, words, groups, float_scales } => {
                let scales = if *float_scales { "float" } else { "byte" };
                write!(
                    f,
                    "no quantized format packs {cols} weights into {words} words of 32 bits \
                     with {groups} {scales} scales"
                )
            }
            Self::Ragged { format, cols } => write!(
                f,
                "rows of {cols} weights are not whole groups of {}: quantize this matrix with a group \
                 that divides {cols}, or leave it as it is",
                format.group
            ),
        }
    }
}

impl std::error::Error for FormatError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_inferred_from_rows() {
        let affine = Format::AFFINE_BITS.into_iter().flat_map(|bits| {
            Format::AFFINE_GROUPS.map(|group| Format::affine(bits, group).unwrap())
        });
        for format in affine.chain([Format::MXFP4, Format::MXFP8, Format::NVFP4]) {
            let cols = 384;
            let (words, groups) = (format.row_bytes(cols) / 4, format.groups(cols));
            let float = format.mode() == Mode::Affine;
            assert_eq!(Format::infer(cols, words, groups, float), Ok(format));
            assert!(Format::infer(cols, words + 1, groups, float).is_err());
            assert!(Format::infer(cols, words, 0, float).is_err());
            assert!(Format::infer(0, words, groups, float).is_err());
        }
    }

    #[test]
    fn other_formats_are_refused() {
        assert!(Format::affine(7, 64).is_err());
        assert!(Format::affine(4, 16).is_err());
        assert!(Format::new(Mode::MxFp4, Some(4), Some(64)).is_err());
        assert_eq!(Format::new(Mode::NvFp4, None, None), Ok(Format::NVFP4));
        assert_eq!(Format::new(Mode::Affine, None, None), Format::affine(4, 64));
        assert!("mxfp5".parse::<Mode>().is_err());
    }
}
