use std::collections::HashSet;

use super::{
    CellGating, ForgetGate, Held, HybridAttention, KernelAttention, MLstm, MLstmSizes, Mixer,
    MultiLevelAttention, Place, Precision, Role, Rope, SLstm, Share, Small, Tiers,
};
use crate::hostile::samples;
use crate::testing::spec_of;
use crate::{ModelSpec, TensorKind};

fn mixers(spec: &mut ModelSpec) -> impl Iterator<Item = &mut Mixer> {
    spec.blocks.iter_mut().flat_map(|block| &mut block.branches).map(|branch| &mut branch.mixer)
}

/// Layers with fields that no family there sets.
fn made() -> [Mixer; 10] {
    let slstm = |gating, mixes| Mixer::SLstm(SLstm::new("p", 32, [2, 16], gating, mixes, 1e-5));
    let mlstm = |conv_kernel, normed| {
        let sizes =
            MLstmSizes { hidden: 16, heads: 2, qk_head_dim: 8, v_head_dim: 16, conv_kernel };
        Mixer::MLstm(MLstm::with_inner("p", sizes, ForgetGate::Exponential, normed, 1e-5))
    };
    let attention = |bias, norm, rope| {
        Mixer::KernelAttention(KernelAttention::new("p", 16, [4, 2, 4], bias, norm, rope))
    };
    let tiers = Tiers {
        window: 8,
        full_until: 20,
        dilated_until: 50,
        linear_until: 90,
        levels: 3,
        global_first: 4,
        global_top: 6,
        hierarchy_block: 4,
        hierarchy_levels: 2,
        hierarchy_width: 3,
    };
    let hybrid = |bias, norm, rope, context| {
        let sizes = [4, 2, 4];
        let layer = HybridAttention::new("p", 16, sizes, bias, norm, rope, context, tiers);
        Mixer::HybridAttention(layer)
    };
    let levels = |bias, norm, rope, windows| {
        let layer = MultiLevelAttention::new("p", 16, [4, 2, 4], bias, norm, rope, windows);
        Mixer::MultiLevelAttention(layer)
    };
    [
        slstm(CellGating::Exponential(ForgetGate::Sigmoid), true),
        slstm(CellGating::Sigmoid, false),
        mlstm(4, true),
        mlstm(0, false),
        attention(true, Some(1e-5), Some(Rope::exact(1e4, 4))),
        attention(false, None, None),
        hybrid(true, Some(1e-5), Some(Rope::exact(1e4, 4)), true),
        hybrid(false, None, None, false),
        levels(true, Some(1e-5), Some(Rope::exact(1e4, 4)), vec![None; 3]),
        levels(false, None, None, vec![Some(6), None]),
    ]
}

/// Runs `check` on every layer of a model of every family, and asserts that every kind of layer
/// occurred.
fn each_layer(mut check: impl FnMut(&mut Mixer)) {
    let mut kinds = HashSet::new();
    for mut mixer in made() {
        kinds.insert(mixer.layer().kind());
        check(&mut mixer);
    }
    for config in samples() {
        let mut spec = spec_of(&config);
        for mixer in mixers(&mut spec) {
            kinds.insert(mixer.layer().kind());
            check(mixer);
        }
    }
    assert_eq!(kinds.len(), 14, "{kinds:?}");
}

#[test]
fn descriptions_name_every_tensor_of_a_layer_once() {
    each_layer(|mixer| {
        // The debug output prints a tensor wherever the struct names it.
        let printed = format!("{mixer:?}").matches("TensorSpec {").count();
        assert_eq!(mixer.parts().len(), printed, "{mixer:?}");
    });
}

#[test]
fn shared_and_mutable_parts_agree() {
    each_layer(|mixer| {
        let read: Vec<(Role, String)> = mixer
            .parts()
            .iter()
            .map(|part| (part.role, part.held.tensor().0.name.clone()))
            .collect();
        let mut changed = Vec::new();
        for part in mixer.places() {
            match part.place {
                Place::Linear(linear) => {
                    changed.push((part.role, linear.weight.tensor.name.clone()));
                    changed.extend(linear.bias.iter().map(|b| (Role::Bias, b.name.clone())));
                }
                Place::Conv(tensor) | Place::Vector(tensor) => {
                    changed.push((part.role, tensor.name.clone()));
                }
                Place::Table(_) => panic!("no layer has a table"),
            }
        }
        assert_eq!(read, changed);
    });
}

#[test]
fn roles_shares_and_components_fit_the_tensors() {
    each_layer(|mixer| {
        let components = mixer.layer().components();
        for part in mixer.parts() {
            let (tensor, kind) = part.held.tensor();
            assert_eq!(
                kind != TensorKind::Matrix,
                part.role.precision() == Precision::Full,
                "{}",
                tensor.name
            );
            assert!(components.contains(&part.component.name), "{}", tensor.name);
            // Every token goes to and from a narrower stream of experts.
            let stream = [Role::In, Role::Out].contains(&part.role);
            let routed = part.component.name == "moe experts" && !stream;
            assert_eq!(part.share != Share::ALL, routed, "{}", tensor.name);
        }
    });
}

#[test]
fn small_layers_have_the_shapes_of_their_parts() {
    let small = Small { hidden: 16, width: 16, expert_width: 8, heads: 1, experts: 2, window: 4 };
    each_layer(|mixer| {
        let shrunk = mixer.layer().small(&small);
        assert_eq!(shrunk.layer().kind(), mixer.layer().kind());
        for part in shrunk.parts() {
            match part.held {
                Held::Matrix(matrix) => {
                    // Attention beside the embeddings reads twice the hidden width.
                    let sizes = [matrix.rows, matrix.cols];
                    let hidden = [1, 2].iter().any(|n| sizes.contains(&(n * small.hidden)));
                    // From and to a latent, or from one low rank to another width; or within a width of the layer's own.
                    let own = ["latent attention", "slstm"].contains(&shrunk.layer().kind())
                        || matches!(mixer, Mixer::MLstm(MLstm { inner: Some(_), .. }));
                    let within = own
                        || [Role::StateIn, Role::TimeStep, Role::OutputGate, Role::Adapter]
                            .contains(&part.role);
                    assert!(hidden || within, "{matrix:?}");
                }
                Held::Conv(tensor) | Held::Vector(tensor) => assert!(tensor.elements() > 0),
            }
        }
        // With equal sizes, the result is the same layer.
        let same = mixer.layer().small(&Small {
            hidden: mixer_hidden(mixer),
            width: 1 << 20,
            expert_width: 1 << 20,
            heads: 1 << 14,
            experts: 1 << 12,
            window: 1 << 20,
        });
        assert_eq!(&same, mixer);
    });
}

/// The width of the residual stream: what a router reads, or the rows of the first output projection.
fn mixer_hidden(mixer: &Mixer) -> usize {
    let parts = mixer.parts();
    let router = parts.iter().find(|part| part.role == Role::Router);
    if let Some(router) = router.and_then(|part| part.held.matrix()) {
        return router.cols;
    }
    let out = parts.iter().find(|part| [Role::Out, Role::Down].contains(&part.role));
    out.and_then(|part| part.held.matrix()).map_or(0, |matrix| matrix.rows)
}
