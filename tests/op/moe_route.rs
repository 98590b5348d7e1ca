//! `moe_route`: the `top_k` largest of `softmax(R n(x))`, largest first, optionally scaled to sum
//! to 1.

use kinglet::op::{MoeRoute, Op};
use kinglet_tests::reference::Values;
use kinglet_tests::reference::moe_route::ranked;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::{TOKENS, each};

#[test]
fn the_largest_probabilities_in_order() {
    // Experts, experts used, width.
    let shapes = [
        (1, 1, 4),
        (2, 1, 3),
        (4, 4, 17),
        (5, 2, 1),
        (8, 2, 33),
        (17, 3, 64),
        (64, 8, 130),
        (130, 6, 40),
        (33, 33, 20),
    ];
    each(&shapes, TOKENS, |(experts, top_k, hidden), stored, lengths| {
        for renormalize in [false, true] {
            let name =
                format!("moe_route {top_k} of {experts} x {hidden} renormalize {renormalize}");
            let mut rig = Rig::new(name, stored, lengths);
            let norm = rig.norm(hidden, 1e-5, hidden % 2 == 0);
            let router = rig.linear(experts, hidden, experts % 2 == 0);
            let weights = rig.weights();
            let (n, r) = (Values(&weights).norm(&norm), Values(&weights).linear(&router));
            let tokens = rig.tokens();
            // Inputs with an unambiguous choice of experts: of two that are nearly equal either is
            // right.
            let mut row = || {
                for _ in 0..10_000 {
                    let x: Vec<f64> =
                        (0..hidden).map(|_| Stored::F32.round(rig.random.normal())).collect();
                    let ranked = ranked(&x, &n, &r);
                    let clear = |pair: &[(usize, f64)]| pair[0].1 > 1.0001 * pair[1].1;
                    if ranked.windows(2).take(top_k).all(clear) {
                        return x;
                    }
                }
                panic!("no input with a clear choice of {top_k} of {experts}")
            };
            let rows = (0..tokens).map(|_| row()).collect();
            let input = rig.input_rows(rows);
            let output = rig.buffer("routes", 2 * top_k);
            rig.op(Op::MoeRoute(MoeRoute {
                input: input.buffer,
                norm,
                router,
                top_k,
                renormalize,
                output,
            }));
            rig.check(output);
        }
    });
}
