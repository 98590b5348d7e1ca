use super::*;
use serde_json::json;

fn quantization(config: Value) -> Result<Option<Quantization>, ModelError> {
    Config::parse(&config.to_string()).unwrap().quantization()
}

fn mlx_of(stated: Value) -> MlxQuantization {
    match quantization(json!({"quantization": stated})) {
        Ok(Some(Quantization::Mlx(mlx))) => mlx,
        other => panic!("{other:?}"),
    }
}

fn affine(bits: usize, group: usize) -> Format {
    Format::affine(bits, group).unwrap()
}

#[test]
fn every_spelling_of_mlx_is_read() {
    assert_eq!(quantization(json!({})), Ok(None));
    assert_eq!(quantization(json!({"quantization": null, "quantization_config": null})), Ok(None));

    // Old and new names, with and without a mode.
    let new = json!({"group_size": 32, "bits": 8, "mode": "affine"});
    let old = json!({"group_size": 32, "bits": 8});
    for config in [
        json!({"quantization": new.clone(), "quantization_config": new.clone()}),
        json!({"quantization": old}),
        json!({"quantization_config": new}),
    ] {
        let Ok(Some(Quantization::Mlx(mlx))) = quantization(config.clone()) else {
            panic!("{config}")
        };
        assert_eq!(mlx.default_format(), Some(affine(8, 32)));
        assert_eq!(mlx.stated("lm_head"), Stated::Default(affine(8, 32)));
    }
    assert_eq!(
        mlx_of(json!({"group_size": 16, "bits": 4, "mode": "nvfp4"})).default,
        Some(Format::NVFP4)
    );
    assert_eq!(mlx_of(json!({"mode": "mxfp8"})).default, Some(Format::MXFP8));
    assert_eq!(mlx_of(json!({})).stated("a"), Stated::Nothing);

    // By layer: without a mode it is affine whatever the others are; null means the mode's default;
    // false means dense.
    let mlx = mlx_of(json!({
        "group_size": 32, "bits": 4, "mode": "mxfp4",
        "model.layers.0.mlp.gate": {"group_size": 64, "bits": 8},
        "model.layers.1.mlp.gate": {"bits": 8},
        "a": {"group_size": null, "bits": 6, "mode": "affine"},
        "b": {"group_size": null, "bits": 4, "mode": "nvfp4", "global_scale": true},
        "c": false, "d": true, "quantize_embeddings": true, "e": null, "f": 5, "g": "x",
    }));
    assert_eq!(mlx.stated("model.layers.0.mlp.gate"), Stated::Format(affine(8, 64)));
    assert_eq!(mlx.stated("model.layers.1.mlp.gate"), Stated::Format(affine(8, 64)));
    assert_eq!(mlx.stated("a"), Stated::Format(affine(6, 64)));
    assert_eq!(mlx.stated("b"), Stated::Format(Format::NVFP4));
    assert_eq!(mlx.stated("c"), Stated::Dense);
    for path in ["d", "e", "f", "g", "h"] {
        assert_eq!(mlx.stated(path), Stated::Default(Format::MXFP4));
    }
    assert_eq!(mlx.layers().count(), 5);

    // The loader's own fields take precedence.
    let both = json!({
        "quantization": {"group_size": 64, "bits": 4}, "quantization_config": {"quant_method": "bitnet"}
    });
    assert!(matches!(quantization(both), Ok(Some(Quantization::Mlx(_)))));
    let method =
        json!({"quantization_config": {"quant_method": "mxfp8", "weight_block_size": [1, 32]}});
    let Ok(Some(Quantization::Mlx(mlx))) = quantization(method) else { panic!() };
    assert_eq!(mlx.default_format(), Some(Format::MXFP8));
}

#[test]
fn other_methods_are_told_apart() {
    let of = |stated: Value| quantization(json!({"quantization_config": stated})).unwrap().unwrap();
    assert_eq!(
        of(
            json!({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": true, "sym": false})
        ),
        Quantization::Gptq(Gptq { bits: 4, group: Some(128), zeros_minus_one: true })
    );
    assert_eq!(
        of(
            json!({"quant_method": "gptq", "bits": 8, "group_size": -1, "checkpoint_format": "gptq_v2"})
        ),
        Quantization::Gptq(Gptq { bits: 8, group: None, zeros_minus_one: false })
    );
    for stated in [
        json!({"quant_method": "awq", "bits": 4, "version": "GEMM", "group_size": 128, "modules_to_not_convert": null}),
        json!({"quant_method": "awq", "w_bit": 4, "q_group_size": 128}),
    ] {
        assert_eq!(of(stated), Quantization::Awq { bits: 4, group: Some(128) });
    }
    assert_eq!(
        of(json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]})),
        Quantization::Fp8 { block: Some([128, 128]) }
    );
    assert_eq!(of(json!({"quant_method": "fbgemm_fp8"})), Quantization::Fp8 { block: None });
    for (stated, block) in [
        (json!({"quant_method": "modelopt", "quant_algo": "FP8"}), None),
        (json!({"quant_algo": "fp8_pb_wo", "producer": {"name": "modelopt"}}), Some([128, 128])),
    ] {
        assert_eq!(of(stated), Quantization::Fp8 { block });
    }
    let group = |strategy: &str, block: Value| {
        json!({
            "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
                "num_bits": 8, "type": "float", "strategy": strategy, "block_structure": block}},
                "group_1": null}
        })
    };
    assert_eq!(of(group("tensor", json!(null))), Quantization::Fp8 { block: None });
    assert_eq!(of(group("channel", json!(null))), Quantization::Fp8 { block: None });
    assert_eq!(of(group("block", json!([128, 64]))), Quantization::Fp8 { block: Some([128, 64]) });
    let mut old = group("tensor", json!(null));
    old.as_object_mut().unwrap().remove("quant_method");
    assert_eq!(
        quantization(json!({"compression_config": old})),
        Ok(Some(Quantization::Fp8 { block: None }))
    );
}

#[test]
fn what_is_not_supported_is_named_with_what_is() {
    for (stated, parts) in [
        (json!({"quant_method": "bitsandbytes"}), ["quant_method", "gptq, awq"]),
        (json!({"quant_method": "bitnet"}), ["bitnet", "compressed-tensors"]),
        (json!({"quant_method": 5}), ["quant_method", "a string"]),
        (json!("4bit"), ["quantization_config", "an object"]),
        (json!({"quant_method": "gptq"}), ["quantization_config.bits", "missing"]),
        (json!({"quant_method": "gptq", "bits": 5}), ["bits", "2, 3, 4, 8"]),
        (
            json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}),
            ["marlin", "gptq_v2"],
        ),
        (json!({"quant_method": "awq", "bits": 4, "version": "gemv"}), ["version", "gemm"]),
        (json!({"quant_method": "fp8", "fmt": "e5m2"}), ["fmt", "e4m3"]),
        (
            json!({"quant_method": "fp8", "weight_block_size": [128]}),
            ["weight_block_size", "expected 2"],
        ),
        (
            json!({"quant_method": "fp8", "weight_block_size": [0, 1]}),
            ["weight_block_size", "from 1"],
        ),
        (
            json!({"quant_method": "compressed-tensors", "format": "float-quantized"}),
            ["config_groups", "missing"],
        ),
        (
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}),
            ["format", "float-quantized"],
        ),
        (
            json!({"config_groups": {"a": {"weights": {"num_bits": 4}}}}),
            ["config_groups.a.weights.num_bits", "8 bits"],
        ),
        (json!({"config_groups": {"a": {"weights": {"type": "int"}}}}), ["weights.type", "float"]),
        (
            json!({"config_groups": {"a": {"weights": {"strategy": "group"}}}}),
            ["strategy", "channel"],
        ),
        (
            json!({"config_groups": {"a": {"weights": {"strategy": "block"}}}}),
            ["block_structure", "absent"],
        ),
        (json!({"group_size": 0, "bits": 4}), ["group_size", "from 1"]),
        (json!({"group_size": 1e300, "bits": 4}), ["group_size", "from 1"]),
        (json!({"bits": -4}), ["bits", "from 1"]),
        (json!({"bits": [4]}), ["bits", "an integer"]),
        (json!({"mode": "mxfp5"}), ["mode", "nvfp4"]),
        (json!({"mode": ["affine"]}), ["mode", "a string"]),
        (json!({"bits": 4, "a": {"mode": "int4"}}), ["a.mode", "affine"]),
    ] {
        let error =
            quantization(json!({"quantization_config": stated.clone()})).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{stated}: {error}");
        assert!(error.len() < 400, "{error}");
    }
    // Long names from the file are cut.
    let long = json!({"quantization": {"x".repeat(100_000): {"bits": 900}}});
    assert!(quantization(long).unwrap_err().to_string().len() < 400);
}

#[test]
fn a_format_that_does_not_exist_is_no_statement() {
    for (stated, path, part) in [
        (json!({"group_size": 64, "bits": 7}), "a", "2, 3, 4, 5, 6 or 8"),
        (json!({"group_size": 65}), "a", "32, 64 or 128"),
        // The mode is missing, or the group size belongs to another mode.
        (json!({"group_size": 16, "bits": 4}), "a", "groups of 16"),
        (json!({"mode": "nvfp4", "group_size": 32}), "a", "nvfp4 has 4 bits and groups of 16"),
        (json!({"a.b": {"bits": 9}}), "a.b", "`quantization.a.b.bits`"),
    ] {
        let mlx = mlx_of(stated.clone());
        assert_eq!(mlx.stated(path), Stated::Nothing, "{stated}");
        assert!(mlx.impossible().is_some_and(|why| why.contains(part)), "{:?}", mlx.impossible());
    }
    let mlx = mlx_of(json!({"group_size": 16, "bits": 4, "a": {"bits": 8}, "b": false}));
    assert_eq!(mlx.stated("a"), Stated::Format(affine(8, 64)));
    assert_eq!((mlx.stated("b"), mlx.stated("c")), (Stated::Dense, Stated::Nothing));
    assert_eq!(mlx_of(json!({"bits": 4})).impossible(), None);
    assert!(mlx_of(json!({"x".repeat(100_000): {"bits": 9}})).impossible().unwrap().len() < 400);
}
