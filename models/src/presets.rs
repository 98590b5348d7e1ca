//! Presets: configurations of known shapes, at full scale or smaller, as `config.json` would hold them.

use serde_json::{Map, Value, json};

/// The names of all presets, in the order of lists.
pub const PRESETS: [&str; 15] = [
    "ultra-390b",
    "ultra-52b",
    "vishwamai-moe",
    "dense-base",
    "dense-large",
    "dense-xl",
    "dense-xxl",
    "mamba-base",
    "moe-base",
    "hybrid-base",
    "xmamba-350m",
    "xmamba-350m-s",
    "xmamba-7b",
    "xmamba-7b-s",
    "vision-hybrid-base",
];

/// Widths are multiples of this, and at least this.
const WIDTH_STEP: usize = 64;

/// The configuration called `name`; `None` if there is none.
///
/// A `scale` other than 1 multiplies widths (rounded to a multiple of 64, at least 64; the number of heads follows from their width),
/// the depth (rounded up to whole patterns) and the number of experts (to the next power of two, at least as many as a token uses).
/// Vocabulary, states, convolutions and thresholds stay.
pub fn preset(name: &str, scale: f64) -> Option<Value> {
    let by = Scale(scale);
    Some(match name {
        "ultra-390b" => by.ultra(120, 8192, [256, 4096]),
        "ultra-52b" => by.ultra(80, 6144, [128, 1536]),
        "vishwamai-moe" => by.two_stage(),
        "dense-base" => by.dense(12, 768, [12, 64]),
        "dense-large" => by.dense(24, 1536, [16, 96]),
        "dense-xl" => by.dense(32, 2048, [24, 128]),
        "dense-xxl" => by.dense(40, 4096, [32, 128]),
        "mamba-base" => {
            let kinds = json!({"mamba": [{"type": "mamba", "state_size": 16}]});
            by.language([24, 768], &["mamba"], kinds, json!({}))
        }
        "moe-base" => {
            let kinds = json!({"moe": [by.attention(12, 12, 64), by.experts(8, 2, 3072)]});
            by.language([12, 768], &["moe"], kinds, json!({}))
        }
        "hybrid-base" => {
            let kinds = json!({
                "attention": [by.attention(12, 12, 64), by.network(3072)],
                "mamba": [{"type": "mamba", "state_size": 16}],
            });
            by.language([12, 768], &["attention", "mamba"], kinds, json!({}))
        }
        "xmamba-350m" => by.xmamba(32, 1024, 4, false),
        "xmamba-350m-s" => by.xmamba(32, 1024, 4, true),
        "xmamba-7b" => by.xmamba(48, 4096, 8, false),
        "xmamba-7b-s" => by.xmamba(48, 4096, 8, true),
        "vision-hybrid-base" => by.vision(),
        _ => return None,
    })
}

/// A factor on the sizes of a preset.
#[derive(Clone, Copy)]
struct Scale(f64);

impl Scale {
    /// A width.
    fn width(self, width: usize) -> usize {
        let steps = (width as f64 * self.0 / WIDTH_STEP as f64).round() as usize;
        steps.max(1).saturating_mul(WIDTH_STEP)
    }

    /// A number of layers, in whole patterns of `pattern`.
    fn depth(self, layers: usize, pattern: usize) -> usize {
        let patterns = (layers as f64 * self.0 / pattern as f64).ceil() as usize;
        patterns.max(1).saturating_mul(pattern)
    }

    /// A number of experts, of which a token uses `used`.
    fn count(self, experts: usize, used: usize) -> usize {
        let wanted = (experts as f64 * self.0).ceil() as usize;
        wanted.max(used).max(1).next_power_of_two()
    }

    /// Heads of `dim` as wide as `heads` of them were.
    fn heads(self, heads: usize, dim: usize) -> usize {
        (self.width(heads * dim) / dim).max(1)
    }

    /// The same for heads into which `whole` must divide.
    fn heads_of(self, whole: usize, heads: usize, dim: usize) -> usize {
        let wanted = self.heads(heads, dim);
        (1..=wanted).rev().find(|heads| whole.is_multiple_of(*heads)).unwrap_or(1)
    }

    /// Query and key/value heads of attention.
    fn attention_heads(self, heads: usize, kv_heads: usize, dim: usize) -> [usize; 2] {
        let heads = self.heads(heads, dim);
        [heads, self.heads_of(heads, kv_heads, dim)]
    }

    fn attention(self, heads: usize, kv_heads: usize, dim: usize) -> Value {
        let [heads, kv_heads] = self.attention_heads(heads, kv_heads, dim);
        json!({
            "type": "attention", "num_heads": heads, "num_kv_heads": kv_heads, "head_dim": dim, "rope_theta": 10000.0,
        })
    }

    /// A gated feed-forward network.
    fn network(self, width: usize) -> Value {
        json!({"type": "mlp", "intermediate_size": self.width(width)})
    }

    fn experts(self, experts: usize, used: usize, width: usize) -> Value {
        json!({
            "type": "moe", "num_experts": self.count(experts, used), "top_k": used,
            "intermediate_size": self.width(width),
        })
    }

    /// A language model of 32,000 tokens unless `further` says otherwise.
    fn language(
        self,
        [layers, hidden]: [usize; 2],
        pattern: &[&str],
        kinds: Value,
        further: Value,
    ) -> Value {
        let mut fields = json!({
            "model_type": "kinglet_hybrid",
            "vocab_size": 32000,
            "hidden_size": self.width(hidden),
            "num_hidden_layers": self.depth(layers, pattern.len()),
            "kinds": kinds,
            "pattern": pattern,
        });
        extend(&mut fields, further);
        fields
    }

    /// Seven layers of Mamba-2, two of hybrid attention, one of experts, in turn.
    fn ultra(self, layers: usize, hidden: usize, [experts, width]: [usize; 2]) -> Value {
        let inner = 2 * self.width(hidden);
        let [heads, kv_heads] = self.attention_heads(hidden / 128, 8, 128);
        let mamba_heads = inner / 64;
        let groups = (1..=8).rev().find(|&groups| mamba_heads.is_multiple_of(groups)).unwrap_or(1);
        let kinds = json!({
            "m": [{
                "type": "mamba2", "state_size": 128, "num_heads": mamba_heads, "head_dim": 64, "n_groups": groups, "conv_kernel": 4,
            }],
            "a": [
                {"type": "hybrid_attention", "num_heads": heads, "num_kv_heads": kv_heads, "head_dim": 128},
                self.network(4 * hidden),
            ],
            "e": [self.experts(experts, 2, width)],
        });
        let pattern = ["m", "m", "m", "m", "m", "m", "m", "a", "a", "e"];
        self.language([layers, hidden], &pattern, kinds, json!({"vocab_size": 100000}))
    }

    /// Attention on several levels, and experts that are chosen in two stages.
    fn two_stage(self) -> Value {
        let [heads, kv_heads] = self.attention_heads(16, 4, 128);
        let mut experts = self.experts(64, 2, 1024);
        let count = experts["num_experts"].as_u64().unwrap_or(1);
        let groups = count.min(8);
        // Two groups hold at least the two experts of a token.
        extend(&mut experts, json!({"groups": groups, "top_groups": groups.min(2)}));
        let layer = json!([
            {
                "type": "multi_level_attention", "num_heads": heads, "num_kv_heads": kv_heads, "head_dim": 128,
                "rope_theta": 10000.0, "levels": 3,
            },
            self.network(5632),
            experts,
        ]);
        self.language([16, 2048], &["layer"], json!({"layer": layer}), json!({"norm": "layer"}))
    }

    fn dense(self, layers: usize, hidden: usize, [heads, dim]: [usize; 2]) -> Value {
        let network = json!({
            "type": "mlp", "intermediate_size": 4 * self.width(hidden), "activation": "gelu", "gated": false,
        });
        let kinds = json!({"layer": [self.attention(heads, heads, dim), network]});
        self.language([layers, hidden], &["layer"], kinds, json!({}))
    }

    /// Three layers of Mamba, one of mLSTM, in turn; with `scalar` every eighth is sLSTM.
    fn xmamba(self, layers: usize, hidden: usize, heads: usize, scalar: bool) -> Value {
        let inner = 2 * self.width(hidden);
        let matrix_heads = self.heads_of(inner, heads, 256);
        let mut kinds = json!({
            "mamba": [{"type": "mamba", "state_size": 16}],
            "mlstm": [{"type": "mlstm", "num_heads": matrix_heads, "qk_head_dim": 256, "conv_kernel": 4, "head_norm": true}],
        });
        let mut pattern = vec!["mamba", "mamba", "mamba", "mlstm"];
        if scalar {
            let scalar_heads = self.heads_of(self.width(hidden), hidden / 256, 256);
            extend(&mut kinds, json!({"slstm": [{"type": "slstm", "num_heads": scalar_heads}]}));
            pattern.extend(["mamba", "mamba", "mamba", "slstm"]);
        }
        self.language([layers, hidden], &pattern, kinds, json!({}))
    }

    /// A classifier of images: attention and Mamba in turn over patches.
    fn vision(self) -> Value {
        let mut attention = self.attention(12, 12, 64);
        extend(&mut attention, json!({"rope_theta": null, "causal": false}));
        json!({
            "model_type": "kinglet_vision",
            "image_size": [224, 224],
            "patch_size": 16,
            "num_channels": 3,
            "num_classes": 1000,
            "pool": "mean",
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
            "hidden_size": self.width(768),
            "num_hidden_layers": self.depth(12, 2),
            "positions": "learned",
            "kinds": {
                "mamba": [{"type": "mamba", "state_size": 16}],
                "attention": [attention, self.network(3072)],
            },
            "pattern": ["mamba", "attention"],
        })
    }
}

/// Adds the fields of `further`, or replaces them.
fn extend(fields: &mut Value, further: Value) {
    if let (Value::Object(fields), Value::Object(further)) = (fields, further) {
        fields.extend::<Map<String, Value>>(further);
    }
}

#[cfg(test)]
#[path = "presets_tests.rs"]
mod tests;
