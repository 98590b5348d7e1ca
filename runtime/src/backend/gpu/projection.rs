//! Projections: their prologues, and their forms for few and for many tokens.

use kinglet_models::{GateActivation, Norm};
use kinglet_shaders::{Arithmetic, Kernel, WeightType};

use super::builder::{Builder, Stored, Vectors};
use super::params::{ABSENT, Params};
use super::recording::{Extent, FEW, Resource, Scope, When};
use super::weights::Piece;
use crate::Error;
use crate::plan::op::{self, Prologue, Slice};

/// A prepared token, and each part of it, is padded to a multiple of this many elements: the columns that tiles load at once.
pub(super) const PREPARED: usize = 64;
/// Threads of a workgroup of the form for few tokens.
pub(super) const THREADS: usize = 256;
/// The fewest threads that share rows.
const LANES: usize = 32;
/// Rows that they share.
const SHARED_ROWS: usize = 4;
/// Activations that share a scale where they are rounded to eight bits. Only whole units are rounded.
pub(super) const INT8_UNIT: usize = 32;
/// Workgroups that keep a large device busy: measured on one with 132 multiprocessors.
const ENOUGH: usize = 132;

/// The parameters of a [`Prologue`] in a kernel. Its vectors are among the op's.
pub(super) struct PrologueParams {
    kind: usize,
    pub input: Slice,
    gate: Slice,
    weight: u32,
    bias: u32,
    groups: usize,
    eps: f32,
}

/// Most groups of a gated norm that kernels have memory for.
pub(super) const MAX_GROUPS: usize = 512;
/// Most heads that the form with a norm of heads has memory for.
pub(super) const MAX_HEADS: usize = 256;

fn check_groups(groups: usize) -> Result<(), Error> {
    if groups <= MAX_GROUPS {
        return Ok(());
    }
    let (needed, limit) = (groups as u64, MAX_GROUPS as u64);
    Err(Error::DeviceLimit { what: "a norm in groups".into(), needed, limit })
}

impl Builder<'_> {
    /// `prologue` of a projection of `input`.
    pub(super) fn prologue(
        &self,
        vectors: &mut Vectors,
        input: Slice,
        prologue: &Prologue,
    ) -> Result<PrologueParams, Error> {
        let plain = PrologueParams {
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
            Prologue::PlainNorm { eps } => PrologueParams { kind: 1, eps: *eps, ..plain },
            Prologue::SiluGate { gate } => PrologueParams { kind: 2, gate: *gate, ..plain },
            Prologue::SigmoidGate { gate } if gate.width == input.width => {
                PrologueParams { kind: 8, gate: *gate, ..plain }
            }
            Prologue::SigmoidGate { gate } => {
                PrologueParams { kind: 9, gate: *gate, groups: gate.width.max(1), ..plain }
            }
            Prologue::GatedNorm { gate, norm, groups } => {
                check_groups(*groups)?;
                PrologueParams {
                    kind: if *groups == 1 { 3 } else { 5 },
                    gate: *gate,
                    weight: self.norm_vectors(vectors, norm)?.0,
                    groups: *groups,
                    eps: norm.eps,
                    ..plain
                }
            }
            Prologue::NormGate { norm, groups, gate, activation } => {
                check_groups(*groups)?;
                // Groups with a common weight have copies of it.
                let weight = self.weights.norm_weight(norm)?;
                let copies = input.width / weight.len().max(1);
                PrologueParams {
                    kind: match activation {
                        GateActivation::Silu => 6,
                        GateActivation::Sigmoid => 7,
                    },
                    gate: *gate,
                    weight: vectors.push(&weight.repeat(copies)),
                    groups: *groups,
                    eps: norm.eps,
                    ..plain
                }
            }
        })
    }

    /// A norm, or nothing, as the prologue of a projection of `input`.
    pub(super) fn norm(
        &self,
        vectors: &mut Vectors,
        input: Slice,
        norm: Option<&Norm>,
    ) -> Result<PrologueParams, Error> {
        let Some(norm) = norm else { return self.prologue(vectors, input, &Prologue::None) };
        let (weight, bias) = self.norm_vectors(vectors, norm)?;
        let kind = match (norm.centred, norm.bias.is_some()) {
            (true, _) => 10,
            (false, true) => 4,
            (false, false) => 1,
        };
        Ok(PrologueParams { kind, input, gate: input, weight, bias, groups: 1, eps: norm.eps })
    }

    /// The norm of a scan's heads and its gate, as the prologue of a projection of the scan's output.
    pub(super) fn heads(
        &self,
        vectors: &mut Vectors,
        input: Slice,
        scan: &op::MLstmScan,
    ) -> Result<PrologueParams, Error> {
        let width = scan.heads * scan.v_head_dim;
        // After queries, keys and values.
        let offset = 2 * scan.heads * scan.qk_head_dim + width;
        // A scan without a norm defers none.
        let fault = || self.target.fault("a scan without a norm defers it");
        let norm = scan.head_norm.as_ref().ok_or_else(fault)?;
        let (weight, bias) = self.norm_vectors(vectors, norm)?;
        Ok(PrologueParams {
            // The kernel knows.
            kind: 0,
            input,
            gate: Slice { buffer: scan.input, offset, width },
            weight,
            bias,
            groups: scan.heads,
            eps: norm.eps,
        })
    }

    /// Sets a kernel's `prologue`.
    pub(super) fn set_prologue(&self, params: &mut Params, prologue: &PrologueParams) {
        params
            .set("prologue.kind", prologue.kind)
            .set("prologue.cols", prologue.input.width)
            .set("prologue.input_offset", prologue.input.offset)
            .set("prologue.input_stride", self.width(prologue.input.buffer))
            .set("prologue.gate_offset", prologue.gate.offset)
            .set("prologue.gate_stride", self.width(prologue.gate.buffer))
            .set_u32("prologue.weight", prologue.weight)
            .set_u32("prologue.bias", prologue.bias)
            .set("prologue.groups", prologue.groups)
            .set_f32("prologue.eps", prologue.eps);
    }

    /// The bindings that a prologue needs, with room for an op's own.
    pub(super) fn prologue_resources(
        &self,
        prologue: &PrologueParams,
        vectors: Resource,
    ) -> Vec<(&'static str, Resource)> {
        vec![
            ("input", self.buffer(prologue.input.buffer)),
            ("gate", self.buffer(prologue.gate.buffer)),
            ("vectors", vectors),
        ]
    }

    /// Adds the launch that prepares the input of tiled projections, in [`Memory::prepared`](super::memory::Memory::prepared).
    pub(super) fn prepare(
        &mut self,
        prologue: &PrologueParams,
        vectors: Resource,
        prepare: Prepare,
    ) -> Result<(), Error> {
        let mut resources = self.prologue_resources(prologue, vectors);
        resources.push(("wanted", Resource::Memory(self.memory.wanted)));
        resources.push(("output", Resource::Memory(self.memory.prepared)));
        resources.push(("factors", Resource::Memory(self.memory.factors)));
        let scope = if prepare.logits { Scope::Logits } else { Scope::Step };
        self.launch_variant(
            self.target.variant_in(Kernel::Prepare, WeightType::F32, prepare.arithmetic()),
            |builder, params| {
                builder.set_prologue(params, prologue);
                params
                    .set("output_stride", prepare.stride(prologue.input.width))
                    .set("chosen", usize::from(prepare.logits))
                    .set("parts", prepare.parts)
                    .set("part", prepare.part)
                    .set("part_stride", prepare.part.max(1).next_multiple_of(PREPARED));
            },
            &resources,
            [Extent::Tokens(1), Extent::Fixed(1)],
            (scope, When::Many),
        )
    }

    /// Adds the launches of a projection in all its forms: for few tokens, by small tiles and by tiles. They share all
    /// parameters but those of their inputs.
    pub(super) fn projection(
        &mut self,
        [few, small, many]: [Kernel; 3],
        projection: &Projection<'_>,
        set: impl Fn(&mut Params, &Piece),
    ) -> Result<(), Error> {
        let &Projection { prologue, few: own, vectors, pieces, output, scope, share, more } =
            projection;
        for piece in pieces {
            let mut resources = self.prologue_resources(own, vectors);
            resources.push(("weights", Resource::Memory(piece.memory)));
            resources.push(("output", output));
            resources.extend(more);
            let rows = piece.items.len();
            let stored = self.stored(piece.weights, own);
            let lanes = self.lanes(few, stored, share * rows, prologue.input.width);
            self.launch(
                few,
                stored,
                |builder, params| {
                    builder.set_prologue(params, own);
                    params.set("lanes", lanes);
                    set(params, piece);
                },
                &resources,
                [Extent::Fixed((share * rows).div_ceil(rows_of(lanes))), Extent::Tokens(1)],
                (scope, When::Few),
            )?;
        }
        // Pieces of a matrix are stored alike.
        let Some(piece) = pieces.first() else { return Ok(()) };
        let half = self.arithmetic(many, piece.weights.into()) != Arithmetic::F32;
        let prepare = Prepare { logits: scope == Scope::Logits, half, parts: 0, part: 0 };
        self.prepare(prologue, vectors, prepare)?;
        for piece in pieces {
            let rows = share * piece.items.len();
            let tile = self.tile(many, piece.weights)?;
            // A tile that is not half full costs as much as two small ones.
            let some = tile.tokens / 2;
            for (kernel, when) in
                [(small, When::Between(FEW + 1, some)), (many, When::Between(some + 1, usize::MAX))]
            {
                let mut resources = vec![
                    ("vectors", vectors),
                    ("prepared", Resource::Memory(self.memory.prepared)),
                    ("factors", Resource::Memory(self.memory.factors)),
                    ("weights", Resource::Memory(piece.memory)),
                    ("output", output),
                ];
                resources.extend(more);
                let tile = self.tile(kernel, piece.weights)?;
                self.launch(
                    kernel,
                    piece.weights,
                    |_, params| {
                        params
                            .set("tiles.cols", prologue.input.width)
                            .set("tiles.stride", prepare.stride(prologue.input.width));
                        set(params, piece);
                    },
                    &resources,
                    [Extent::Fixed(rows.div_ceil(tile.rows)), Extent::Tiles(tile.tokens)],
                    (scope, when),
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
            _ => Err(self.target.fault(format!("{} has no tiles", variant.name()))),
        }
    }

    /// Weights of this type for a projection with this prologue.
    pub(super) fn stored(&self, weights: WeightType, prologue: &PrologueParams) -> Stored {
        let four = |slice: Slice| {
            slice.offset.is_multiple_of(4) && self.width(slice.buffer).is_multiple_of(4)
        };
        // A thread's eight elements are of two groups at most.
        let wide = prologue.groups == 1 || prologue.input.width >= 8 * prologue.groups;
        let whole = prologue.input.width.is_multiple_of(INT8_UNIT);
        Stored { weights, aligned: four(prologue.input) && four(prologue.gate) && wide && whole }
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
    pub prologue: &'a PrologueParams,
    /// The prologue of the form for few tokens.
    pub few: &'a PrologueParams,
    pub vectors: Resource,
    pub pieces: &'a [Piece],
    pub output: Resource,
    pub scope: Scope,
    /// Rows of weights of an output.
    pub share: usize,
    /// Further bindings of the kernels.
    pub more: &'a [(&'static str, Resource)],
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
