//! Projections: what stands before them, and their forms for few and for many tokens.

use kinglet_models::{GateActivation, Norm};
use kinglet_shaders::{Arithmetic, Kernel, WeightType};

use super::builder::{Builder, Stored, Vectors};
use super::dispatch::{Extent, FEW, Over, Resource, When};
use super::params::{ABSENT, Params};
use super::upload::Piece;
use crate::Error;
use crate::plan::op::{self, Prologue, Slice};

/// Elements of which a prepared token, and each part of it, is a multiple: what tiles take at once.
pub(super) const PREPARED: usize = 64;
/// Threads of a workgroup of the form for few tokens; the fewest that share rows; rows that they share.
pub(super) const THREADS: usize = 256;
const LANES: usize = 32;
/// Elements that have a scale in common where they are rounded to eight bits; only whole units are.
pub(super) const INT8_UNIT: usize = 32;
const SHARED_ROWS: usize = 4;
/// Workgroups that keep a large device busy: measured on one of 132 multiprocessors.
const ENOUGH: usize = 132;
/// A prologue's parameters, its vectors already among the op's.
pub(super) struct Before {
    kind: usize,
    pub input: Slice,
    gate: Slice,
    weight: u32,
    bias: u32,
    groups: usize,
    eps: f32,
}

/// Most groups of a gated norm that kernels have room for.
pub(super) const MAX_GROUPS: usize = 512;
/// Most heads that the form behind a scan's heads has room for.
pub(super) const MAX_HEADS: usize = 256;

fn check_groups(groups: usize) -> Result<(), Error> {
    if groups <= MAX_GROUPS {
        return Ok(());
    }
    let (needed, limit) = (groups as u64, MAX_GROUPS as u64);
    Err(Error::DeviceLimit { what: "a norm in groups".into(), needed, limit })
}

impl Builder<'_> {
    /// What stands before a projection of `input`.
    pub(super) fn before(
        &self,
        vectors: &mut Vectors,
        input: Slice,
        prologue: &Prologue,
    ) -> Result<Before, Error> {
        let plain = Before {
            kind: 0,
            input,
            gate: input,
            weight: ABSENT,
            bias: ABSENT,
            groups: 1,
            eps: 0.0,
        };
        Ok(match prologue {
            Prologue::None => plain,
            Prologue::Norm(norm) => self.norm(vectors, input, Some(norm))?,
            Prologue::PlainNorm { eps } => Before { kind: 1, eps: *eps, ..plain },
            Prologue::SiluGate { gate } => Before { kind: 2, gate: *gate, ..plain },
            Prologue::GatedNorm { gate, norm, groups } => {
                check_groups(*groups)?;
                Before {
                    kind: if *groups == 1 { 3 } else { 5 },
                    gate: *gate,
                    weight: self.vector(vectors, &norm.weight)?,
                    groups: *groups,
                    eps: norm.eps,
                    ..plain
                }
            }
            Prologue::NormGate { norm, groups, gate, activation } => {
                check_groups(*groups)?;
                Before {
                    kind: match activation {
                        GateActivation::Silu => 6,
                        GateActivation::Sigmoid => 7,
                    },
                    gate: *gate,
                    weight: vectors.push(&self.weights.vector(&norm.weight)?.repeat(*groups)),
                    groups: *groups,
                    eps: norm.eps,
                    ..plain
                }
            }
        })
    }

    /// A norm, or nothing, before a projection of `input`.
    pub(super) fn norm(
        &self,
        vectors: &mut Vectors,
        input: Slice,
        norm: Option<&Norm>,
    ) -> Result<Before, Error> {
        let Some(norm) = norm else { return self.before(vectors, input, &Prologue::None) };
        let weight = self.vector(vectors, &norm.weight)?;
        let bias = self.optional(vectors, norm.bias.as_ref())?;
        let kind = if norm.bias.is_some() { 4 } else { 1 };
        Ok(Before { kind, input, gate: input, weight, bias, groups: 1, eps: norm.eps })
    }

    /// The norm of a scan's heads and its gate, before a projection of what the scan leaves.
    pub(super) fn heads(
        &self,
        vectors: &mut Vectors,
        input: Slice,
        scan: &op::MLstmScan,
    ) -> Result<Before, Error> {
        let width = scan.heads * scan.v_head_dim;
        // Behind queries, keys and values.
        let offset = 2 * scan.heads * scan.qk_head_dim + width;
        Ok(Before {
            // The kernel knows.
            kind: 0,
            input,
            gate: Slice { buffer: scan.input, offset, width },
            weight: self.vector(vectors, &scan.head_norm.weight)?,
            bias: self.optional(vectors, scan.head_norm.bias.as_ref())?,
            groups: scan.heads,
            eps: scan.head_norm.eps,
        })
    }

    /// Sets a kernel's `prologue`.
    pub(super) fn set_before(&self, params: &mut Params, before: &Before) {
        params
            .set("prologue.kind", before.kind)
            .set("prologue.cols", before.input.width)
            .set("prologue.input_offset", before.input.offset)
            .set("prologue.input_stride", self.width(before.input.buffer))
            .set("prologue.gate_offset", before.gate.offset)
            .set("prologue.gate_stride", self.width(before.gate.buffer))
            .set_u32("prologue.weight", before.weight)
            .set_u32("prologue.bias", before.bias)
            .set("prologue.groups", before.groups)
            .set_f32("prologue.eps", before.eps);
    }

    /// The bindings that a prologue needs.
    pub(super) fn before_resources(
        &self,
        before: &Before,
        vectors: &Resource,
    ) -> Vec<(&'static str, Resource)> {
        vec![
            ("input", self.buffer(before.input.buffer)),
            ("gate", self.buffer(before.gate.buffer)),
            ("vectors", vectors.clone()),
        ]
    }

    /// Makes the input of tiled projections ready in [`Memory::prepared`], for kernels that multiply with `arithmetic`.
    pub(super) fn prepare(
        &mut self,
        before: &Before,
        vectors: &Resource,
        prepare: Prepare,
    ) -> Result<(), Error> {
        let mut resources = self.before_resources(before, vectors);
        resources.push(("wanted", Resource::Buffer(self.memory.wanted.clone())));
        resources.push(("output", Resource::Buffer(self.memory.prepared.clone())));
        resources.push(("factors", Resource::Buffer(self.memory.factors.clone())));
        let over = if prepare.logits { Over::Logits } else { Over::Step };
        self.dispatch_as(
            self.device.variant_in(Kernel::Prepare, WeightType::F32, prepare.arithmetic()),
            |builder, params| {
                builder.set_before(params, before);
                params
                    .set("output_stride", prepare.stride(before.input.width))
                    .set("chosen", usize::from(prepare.logits))
                    .set("parts", prepare.parts)
                    .set("part", prepare.part)
                    .set("part_stride", prepare.part.max(1).next_multiple_of(PREPARED));
            },
            resources,
            [Extent::Tokens(1), Extent::Fixed(1)],
            (over, When::Many),
        )
    }

    /// Adds the dispatches of a projection in all its forms: for few tokens, by small tiles and by tiles. They share all
    /// parameters but those of their inputs.
    pub(super) fn projection(
        &mut self,
        [few, small, many]: [Kernel; 3],
        projection: &Projection<'_>,
        set: impl Fn(&mut Params, &Piece),
    ) -> Result<(), Error> {
        let Projection { before, few: own, vectors, pieces, output, over, share } = projection;
        for piece in *pieces {
            let mut resources = self.before_resources(own, vectors);
            resources.push(("weights", Resource::Buffer(piece.buffer.clone())));
            resources.push(("output", output.clone()));
            let rows = piece.items.len();
            let stored = self.stored(piece.weights, own);
            let lanes = self.lanes(few, stored, share * rows, before.input.width);
            self.dispatch(
                few,
                stored,
                |builder, params| {
                    builder.set_before(params, own);
                    params.set("lanes", lanes);
                    set(params, piece);
                },
                resources,
                [Extent::Fixed((share * rows).div_ceil(rows_of(lanes))), Extent::Tokens(1)],
                (*over, When::Few),
            )?;
        }
        // Pieces of a matrix are stored alike.
        let Some(piece) = pieces.first() else { return Ok(()) };
        let half = self.arithmetic(many, piece.weights.into()) != Arithmetic::F32;
        let prepare = Prepare { logits: *over == Over::Logits, half, parts: 0, part: 0 };
        self.prepare(before, vectors, prepare)?;
        for piece in *pieces {
            let rows = share * piece.items.len();
            let tile = self.tile(many, piece.weights)?;
            // A tile that is not half full costs as much as two small ones.
            let some = tile.tokens / 2;
            for (kernel, when) in
                [(small, When::Between(FEW + 1, some)), (many, When::Between(some + 1, usize::MAX))]
            {
                let resources = vec![
                    ("vectors", (*vectors).clone()),
                    ("prepared", Resource::Buffer(self.memory.prepared.clone())),
                    ("factors", Resource::Buffer(self.memory.factors.clone())),
                    ("weights", Resource::Buffer(piece.buffer.clone())),
                    ("output", output.clone()),
                ];
                let tile = self.tile(kernel, piece.weights)?;
                self.dispatch(
                    kernel,
                    piece.weights,
                    |_, params| {
                        params
                            .set("tiles.cols", before.input.width)
                            .set("tiles.stride", prepare.stride(before.input.width));
                        set(params, piece);
                    },
                    resources,
                    [Extent::Fixed(rows.div_ceil(tile.rows)), Extent::Tiles(tile.tokens)],
                    (*over, when),
                )?;
            }
        }
        Ok(())
    }

    /// The tile of a kernel.
    pub(super) fn tile(&self, kernel: Kernel, weights: WeightType) -> Result<Tile, Error> {
        let variant = self.variant(kernel, weights.into());
        match kinglet_shaders::metadata(variant).map(|metadata| metadata.tile) {
            Some([tokens, rows]) if tokens > 0 && rows > 0 => {
                Ok(Tile { tokens: tokens as usize, rows: rows as usize })
            }
            _ => Err(self.device.fault(format!("{} has no tiles", variant.name()))),
        }
    }
    /// Weights of this type for a projection behind `before`.
    pub(super) fn stored(&self, weights: WeightType, before: &Before) -> Stored {
        let four = |slice: Slice| {
            slice.offset.is_multiple_of(4) && self.width(slice.buffer).is_multiple_of(4)
        };
        // A thread's eight elements are of two groups at most.
        let wide = before.groups == 1 || before.input.width >= 8 * before.groups;
        let whole = before.input.width.is_multiple_of(INT8_UNIT);
        Stored { weights, aligned: four(before.input) && four(before.gate) && wide && whole }
    }

    /// Threads that share rows in the form for few tokens, where a token's `rows` of `cols` are computed: few rows are shared by
    /// more threads, so that there are enough workgroups for all of the device.
    pub(super) fn lanes(&self, kernel: Kernel, stored: Stored, rows: usize, cols: usize) -> usize {
        let (unit, piece) = match self.arithmetic(kernel, stored) {
            Arithmetic::Int8 => (INT8_UNIT, 7168),
            _ => (stored.weights.unit(), 1024),
        };
        let most = cols.min(piece).div_ceil(unit);
        let mut lanes = LANES;
        while lanes < THREADS && 2 * lanes <= most && rows.div_ceil(rows_of(lanes)) < ENOUGH {
            lanes *= 2;
        }
        lanes
    }
}

/// Rows of weights that a workgroup of the form for few tokens computes.
pub(super) fn rows_of(lanes: usize) -> usize {
    THREADS / lanes * SHARED_ROWS
}

/// Tokens and rows of weights of a workgroup.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    pub tokens: usize,
    pub rows: usize,
}

/// How the input of tiled projections is made ready.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prepare {
    /// Whether the rows are those whose logits are wanted.
    pub logits: bool,
    /// Whether it becomes f16.
    pub half: bool,
    /// Parts that are aligned by themselves, and their width; what remains is one more.
    pub parts: usize,
    pub part: usize,
}

impl Prepare {
    fn arithmetic(self) -> Arithmetic {
        if self.half { Arithmetic::F16 } else { Arithmetic::F32 }
    }

    /// Elements of a token of `width` elements.
    pub(super) fn stride(self, width: usize) -> usize {
        let rest = width.saturating_sub(self.parts * self.part);
        self.parts * self.part.next_multiple_of(PREPARED) + rest.next_multiple_of(PREPARED)
    }
}

/// A projection for [`Builder::projection`].
pub(super) struct Projection<'a> {
    pub before: &'a Before,
    /// The same where there are few tokens.
    pub few: &'a Before,
    pub vectors: &'a Resource,
    pub pieces: &'a [Piece],
    pub output: Resource,
    pub over: Over,
    /// Rows of weights of an output.
    pub share: usize,
}

/// Sets the field `name` of a kernel, where a section lies.
pub(super) fn set_matrix(params: &mut Params, name: &str, piece: &Piece, section: usize) {
    let Some(placed) = piece.placed.get(section) else { return };
    params
        .set_u32(&format!("{name}.offset"), placed.offset)
        .set_u32(&format!("{name}.stride"), placed.stride)
        .set_u32(&format!("{name}.scales"), placed.scales)
        .set_u32(&format!("{name}.scale_stride"), placed.scale_stride)
        .set_u32(&format!("{name}.units"), placed.units)
        .set_u32(&format!("{name}.kind"), placed.kind)
        .set_f32(&format!("{name}.factor"), placed.factor);
}
