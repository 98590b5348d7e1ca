//! Other names of single tensors, and other forms of the projections of latent attention.

use crate::layer::Place;
use crate::layout::Names;
use crate::{LatentAttention, Matrix, Mixer};

/// Parts of names, as families have them and as mlx-lm does.
const MLX: &[[&str; 2]] = &[
    [SELECTION_BIAS, ".mlp.e_score_correction_bias"],
    [EXPERTS, ".mlp."],
    [".self_attn.q_conv1d.weight", ".self_attn.q_conv.conv.weight"],
    [".self_attn.k_conv1d.weight", ".self_attn.k_conv.conv.weight"],
    [".self_attn.v_conv1d.weight", ".self_attn.v_conv.conv.weight"],
];

/// The same of `transformers` 5, which saves the dense networks of Kimi Linear under the name of its experts.
const SAVED: &[[&str; 2]] = &[
    [".mlp.gate_proj.", ".block_sparse_moe.gate_proj."],
    [".mlp.up_proj.", ".block_sparse_moe.up_proj."],
    [".mlp.down_proj.", ".block_sparse_moe.down_proj."],
];

/// Dense networks of LFM2-MoE; mlx-lm keeps these names in LFM2.
const NUMBERED: &[[&str; 2]] = &[
    [".feed_forward.w1.", ".feed_forward.gate_proj."],
    [".feed_forward.w3.", ".feed_forward.up_proj."],
    [".feed_forward.w2.", ".feed_forward.down_proj."],
];

/// Experts of Kimi Linear, next to which it has this bias.
const EXPERTS: &str = ".block_sparse_moe.";
const SELECTION_BIAS: &str = ".block_sparse_moe.gate.e_score_correction_bias";

/// The names of each tensor of a layer.
fn names(mixer: &mut Mixer) -> Vec<&mut String> {
    let mut names = Vec::new();
    for part in mixer.places() {
        match part.place {
            Place::Linear(linear) => {
                names.push(&mut linear.weight.tensor.name);
                names.extend(linear.bias.as_mut().map(|bias| &mut bias.name));
            }
            Place::Table(matrix) => names.push(&mut matrix.tensor.name),
            Place::Conv(tensor) | Place::Vector(tensor) => names.push(&mut tensor.name),
        }
    }
    names
}

/// Renames the tensors of a layer that are stored under another name.
pub(crate) fn fit(mixer: &mut Mixer, stored: &Names<'_>) {
    if let Mixer::LatentAttention(attention) = mixer {
        fit_latent(attention, stored);
    }
    for name in names(mixer) {
        if stored.has(name) {
            continue;
        }
        let others = MLX.iter().chain(SAVED).filter(|[own, _]| name.contains(own));
        let others = others.map(|[own, other]| name.replace(own, other));
        if let Some(other) = others.into_iter().find(|other| stored.has(other)) {
            *name = other;
        }
    }
}

/// Gives the tensors of a layer the names of mlx-lm. It has no up projections of latents as one tensor, but makes them of it.
/// `numbered`: whether dense networks have numbers for names, which mlx-lm has none for.
pub(crate) fn to_mlx(mixer: &mut Mixer, numbered: bool) {
    if let (Mixer::Dense(_), true) = (&*mixer, numbered) {
        for name in names(mixer) {
            if let Some([own, other]) = NUMBERED.iter().find(|[own, _]| name.contains(own)) {
                *name = name.replace(own, other);
            }
        }
    }
    let mut all = names(mixer);
    // mlx-lm keeps the name of other families' experts.
    let moved = all.iter().any(|name| name.contains(SELECTION_BIAS));
    for name in &mut all {
        let known = MLX.iter().find(|[own, _]| name.contains(own) && (moved || *own != EXPERTS));
        if let Some([own, other]) = known {
            **name = name.replace(own, other);
        }
    }
}

/// Up projections by head, that of keys as queries are multiplied by it, where a checkpoint of mlx-lm has them.
fn fit_latent(attention: &mut LatentAttention, stored: &Names<'_>) {
    let LatentAttention { key_up, value_up, key_up_transposed, heads, .. } = attention;
    let Some(own) = key_up.first().map(|part| part.weight.tensor.name.clone()) else { return };
    let Some(prefix) = own.strip_suffix("kv_b_proj.weight") else { return };
    let [keys, values] = ["embed_q", "unembed_out"].map(|name| format!("{prefix}{name}.weight"));
    if *key_up_transposed || stored.has(&own) || !stored.has(&keys) {
        return;
    }
    for (head, (key, value)) in key_up.iter_mut().zip(value_up).enumerate() {
        let (rows, cols) = (key.weight.rows, key.weight.cols);
        key.weight = Matrix::stacked(&*keys, *heads, cols, rows, head);
        let (rows, cols) = (value.weight.rows, value.weight.cols);
        value.weight = Matrix::stacked(&*values, *heads, rows, cols, head);
    }
    *key_up_transposed = true;
}
