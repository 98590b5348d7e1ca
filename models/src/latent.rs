//! Sizes of multi-head latent attention, from the config.

use crate::config::Fields;
use crate::frame::{Frame, equal, limit, product};
use crate::{LatentAttention, LatentQueries, Linear, Matrix, ModelError, Norm, Rope};

/// Epsilon of the norms of latents and of queries of low rank, which no field sets.
const NORM_EPS: f32 = 1e-6;

/// Sizes of a family's latent attention; what it has for fields that a config leaves out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LatentShape {
    pub(crate) heads: usize,
    pub(crate) rank: usize,
    pub(crate) query_rank: Option<usize>,
    pub(crate) nope_dim: usize,
    pub(crate) rope_dim: usize,
    pub(crate) value_dim: usize,
    pub(crate) bias: bool,
}

impl LatentShape {
    /// Reads the fields of DeepSeek-V2.
    pub(crate) fn read(self, fields: &Fields<'_>, layers: usize) -> Result<Self, ModelError> {
        const HEADS: &str = "num_attention_heads";
        const KV_HEADS: &str = "num_key_value_heads";
        let size = |key, default, min, max| fields.size_or(key, default, min, max);
        let heads = size(HEADS, self.heads, 1, limit::HEADS)?;
        equal(HEADS, heads, KV_HEADS, size(KV_HEADS, heads, 1, limit::HEADS)?)?;
        product("layers of attention * num_attention_heads", &[layers, heads], limit::ALL_HEADS)?;
        let query_rank = match fields.is_null("q_lora_rank") {
            true => None,
            false => fields.size("q_lora_rank", 1, limit::WIDTH)?.or(self.query_rank),
        };
        let shape = Self {
            heads,
            rank: size("kv_lora_rank", self.rank, 1, limit::WIDTH)?,
            query_rank,
            nope_dim: size("qk_nope_head_dim", self.nope_dim, 1, limit::HEAD_DIM)?,
            rope_dim: size("qk_rope_head_dim", self.rope_dim, 0, limit::HEAD_DIM)?,
            value_dim: size("v_head_dim", self.value_dim, 1, limit::HEAD_DIM)?,
            bias: fields.bool_or("attention_bias", self.bias)?,
        };
        let wide = shape.query_dim().max(shape.nope_dim + shape.value_dim);
        product("num_attention_heads * the width of a head", &[heads, wide], limit::ROWS)?;
        let keys = [heads, shape.rank + shape.rope_dim];
        product("num_attention_heads * (kv_lora_rank + qk_rope_head_dim)", &keys, limit::ROWS)?;
        Ok(shape)
    }

    fn query_dim(&self) -> usize {
        self.nope_dim + self.rope_dim
    }

    /// The attention `PREFIX`, with the tensors of DeepSeek-V2.
    pub(crate) fn layer(
        &self,
        frame: &Frame<'_>,
        prefix: &str,
        rope: Option<Rope>,
    ) -> LatentAttention {
        let Self { heads, rank, nope_dim, rope_dim, value_dim, bias, .. } = *self;
        let (hidden, rows) = (frame.hidden, heads * self.query_dim());
        let linear = |name: &str, rows, cols, bias| {
            Linear::new(&format!("{prefix}.{name}"), rows, cols, bias)
        };
        let norm = |name: &str, width| Norm::new(&format!("{prefix}.{name}"), width, NORM_EPS);
        let q = match self.query_rank {
            None => LatentQueries::Full(linear("q_proj", rows, hidden, false)),
            Some(rank) => LatentQueries::LowRank {
                down: linear("q_a_proj", rank, hidden, bias),
                norm: norm("q_a_layernorm", rank),
                up: linear("q_b_proj", rows, rank, false),
            },
        };
        // For each head the rows of its key, then those of its value.
        let each = nope_dim + value_dim;
        let both = Matrix::whole(format!("{prefix}.kv_b_proj.weight"), heads * each, rank);
        let up = |first: usize, rows: usize| -> Vec<Linear> {
            (0..heads).map(|head| both.rows(head * each + first, rows).into()).collect()
        };
        LatentAttention {
            q,
            kv_down: linear("kv_a_proj_with_mqa", rank + rope_dim, hidden, bias),
            kv_norm: norm("kv_a_layernorm", rank),
            key_up: up(0, nope_dim),
            key_up_transposed: false,
            value_up: up(nope_dim, value_dim),
            o: linear("o_proj", hidden, heads * value_dim, bias),
            heads,
            rank,
            nope_dim,
            rope_dim,
            value_dim,
            scale: (self.query_dim() as f64).powf(-0.5) as f32,
            rope,
        }
    }
}
