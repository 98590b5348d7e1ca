//! [`PredictionHead`]: a head of a checkpoint that predicts the token after the next one.

use crate::family::{qwen3_5_moe_text, qwen3_5_text, qwen3_next};
use crate::spec::{Linear, ModelSpec, Norm, TensorSpec};
use crate::{Config, ModelError, TensorKind};

/// A head that predicts the token after the next one, from what the model computed at a token and
/// the token that follows it (multi-token prediction: DeepSeek-AI, "DeepSeek-V3 Technical Report",
/// arXiv:2412.19437, section 2.2). With `h_t` the model's residual stream at token `t` after its
/// final norm, and `E` its embedding:
///
/// ```text
/// x_t    = join [embedding_norm(E[token_{t+1}]) ; hidden_norm(h_t)]
/// x_t    = the blocks of `model`, causal over the pairs before t
/// logits = W n(x_t)          of token_{t+2}; W is the model's head, n the norm of `model`'s head
/// ```
///
/// To predict further tokens, `n(x_t)` takes the place of `h_{t+1}`.
///
/// Qwen3-Next and Qwen 3.5 publish such heads as `mtp.*`, without code. That `h_t` comes after the
/// final norm follows from vLLM, whose `Qwen3NextModel.forward` returns
/// `self.norm(hidden_states, residual)` to `Qwen3NextMultiTokenPredictor.forward`
/// (`vllm/model_executor/models/qwen3_next.py`, `qwen3_next_mtp.py`), and which also returns the
/// head's normed output to its next step; SGLang does the same (`srt/models/qwen3_next_mtp.py`).
/// llama.cpp measured both: drafts are accepted more often after the norm (its pull request 24025).
#[derive(Clone, Debug, PartialEq)]
pub struct PredictionHead {
    /// Norm of the embedding of the token that follows, over `hidden`.
    pub embedding_norm: Norm,
    /// Norm of the model's output, over `hidden`, in addition to the model's final norm.
    pub hidden_norm: Norm,
    /// `[hidden, 2 * hidden]`: the columns of the embedding first.
    pub join: Linear,
    /// The blocks after it and the norm before the logits. Embedding and head are the model's.
    pub model: ModelSpec,
}

/// Reads the head of a config.
type Read = fn(&Config) -> Result<PredictionHead, ModelError>;

/// The families whose checkpoints have such a head, by `model_type` of their specs.
const HEADS: [(&str, Read); 3] = [
    ("qwen3_5_moe_text", qwen3_5_moe_text::prediction_head),
    ("qwen3_5_text", qwen3_5_text::prediction_head),
    ("qwen3_next", qwen3_next::prediction_head),
];

/// The head of the model `spec` that `config` describes, with the family's tensor names; `None` if
/// the family has none. Whether a checkpoint has its tensors, only the checkpoint can tell.
///
/// # Errors
/// If the config describes a head that is not supported.
pub fn prediction_head(
    config: &Config,
    spec: &ModelSpec,
) -> Result<Option<PredictionHead>, ModelError> {
    let found = HEADS.iter().find(|(model_type, _)| *model_type == spec.model_type);
    found.map(|(_, read)| read(&config.language())).transpose()
}

impl PredictionHead {
    /// A pattern of the names of the tensors that only the head uses.
    pub const TENSORS: &str = "mtp.*";

    /// Gives the tensors their names in a checkpoint, whose names are `stored`, sorted. Embedding
    /// and head become those of `spec`, which must have been fitted to the checkpoint.
    pub fn fit_names(&mut self, spec: &ModelSpec, stored: &[&str]) {
        self.model.fit_names(stored);
        self.model.embedding = spec.embedding.clone();
        self.model.head.linear = spec.head.linear.clone();
        self.model.head.untied = None;
    }

    /// Every tensor that the head needs, with its kind, in order of use; embedding and head, which
    /// it shares with its model, among them.
    pub fn tensors_by_kind(&self) -> Vec<(&TensorSpec, TensorKind)> {
        let norms = [&self.embedding_norm, &self.hidden_norm];
        let mut all: Vec<_> =
            norms.map(|norm| (&norm.weight, TensorKind::Vector)).into_iter().collect();
        all.push((&self.join.weight.tensor, TensorKind::Matrix));
        all.extend(self.model.tensors_by_kind());
        all
    }
}
