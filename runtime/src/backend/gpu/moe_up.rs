//! `moe_up` on a GPU. Few tokens: each token's experts by themselves. Many: in groups. The shared expert is part of the same launch where it
//! is stored alike.

use kinglet_models::Matrix;
use kinglet_shaders::Kernel;

use super::builder::{Builder, Vectors};
use super::grouped::Grouped;
use super::layout::Layout;
use super::params::activation;
use super::projection::{PREPARED, rows_of, set_matrix};
use super::recording::{Extent, Resource, Scope, When};
use super::weights::{Piece, Section, bytes_of};
use crate::Error;
use crate::plan::op::{self, Slice};

/// A piece with experts, the shared expert or both. The shared expert's sections begin at `shared`.
pub(super) struct Experts {
    pub piece: Piece,
    pub has_experts: bool,
    pub shared: Option<usize>,
}

/// Places `sections` of experts, and `shared` in the same buffer where it is stored alike and fits.
pub(super) fn upload(
    builder: &mut Builder<'_>,
    mut sections: Vec<Section>,
    shared: Vec<Section>,
    count: usize,
) -> Result<Vec<Experts>, Error> {
    let own = Layout::common(sections.iter().flat_map(Section::matrices));
    let other = Layout::common(shared.iter().flat_map(Section::matrices));
    let bytes = bytes_of(own, &sections, count) + bytes_of(own, &shared, 1);
    let experts = sections.len();
    if !shared.is_empty() && own == other && bytes as u64 <= builder.target.max_binding {
        // All of it is one item.
        for section in &mut sections {
            section.rows_per_item *= count;
        }
        sections.extend(shared);
        let pieces = builder.pieces(own, sections, 1)?;
        let all = pieces.into_iter().map(|mut piece| {
            piece.items = 0..count;
            Experts { piece, has_experts: true, shared: Some(experts) }
        });
        return Ok(all.collect());
    }
    let pieces = builder.pieces(own, sections, count)?;
    let mut all: Vec<_> = pieces
        .into_iter()
        .map(|piece| Experts { piece, has_experts: true, shared: None })
        .collect();
    if !shared.is_empty() {
        for piece in builder.pieces(other, shared, 1)? {
            all.push(Experts { piece, has_experts: false, shared: Some(0) });
        }
    }
    Ok(all)
}

/// A section of stacks of equal matrices, one of each stack for each item.
pub(super) fn section(builder: &Builder<'_>, stacks: &[Vec<Matrix>]) -> Result<Section, Error> {
    let mut data = Vec::new();
    for stack in stacks {
        data.push(stack.iter().map(|m| builder.matrix(m)).collect::<Result<Vec<_>, Error>>()?);
    }
    let first = stacks.first().and_then(|stack| stack.first());
    Ok(Section { stacks: data, rows_per_item: first.map_or(0, |matrix| matrix.rows) })
}

pub(super) fn add(op: &op::MoeUp, builder: &mut Builder<'_>) -> Result<(), Error> {
    // All gates, then all others.
    let stacks = |experts: &'_ [op::UpMatrices]| -> Vec<Vec<_>> {
        let gates: Vec<_> = experts.iter().filter_map(|expert| expert.gate.clone()).collect();
        let ups = experts.iter().map(|expert| expert.up.clone()).collect();
        [gates, ups].into_iter().filter(|stack| !stack.is_empty()).collect()
    };
    let experts = section(builder, &stacks(&op.experts))?;
    let mut shared = Vec::new();
    if let Some(own) = &op.shared {
        shared.push(section(builder, &stacks(std::slice::from_ref(own)))?);
    }
    // Rows of weights of an output.
    let share = if op.gated() { 2 } else { 1 };
    let pieces = upload(builder, vec![experts], shared, op.experts.len())?;
    let mut vectors = Vectors::default();
    let all = builder.whole(op.input);
    // What one expert reads; the others' inputs follow where each has its own.
    let one = Slice { width: op.hidden(), ..all };
    let prologue = builder.norm(&mut vectors, one, op.norm.as_ref())?;
    let every = builder.norm(&mut vectors, all, op.norm.as_ref().filter(|_| !op.own_inputs))?;
    let part = if op.own_inputs { op.hidden() } else { 0 };
    let vectors = builder.vectors(&vectors)?;
    let width = builder.width(op.output);
    for Experts { piece, has_experts, shared } in &pieces {
        let places = if *has_experts { op.top_k } else { 0 };
        let shared_inner = if shared.is_some() { op.shared_inner() } else { 0 };
        let inner = if *has_experts { op.inner() } else { 0 };
        let mut resources = builder.prologue_resources(&prologue, vectors);
        resources.push(("weights", Resource::Memory(piece.memory)));
        resources.push(("routes", builder.buffer(op.routes)));
        resources.push(("output", builder.buffer(op.output)));
        let most = inner.max(shared_inner);
        let rows = share * most * (places + 1);
        let stored = builder.stored(piece.weights, &prologue);
        let lanes = builder.lanes(Kernel::MoeUpRows, stored, rows, prologue.input.width);
        builder.launch(
            Kernel::MoeUpRows,
            stored,
            |builder, params| {
                builder.set_prologue(params, &prologue);
                params
                    .set("first_expert", piece.items.start)
                    .set("experts", piece.items.len())
                    .set("inner", op.inner())
                    .set("shared_inner", shared_inner)
                    .set("places", places)
                    .set("top_k", op.top_k)
                    .set("routes_stride", builder.width(op.routes))
                    .set("output_stride", builder.width(op.output))
                    .set("activation", activation(op.activation))
                    .set("gated", usize::from(op.gated()))
                    .set("part", part)
                    .set("lanes", lanes);
                set_matrix(params, "matrix", piece, 0);
                set_matrix(params, "shared_matrix", piece, shared.unwrap_or(0));
            },
            &resources,
            [
                Extent::Fixed((share * most).div_ceil(rows_of(lanes))),
                Extent::Tokens(places + usize::from(shared_inner > 0)),
            ],
            (Scope::Step, When::Few),
        )?;
    }
    builder.grouped(
        &Grouped {
            kernels: [Kernel::MoeUpSmallTiles, Kernel::MoeUpTiles],
            pieces: &pieces,
            prologue: &every,
            vectors,
            routes: op.routes,
            experts: op.experts.len(),
            top_k: op.top_k,
            shared: op.shared.is_some(),
            parts: if op.own_inputs { (op.top_k, op.hidden()) } else { (0, 0) },
            rows: share * op.inner().max(op.shared_inner()),
            output: builder.buffer(op.output),
        },
        |params, experts, _| {
            params
                .set("inner", op.inner())
                .set("shared_inner", if experts.shared.is_some() { op.shared_inner() } else { 0 })
                .set("output_stride", width)
                .set("activation", activation(op.activation))
                .set("gated", usize::from(op.gated()))
                .set("part_stride", part.next_multiple_of(PREPARED))
                .set("tiles.cols", op.hidden());
        },
    )
}
