//! A small model with one block like one of a real model: the same kernels, fewer heads, experts and channels.

use std::collections::HashMap;

use kinglet_models::{
    Block, Branch, Embedding, Head, Input, Linear, Matrix, Mixer, ModelSpec, Positions, Residual,
    Role, Small, SmallPart, Target,
};

use super::tensors::Tensors;
use crate::Error;
use crate::weights::Weights;

/// The sizes of the small model. Rows of all quantized formats can have these widths.
const SMALL: Small =
    Small { hidden: 256, width: 256, expert_width: 128, heads: 2, experts: 8, window: 40 };
/// Tokens that the small model knows.
pub(super) const VOCAB: usize = 192;

/// A small model.
pub(super) struct Probe {
    pub spec: ModelSpec,
    pub weights: Weights,
    /// What makes it another one.
    pub key: String,
    /// Whether a token may go to another expert where it is rounded.
    pub routes: bool,
    /// What it has, for people.
    pub name: &'static str,
}

impl Probe {
    /// The small model that has a block like `block` of `real`.
    ///
    /// # Errors
    /// When a tensor can't be read, or can't be had in small.
    pub(super) fn new(real: &ModelSpec, weights: &Weights, block: &Block) -> Result<Self, Error> {
        let mut tensors = Tensors::new(weights);
        let t = &mut tensors;
        let hidden = real.hidden.min(SMALL.hidden);
        let small = Small { hidden, ..SMALL };
        let table = t.matrix(&real.embedding.table, VOCAB, hidden)?;
        let positions = match &real.embedding.positions {
            Some(Positions::Learned(table)) => {
                Some(Positions::Learned(t.matrix(table, super::length(), hidden)?))
            }
            Some(Positions::Sinusoidal) => Some(Positions::Sinusoidal),
            None => None,
        };
        let linear = if real.head.linear.weight == real.embedding.table {
            Linear::from(table.clone())
        } else {
            t.linear(&real.head.linear, VOCAB, hidden)?
        };
        let mut branches = Vec::new();
        for branch in &block.branches {
            let mixer = mixer(t, &branch.mixer, &small)?;
            branches.push(Branch { mixer, input_scale: 1.0, scale: 1.0 });
        }
        // A single block passes nothing on to others.
        let (input, width) = match block.input {
            Input::Stream | Input::Aside => (Input::Stream, hidden),
            Input::WithEmbeddings => (Input::WithEmbeddings, 2 * hidden),
        };
        let residual = match block.residual {
            Residual::Nothing => Residual::Stream,
            Residual::Stream | Residual::Normed { .. } => block.residual,
        };
        let mut parts = block.branches.iter().flat_map(|branch| branch.mixer.parts());
        let routes = parts.any(|part| part.role == Role::Router);
        let name = block.branches.first().map_or("nothing", |b| b.mixer.layer().title());
        let spec = ModelSpec {
            model_type: "probe".into(),
            hidden,
            vocab: VOCAB,
            max_positions: None,
            // The table has the size of a matrix that keeps sizes.
            embedding: Embedding { table, scale: (hidden as f32).sqrt(), positions },
            blocks: vec![Block {
                layer: 0,
                input,
                norm: block.norm.as_ref().map(|norm| t.norm(norm, width)),
                branches,
                post_norm: block.post_norm.as_ref().map(|norm| t.norm(norm, hidden)),
                residual,
                residual_scale: 1.0,
                stream_norm: block.stream_norm.as_ref().map(|norm| t.norm(norm, hidden)),
                target: Target::Stream,
            }],
            head: Head {
                norm: t.norm(&real.head.norm, hidden),
                linear,
                scale: 1.0,
                soft_cap: real.head.soft_cap,
                untied: None,
            },
            ignored: Vec::new(),
        };
        let key = format!("{spec:?} {:?}", tensors.encodings);
        Ok(Self { spec, weights: tensors.weights()?, key, routes, name })
    }
}

/// The layer in small, with tensors that are stored as the real one's are.
fn mixer(t: &mut Tensors<'_>, real: &Mixer, small: &Small) -> Result<Mixer, Error> {
    let matrices = real.parts().into_iter().filter_map(|part| part.held.matrix());
    let matrices: HashMap<(&str, usize), &Matrix> =
        matrices.map(|matrix| ((&*matrix.tensor.name, matrix.row_offset), matrix)).collect();
    let mut mixer = real.layer().small(small);
    for part in mixer.small_parts() {
        match part {
            SmallPart::Linear(linear) => {
                let Matrix { tensor, row_offset, rows, cols } = &linear.weight;
                let Some(real) = matrices.get(&(&*tensor.name, *row_offset)) else {
                    return Err(Error::Unsupported { what: "testing a layer in small" });
                };
                let real = Linear { weight: (*real).clone(), bias: linear.bias.take(), ..*linear };
                *linear = t.linear(&real, *rows, *cols)?;
            }
            SmallPart::Tensor(role, tensor) => *tensor = t.vector(&tensor.shape, role.typical()),
        }
    }
    Ok(mixer)
}
