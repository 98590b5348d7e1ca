use crate::testing::*;
use serde_json::json;

#[test]
fn mamba_with_three_more_norms() {
    let config = json!({
        "model_type": "falcon_mamba", "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2,
        "tie_word_embeddings": false
    });
    let model = spec_of(&config);
    assert_eq!(mamba(&model, 1).bcdt_norm.as_ref().map(|norm| norm.eps), Some(1e-6));
    assert_eq!(shape(&model, "lm_head.weight"), [40, 24]);
    let model = spec_of(&with(&config, json!({"mixer_rms_eps": 0.01})));
    assert_eq!(mamba(&model, 0).bcdt_norm.as_ref().map(|norm| norm.eps), Some(0.01));

    let plain = spec_of(&with(&config, json!({"model_type": "mamba"})));
    assert_eq!(plain.tensors(), model.tensors());
}
