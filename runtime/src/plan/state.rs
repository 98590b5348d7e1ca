//! The states of sessions: the kind of each, and how it is stored.

#![deny(clippy::wildcard_enum_match_arm)]

/// The state that a session carries for one op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// `layer.NUMBER.NAME`.
    pub name: String,
    /// Its kind.
    pub kind: StateKind,
    /// How its numbers are stored between steps.
    pub format: StateFormat,
    /// Whether that must be f32: sums that never decay leave the range and the precision of f16.
    pub exact: bool,
}

/// How the numbers of a state are stored between steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StateFormat {
    /// f32, as they are computed with.
    #[default]
    F32,
    /// f16.
    F16,
    /// Codes of 8 bits, with a scale and a bias in f16 for every [`CACHE_GROUP`] of a head's
    /// elements: `scale * code + bias`.
    Affine8,
    /// The same with codes of 4 bits.
    Affine4,
}

/// Elements of a key or a value that share scale and bias in a quantized cache.
pub const CACHE_GROUP: usize = 32;

impl StateFormat {
    /// Bytes of `rows` rows of `width` numbers. Every row starts a new group, and its last group
    /// takes full size.
    pub fn bytes(self, rows: usize, width: usize) -> usize {
        let groups = |bits: usize| 4 * (bits + 1) * width.div_ceil(CACHE_GROUP);
        let row = match self {
            Self::F32 => 4 * width,
            Self::F16 => 2 * width,
            Self::Affine8 => groups(8),
            Self::Affine4 => groups(4),
        };
        row.saturating_mul(rows)
    }
}

/// The kind of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateKind {
    /// An f32 tensor of constant size, initially zero.
    Tensor {
        /// Outermost dimension first.
        shape: Vec<usize>,
    },
    /// Keys and values of all positions so far: grows with the context.
    KeyValue {
        /// Key and value heads.
        kv_heads: usize,
        /// Width of a head's key.
        key_dim: usize,
        /// Width of a head's value; 0 where values are elements of the keys.
        value_dim: usize,
        /// The number of last positions that are still read; older ones may be dropped.
        window: Option<usize>,
        /// The number of first positions that are always read.
        sinks: usize,
    },
}

impl State {
    /// Number of elements at a context of `tokens` tokens.
    pub fn elements(&self, tokens: usize) -> usize {
        match &self.kind {
            StateKind::Tensor { shape } => shape.iter().product(),
            StateKind::KeyValue { kv_heads, key_dim, value_dim, window, sinks } => {
                let most = window.map_or(tokens, |window| window.saturating_add(*sinks));
                (kv_heads * (key_dim + value_dim)).saturating_mul(most.min(tokens))
            }
        }
    }

    /// Bytes at a context of `tokens` tokens.
    pub fn bytes(&self, tokens: usize) -> usize {
        let elements = self.elements(tokens);
        match &self.kind {
            StateKind::Tensor { .. } => self.format.bytes(elements, 1),
            StateKind::KeyValue { key_dim, value_dim, .. } => {
                let rows = elements / (key_dim + value_dim).max(1);
                [key_dim, value_dim].iter().map(|width| self.format.bytes(rows, **width)).sum()
            }
        }
    }
}
