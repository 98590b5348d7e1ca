//! `x += scale * (sum over chosen experts of weight_e * D_e h_e + weight_shared * D h_shared)`, or `x =` it.

use kinglet::op::MoeDown;

use super::{Linear, Pass, Rows};

pub(super) fn moe_down(op: &MoeDown, pass: &Pass<'_>) -> Rows {
    let experts: Vec<_> = op.experts.iter().map(|down| pass.values.matrix(down)).collect();
    let shared = op.shared.as_ref().map(|down| pass.values.matrix(down));
    let inner = op.inner();
    let one = |t: usize| {
        let (h, x) = (&pass.read(op.input)[t], &pass.read(op.output)[t]);
        let routes = &pass.read(op.routes)[t];
        let (chosen, weights) = routes.split_at(op.top_k);
        let mut sum = vec![0.0; x.len()];
        let mut add = |weight: f64, down: &Linear, h: &[f64]| {
            sum.iter_mut().zip(down.apply(h)).for_each(|(s, y)| *s += weight * y);
        };
        for place in 0..op.top_k {
            let down = &experts[chosen[place] as usize];
            add(weights[place], down, &h[place * inner..][..inner]);
        }
        if let Some(down) = &shared {
            let weight = if op.shared_gated { routes[2 * op.top_k] } else { 1.0 };
            add(weight, down, &h[op.top_k * inner..]);
        }
        let before = |x: f64| if op.store { 0.0 } else { x };
        x.iter().zip(&sum).map(|(x, s)| before(*x) + f64::from(op.scale) * s).collect()
    };
    (0..pass.tokens.len()).map(one).collect()
}
