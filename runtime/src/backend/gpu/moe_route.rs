//! `moe_route` on a GPU.

use kinglet_models::{ExpertGroups, GroupRank, Score};
use kinglet_shaders::Kernel;

use super::builder::{Builder, Vectors};
use super::projection::set_matrix;
use super::recording::{Extent, Resource, Scope, When};
use crate::Error;
use crate::plan::op;

/// Most experts that the kernel has workgroup memory for.
pub(super) const MAX_EXPERTS: usize = 512;
/// Most groups of experts that it has memory for.
const MAX_GROUPS: usize = 64;

pub(super) fn add(op: &op::MoeRoute, builder: &mut Builder<'_>) -> Result<(), Error> {
    let router = &op.router;
    let experts = router.experts();
    let limit = |needed: usize, limit: usize| Error::DeviceLimit {
        what: "a router's number of experts".into(),
        needed: needed as u64,
        limit: limit as u64,
    };
    if experts > MAX_EXPERTS {
        return Err(limit(experts, MAX_EXPERTS));
    }
    // The shared expert's gate is one more row.
    let linears: Vec<_> = [&router.linear].into_iter().chain(&op.shared_gate).cloned().collect();
    let matrices: Vec<_> = linears.iter().map(|linear| linear.weight.clone()).collect();
    let pieces = builder.rows(&[&matrices])?;
    let [piece] = &pieces[..] else { return Err(limit(experts, pieces[0].items.len())) };
    let mut vectors = Vectors::default();
    let prologue = builder.norm(&mut vectors, builder.whole(op.input), op.norm.as_ref())?;
    let bias = builder.biases(&mut vectors, &linears)?;
    let factors = builder.factors(&mut vectors, &linears);
    let selection_bias = builder.optional(&mut vectors, router.selection_bias.as_ref())?;
    let vectors = builder.vectors(&vectors)?;
    let mut resources = builder.prologue_resources(&prologue, vectors);
    resources.push(("weights", Resource::Memory(piece.memory)));
    resources.push(("output", builder.buffer(op.output)));
    let groups = router.groups;
    if let Some(groups) = groups.filter(|groups| groups.count > MAX_GROUPS) {
        return Err(Error::DeviceLimit {
            what: "a router's number of groups".into(),
            needed: groups.count as u64,
            limit: MAX_GROUPS as u64,
        });
    }
    let groups = groups.unwrap_or(ExpertGroups { count: 0, used: 0, rank: GroupRank::Largest });
    let sigmoid = match router.score {
        Score::Softmax => 0,
        Score::Sigmoid => 1,
    };
    let rank_by_two = match groups.rank {
        GroupRank::Largest => 0,
        GroupRank::SumOfTwoLargest => 1,
    };
    builder.launch(
        Kernel::MoeRoute,
        piece.weights,
        |builder, params| {
            builder.set_prologue(params, &prologue);
            params
                .set("experts", experts)
                .set("rows", experts + usize::from(op.shared_gate.is_some()))
                .set("top_k", router.top_k)
                .set("sigmoid", sigmoid)
                .set("renormalize", usize::from(router.renormalize))
                .set_f32("epsilon", router.epsilon)
                .set_f32("scale", router.scale)
                .set("output_stride", builder.width(op.output))
                .set_u32("bias", bias)
                .set_u32("factors", factors)
                .set_u32("selection_bias", selection_bias)
                .set("groups", groups.count)
                .set("used_groups", groups.used)
                .set("rank_by_two", rank_by_two);
            set_matrix(params, "matrix", piece, 0);
        },
        &resources,
        [Extent::Tokens(1), Extent::Fixed(1)],
        (Scope::Step, When::Always),
    )
}
