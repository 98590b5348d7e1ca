//! Falcon-H1 (Falcon LLM Team, "Falcon-H1: A Family of Hybrid-Head Language Models", 2025): attention and Mamba-2 side by side on the
//! same normed input, then a gated feed-forward network, with factors nearly everywhere.

use super::Family;
use super::mamba2::{Mamba2Shape, dt_limit, inner};
use crate::config::Fields;
use crate::frame::{Frame, FrameDefaults, FrameNames, MODEL, divide, limit};
use crate::rope::{RopeDefaults, rope};
use crate::transformer::{HeadDefaults, Heads};
use crate::{
    Block, Branch, Config, FoldError, Input, Linear, Mamba2Gate, Mixer, ModelError, ModelSpec,
    Residual, Target,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "falcon_h1",
    class: "FalconH1ForCausalLM",
    spec,
    // Checkpoints are written with the weights as they are, not with the factors in them.
    in_mlx: false,
    older_fields: super::mlx::none,
    unfold: Some(unfold),
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let frame = Frame::read(
        config,
        FrameNames { norm: "model.final_layernorm", ..MODEL },
        FrameDefaults { hidden: 4096, vocab: 128_000, layers: 32, eps: 1e-5, tied: false },
    )?;
    frame.refuse_window()?;
    let fields = &frame.fields;
    let factors = Factors::read(fields)?;
    let (shape, gate) = mamba(&frame)?;
    let defaults = HeadDefaults { heads: 32, kv_heads: Some(8), head_dim: None };
    let heads = Heads::read(&frame, defaults)?;
    let defaults = RopeDefaults { theta: 10000.0, partial: None, max_positions: 8192 };
    let rope = rope(fields, heads.head_dim, defaults)?;
    let bias = fields.bool_or("attention_bias", false)?;
    let mlp_bias = fields.bool_or("mlp_bias", false)?;
    let inner = frame.inner("intermediate_size", 14336)?;
    let activation = frame.activation()?;

    let mut blocks = Vec::new();
    for layer in 0..frame.layers {
        let prefix = format!("model.layers.{layer}");
        let mut mamba = shape.layer(&format!("{prefix}.mamba"));
        mamba.gate = match (gate, mamba.gate) {
            (Gate::NormBefore, Mamba2Gate::NormAfter { norm, groups }) => {
                Mamba2Gate::NormBefore { norm, groups }
            }
            (Gate::Silu, _) => Mamba2Gate::Silu,
            (_, usual) => usual,
        };
        mamba.in_scales = factors.sections;
        let mut attention = heads.attention(
            &format!("{prefix}.self_attn"),
            frame.hidden,
            (bias, bias),
            Some(rope.clone()),
        );
        attention.k = attention.k.scaled(factors.key);
        let branches = vec![
            factors.mamba.branch(Mixer::Mamba2(mamba)),
            factors.attention.branch(Mixer::Attention(attention)),
        ];
        let norm = frame.norm(&format!("{prefix}.input_layernorm"));
        blocks.push(Block {
            layer,
            input: Input::Stream,
            norm: Some(norm),
            branches,
            post_norm: None,
            residual: Residual::Stream,
            residual_scale: 1.0,
            stream_norm: None,
            target: Target::Stream,
        });
        let mut dense = frame.dense(&format!("{prefix}.feed_forward"), inner, activation, mlp_bias);
        dense.gate = dense.gate.map(|gate| gate.scaled(factors.gate));
        let mut block =
            frame.block(layer, &format!("{prefix}.pre_ff_layernorm"), Mixer::Dense(dense));
        block.branches.iter_mut().for_each(|branch| branch.scale = factors.down);
        blocks.push(block);
    }
    let mut model = frame.model("falcon_h1", blocks)?;
    model.embedding.scale = factors.embedding;
    model.head.scale = factors.head;
    Ok(model)
}

/// Takes out of `spec` the factors that mlx-lm multiplies into the weights (`sanitize` in its
/// falcon_h1.py): all but that on keys, and that on the input of attention as far as values use it.
/// It leaves biases as they are, so one that a factor applies to is refused.
fn unfold(spec: &mut ModelSpec) -> Result<(), FoldError> {
    let tied = spec.head.linear.weight == spec.embedding.table;
    let embedding = take(&mut spec.embedding.scale);
    if tied {
        // The head reads a table with the embedding's factor.
        spec.head.scale /= embedding;
        if !spec.head.scale.is_finite() {
            return Err(FoldError::Lost { tensor: spec.embedding.table.tensor.name.clone() });
        }
    } else {
        spec.head.scale = 1.0;
    }
    for branch in spec.blocks.iter_mut().flat_map(|block| &mut block.branches) {
        let (input, output) = (take(&mut branch.input_scale), take(&mut branch.scale));
        match &mut branch.mixer {
            Mixer::Attention(attention) => {
                unbiased(&attention.v, input)?;
                attention.v.scale *= input;
                unbiased(&attention.o, output)?;
            }
            Mixer::Mamba2(mamba) => {
                for section in mamba.in_scales.take().into_iter().flatten() {
                    unbiased(&mamba.in_proj, section)?;
                }
                unbiased(&mamba.out_proj, output)?;
            }
            Mixer::Dense(dense) => {
                if let Some(gate) = &mut dense.gate {
                    let factor = take(&mut gate.scale);
                    unbiased(gate, factor)?;
                }
                unbiased(&dense.down, output)?;
            }
            Mixer::LatentAttention(_)
            | Mixer::Mamba(_)
            | Mixer::MLstm(_)
            | Mixer::GatedDelta(_)
            | Mixer::ShortConv(_)
            | Mixer::LinearAttention(_)
            | Mixer::KernelAttention(_)
            | Mixer::SLstm(_)
            | Mixer::HybridAttention(_)
            | Mixer::MultiLevelAttention(_)
            | Mixer::Moe(_) => {}
        }
    }
    Ok(())
}

/// A factor, of which 1 remains.
fn take(factor: &mut f32) -> f32 {
    std::mem::replace(factor, 1.0)
}

/// Fails if `linear` has a bias and `factor` changes it.
fn unbiased(linear: &Linear, factor: f32) -> Result<(), FoldError> {
    match &linear.bias {
        Some(bias) if factor != 1.0 => Err(FoldError::Bias {
            weight: linear.weight.tensor.name.clone(),
            bias: bias.name.clone(),
        }),
        _ => Ok(()),
    }
}

/// Whether Mamba-2's output is normed, before or after its gate.
#[derive(Clone, Copy, Debug)]
enum Gate {
    Silu,
    NormBefore,
    NormAfter,
}

/// The Mamba-2 layers, and their gate.
fn mamba(frame: &Frame<'_>) -> Result<(Mamba2Shape, Gate), ModelError> {
    const INNER: &str = "mamba_d_ssm";
    const HEAD_DIM: &str = "mamba_d_head";
    let fields = &frame.fields;
    // A `null` means that `mamba_expand` says it.
    let inner = match fields.is_null(INNER) {
        true => inner(fields, "mamba_expand", frame.hidden)?,
        false => fields.size_or(INNER, 1024, 1, limit::ROWS)?,
    };
    let heads = fields.size_or("mamba_n_heads", 128, 1, limit::HEADS)?;
    let auto = fields.get(HEAD_DIM).is_none_or(|value| value.as_str() == Some("auto"));
    let norm = fields.bool_or("mamba_rms_norm", false)?;
    let gate = match (norm, fields.bool_or("mamba_norm_before_gate", true)?) {
        (false, _) => Gate::Silu,
        (true, true) => Gate::NormBefore,
        (true, false) => Gate::NormAfter,
    };
    let shape = Mamba2Shape {
        hidden: frame.hidden,
        inner,
        heads,
        head_dim: match auto {
            true => divide("the inner width of Mamba-2", inner, "mamba_n_heads", heads)?,
            false => fields.size_or(HEAD_DIM, 1, 1, limit::ROWS)?,
        },
        groups: fields.size_or("mamba_n_groups", 1, 1, limit::HEADS)?,
        state: fields.size_or("mamba_d_state", 256, 1, limit::STATE)?,
        kernel: fields.size_or("mamba_d_conv", 4, 1, limit::KERNEL)?,
        in_bias: fields.bool_or("mamba_proj_bias", false)?,
        out_bias: fields.bool_or("projectors_bias", false)?,
        conv_bias: fields.bool_or("mamba_conv_bias", true)?,
        dt_limit: dt_limit(fields)?,
        eps: frame.eps,
    };
    shape.check()?;
    frame.require_silu()?;
    Ok((shape, gate))
}

/// Factors on the input and output of a branch.
#[derive(Clone, Copy, Debug)]
struct Ends {
    input: f32,
    output: f32,
}

impl Ends {
    fn branch(self, mixer: Mixer) -> Branch {
        Branch { mixer, input_scale: self.input, scale: self.output }
    }
}

/// The factors (section 2.3: muP multipliers).
#[derive(Clone, Copy, Debug)]
struct Factors {
    embedding: f32,
    head: f32,
    attention: Ends,
    /// On keys.
    key: f32,
    mamba: Ends,
    /// On z, x, B, C and dt; none where all are 1.
    sections: Option<[f32; 5]>,
    /// On the gate of the feed-forward network, before its activation.
    gate: f32,
    /// On its output.
    down: f32,
}

impl Factors {
    fn read(fields: &Fields<'_>) -> Result<Self, ModelError> {
        let factor = |key| Ok::<_, ModelError>(fields.finite(key)?.unwrap_or(1.0) as f32);
        let ends = |input, output| {
            Ok::<_, ModelError>(Ends { input: factor(input)?, output: factor(output)? })
        };
        let [gate, down] = list(fields, "mlp_multipliers")?;
        let sections = list(fields, "ssm_multipliers")?;
        Ok(Self {
            embedding: factor("embedding_multiplier")?,
            head: factor("lm_head_multiplier")?,
            attention: ends("attention_in_multiplier", "attention_out_multiplier")?,
            key: factor("key_multiplier")?,
            mamba: ends("ssm_in_multiplier", "ssm_out_multiplier")?,
            sections: (sections != [1.0; 5]).then_some(sections),
            gate,
            down,
        })
    }
}

/// A list of `N` factors; all 1 where it is absent.
fn list<const N: usize>(fields: &Fields<'_>, key: &'static str) -> Result<[f32; N], ModelError> {
    let Some(found) = fields.finites(key)? else { return Ok([1.0; N]) };
    let count = found.len();
    let floats: Vec<f32> = found.into_iter().map(|factor| factor as f32).collect();
    floats.try_into().map_err(|_| ModelError::WrongLength {
        field: fields.path(key),
        found: count,
        expected: N,
        because: "the number of factors",
    })
}

#[cfg(test)]
#[path = "falcon_h1_tests.rs"]
mod tests;
