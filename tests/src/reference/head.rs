//! `z = scale * (W n(x) + b)`, capped softly where the model asks for it.

use kinglet::op::Head;

use super::math::soft_cap;
use super::{Pass, Rows};

pub(super) fn head(op: &Head, pass: &Pass<'_>) -> Rows {
    let w = pass.values.linear(&op.linear);
    let n = op.norm.as_ref().map(|norm| pass.values.norm(norm));
    let scale = f64::from(op.scale);
    let logits = |x: &Vec<f64>| {
        let z = match &n {
            Some(n) => w.apply(&n.apply(x)),
            None => w.apply(x),
        };
        z.iter().map(|z| soft_cap(scale * z, op.soft_cap)).collect()
    };
    pass.read(op.input).iter().map(logits).collect()
}
