//! Valid checkpoints with surplus tensors, and configs with surplus fields: they run.

use std::sync::Mutex;

use half::f16;
use kinglet::models::Mixer;
use kinglet::weights::{ConversionError, Problem, WeightsError};
use kinglet::{Activations, Checkpoint, Error, Model, ModelOptions};
use kinglet_tests::temp::TempDir;
use kinglet_tests::{Case, case_named, foreign_cases, relative_l2};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::one_of_each_family;
use crate::weights::{Entry, read, write};

fn options() -> ModelOptions {
    ModelOptions::new().threads(1).activations(Activations::F32).backend(kinglet::Backend::Cpu)
}

fn logits(folder: &TempDir, case: &Case) -> Vec<f32> {
    let model = Model::open(folder.path(), &options());
    let model = model.unwrap_or_else(|error| panic!("{}: {error}", case.name));
    model.session().unwrap().feed_all(&case.tokens).unwrap().to_vec()
}

fn edited(case: &Case, edit: impl FnOnce(&mut Vec<Entry>)) -> TempDir {
    let folder = TempDir::copy_of(&case.folder);
    let mut entries = read(&folder);
    edit(&mut entries);
    write(&folder, &entries);
    folder
}

fn config(folder: &TempDir) -> Value {
    serde_json::from_str(&kinglet::models::tag_bare_floats(&folder.read("config.json"))).unwrap()
}

/// Warnings of the library, by thread.
static WARNINGS: Mutex<Vec<(std::thread::ThreadId, String)>> = Mutex::new(Vec::new());

struct Keep;

impl log::Log for Keep {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let said = (std::thread::current().id(), record.args().to_string());
            WARNINGS.lock().unwrap().push(said);
        }
    }

    fn flush(&self) {}
}

/// The warnings of `run`.
fn warnings<T>(run: impl FnOnce() -> T) -> (T, Vec<String>) {
    if log::set_logger(&Keep).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
    let own = std::thread::current().id();
    let take = || {
        let mut all = WARNINGS.lock().unwrap();
        let said = all.iter().filter(|(thread, _)| *thread == own).map(|(_, text)| text.clone());
        let said = said.collect();
        all.retain(|(thread, _)| *thread != own);
        said
    };
    let _: Vec<String> = take();
    let result = run();
    (result, take())
}

#[test]
fn tensors_that_nothing_uses_are_one_warning() {
    for case in one_of_each_family() {
        let extra: &[(&str, &[usize])] = &[
            ("mtp.layers.0.mlp.down_proj.weight", &[4, 4]),
            ("mtp.norm.weight", &[4]),
            ("score.weight", &[2, 4]),
            ("model.layers.0.self_attn.masked_bias", &[]),
            ("model.layers.1.self_attn.masked_bias", &[]),
            ("vision_tower.layers.0.norm.weight", &[3]),
        ];
        let folder = edited(&case, |entries| {
            for (name, shape) in extra {
                let bytes = vec![0; 4 * shape.iter().product::<usize>()];
                entries.push((name.to_string(), Dtype::F32, shape.to_vec(), bytes));
            }
            // A type that the engine can't compute with.
            entries.push(("score.codes".into(), Dtype::I8, vec![3], vec![0; 3]));
            entries.sort_by(|a, b| a.0.cmp(&b.0));
        });
        let (got, said) = warnings(|| logits(&folder, &case));
        assert!(relative_l2(&got, &case.logits) < 1e-5, "{}", case.name);
        assert_eq!(said.len(), 1, "{}: {said:?}", case.name);
        let said = &said[0];
        // Some families have layers that predict further tokens, which are known.
        let known = if said.contains("`mtp.*`") { 0 } else { 2 };
        let family = case.name.split('/').next().unwrap();
        let predicts = ["nemotron_h", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"];
        assert_eq!(known == 2, predicts.contains(&family), "{family}: {said}");
        let count = format!("{} tensors are not used by the model: ", 7 - known);
        assert!(said.starts_with(&count), "{said}");
        for part in ["`mtp.*` (2)", "`score.*` (2)", "`vision_tower.*`"].iter().skip(known / 2) {
            assert!(said.contains(part), "{}: no {part} in {said}", case.name);
        }

        let error = Model::open(folder.path(), &options().strict(true)).err().unwrap();
        let Error::Weights(WeightsError::Mismatch(mismatch)) = error else { panic!("{error:?}") };
        assert_eq!(mismatch.problems.len(), 7 - known);
        assert!(mismatch.problems.iter().all(|p| matches!(p, Problem::Surplus { .. })));
    }
}

#[test]
fn buffers_of_rotations_are_nothing_to_speak_of() {
    let case = case_named("llama/plain");
    for name in ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"] {
        let folder = edited(&case, |entries| {
            entries.push((name.into(), Dtype::F32, vec![8], vec![0; 32]));
        });
        let (got, said) = warnings(|| logits(&folder, &case));
        assert!(relative_l2(&got, &case.logits) < 1e-5);
        assert!(said.is_empty(), "{said:?}");
        Model::open(folder.path(), &options().strict(true)).unwrap();
    }
}

/// Layers packed as integers: the names before the last dot, and the number of outputs of each.
fn packed(entries: &[Entry]) -> Vec<(String, usize)> {
    let shape = |name: &str| &entries.iter().find(|e| e.0 == name).unwrap().2;
    let layers = entries.iter().filter_map(|e| e.0.strip_suffix(".qweight"));
    layers.map(|name| (name.into(), shape(&format!("{name}.scales"))[1])).collect()
}

#[test]
fn zero_biases_beside_packed_matrices_change_nothing() {
    let mut seen = 0;
    for case in foreign_cases().into_iter().filter(|case| !case.name.contains("fp8")) {
        let expected = logits(&TempDir::copy_of(&case.folder), &case);
        let folder = edited(&case, |entries| {
            for (name, rows) in packed(entries) {
                if entries.iter().any(|entry| entry.0 == format!("{name}.bias")) {
                    continue;
                }
                entries.push((format!("{name}.bias"), Dtype::F16, vec![rows], vec![0; 2 * rows]));
                seen += 1;
            }
        });
        let (got, said) = warnings(|| logits(&folder, &case));
        assert!(got == expected, "{}", case.name);
        assert!(!said.iter().any(|said| said.contains("not used")), "{said:?}");
        Model::open(folder.path(), &options().strict(true)).unwrap();
    }
    assert!(seen > 50, "{seen}");
}

/// The same biases, stated in the config.
#[test]
fn biases_beside_packed_matrices_are_added() {
    for name in ["foreign/gptq4", "foreign/awq"] {
        let case = case_named(name);
        let folder = TempDir::copy_of(&case.folder);
        let mut entries = read(&folder);
        for (name, rows) in packed(&entries) {
            let bias = |row: usize| f16::from_f32(0.01 * (row % 23) as f32 - 0.1).to_le_bytes();
            let bytes = (0..rows).flat_map(bias).collect();
            let name = format!("{name}.bias");
            entries.retain(|entry| entry.0 != name);
            entries.push((name, Dtype::F16, vec![rows], bytes));
        }
        write(&folder, &entries);
        let added = logits(&folder, &case);
        assert!(relative_l2(&added, &case.logits) > 1e-2, "{name}: nothing was added");
        let model = Model::open(folder.path(), &options()).unwrap();
        for branch in model.spec().blocks.iter().flat_map(|block| &block.branches) {
            let linears: Vec<_> = match &branch.mixer {
                Mixer::Attention(a) => a.q.iter().chain([&a.k, &a.v, &a.o]).collect(),
                Mixer::Dense(d) => d.gate.iter().chain([&d.up, &d.down]).collect(),
                other => panic!("{other:?}"),
            };
            assert!(linears.iter().all(|linear| linear.bias.is_some()));
        }
        // A llama's config can state them.
        let mut stated = config(&folder);
        stated["model_type"] = "llama".into();
        stated["attention_bias"] = true.into();
        stated["mlp_bias"] = true.into();
        stated["use_sliding_window"] = false.into();
        stated.as_object_mut().unwrap().remove("architectures");
        folder.write("config.json", stated.to_string());
        assert!(added == logits(&folder, &case), "{name}");
    }
}

#[test]
fn a_bias_that_can_not_be_added_is_an_error() {
    let case = case_named("foreign/gptq3-experts");
    let folder = edited(&case, |entries| {
        let (name, rows) =
            packed(entries).into_iter().find(|(n, _)| n.contains("experts")).unwrap();
        let bytes = f16::from_f32(0.5).to_le_bytes().repeat(rows);
        entries.push((format!("{name}.bias"), Dtype::F16, vec![rows], bytes));
    });
    let error = Model::open(folder.path(), &options()).err().unwrap();
    assert!(error.to_string().contains("experts.0.w1.bias"), "{error}");
    let bias = matches!(
        &error,
        Error::Weights(WeightsError::Foreign { error: ConversionError::Bias { .. }, .. })
    );
    assert!(bias, "{error:?}");
}

#[test]
fn the_text_part_of_a_larger_model_is_run() {
    for case in one_of_each_family() {
        for (outer, key, prefix) in [
            ("llava", "text_config", "language_model."),
            ("mistral3", "text_config", ""),
            ("internvl_chat", "llm_config", "language_model."),
            ("qwen_omni", "thinker_config", "thinker."),
        ] {
            let folder = edited(&case, |entries| {
                for entry in entries.iter_mut() {
                    entry.0.insert_str(0, prefix);
                }
                for name in ["vision_tower.a.weight", "vision_tower.b.weight"] {
                    entries.push((name.into(), Dtype::F32, vec![1], vec![0; 4]));
                }
            });
            let mut inner = config(&folder);
            if key == "thinker_config" {
                inner = json!({"model_type": "qwen_omni_thinker", "text_config": inner});
            }
            let whole = json!({
                "model_type": outer, "architectures": ["SomethingForConditionalGeneration"],
                "vision_config": {"model_type": "clip_vision_model", "hidden_size": 3}, key: inner,
            });
            folder.write("config.json", whole.to_string());
            let (got, said) = warnings(|| logits(&folder, &case));
            assert!(relative_l2(&got, &case.logits) < 1e-5, "{} {outer}", case.name);
            assert_eq!(said.len(), 2, "{said:?}");
            assert!(said.iter().any(|s| s.contains(outer) && s.contains(key)), "{said:?}");
            assert!(said.iter().any(
                |s| s.contains("2 tensors are not used") && s.contains("`vision_tower.*` (2)")
            ));
        }
    }
}

/// LFM2-VL: the language model and the rest are modules of one model.
#[test]
fn the_text_part_of_lfm2_vl_is_run() {
    let case = case_named("lfm2/plain");
    let folder = edited(&case, |entries| {
        for entry in entries.iter_mut() {
            entry.0 = entry.0.replacen("model.", "model.language_model.", 1);
        }
        for name in [
            "model.vision_tower.vision_model.post_layernorm.weight",
            "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
            "model.multi_modal_projector.linear_1.weight",
        ] {
            entries.push((name.into(), Dtype::F32, vec![1], vec![0; 4]));
        }
    });
    let whole = json!({
        "model_type": "lfm2_vl", "architectures": ["Lfm2VlForConditionalGeneration"],
        "image_token_id": 3, "projector_hidden_size": 8,
        "vision_config": {"model_type": "siglip2_vision_model", "hidden_size": 3},
        "text_config": config(&folder),
    });
    folder.write("config.json", whole.to_string());
    let (got, said) = warnings(|| logits(&folder, &case));
    assert!(relative_l2(&got, &case.logits) < 1e-5);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said.iter().any(|s| s.contains("lfm2_vl") && s.contains("text_config")), "{said:?}");
    let unused = said.iter().find(|s| s.contains("3 tensors are not used"));
    let unused = unused.unwrap_or_else(|| panic!("{said:?}"));
    for part in ["vision_tower", "multi_modal_projector"] {
        assert!(unused.contains(part), "{unused}");
    }
}

/// Qwen 3.5: the same, with a head that predicts further tokens next to them.
#[test]
fn the_text_part_of_qwen3_5_is_run() {
    for (outer, class) in [
        ("qwen3_5", "Qwen3_5ForConditionalGeneration"),
        ("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration"),
    ] {
        let case = case_named(&format!("{outer}_text/plain"));
        let folder = edited(&case, |entries| {
            for entry in entries.iter_mut() {
                entry.0 = entry.0.replacen("model.", "model.language_model.", 1);
            }
            for name in [
                "model.visual.blocks.0.norm1.weight",
                "model.visual.patch_embed.proj.weight",
                "mtp.norm.weight",
            ] {
                entries.push((name.into(), Dtype::F32, vec![1], vec![0; 4]));
            }
        });
        let whole = json!({
            "model_type": outer, "architectures": [class], "image_token_id": 3,
            "vision_config": {"model_type": outer, "hidden_size": 3},
            "text_config": config(&folder),
        });
        folder.write("config.json", whole.to_string());
        let (got, said) = warnings(|| logits(&folder, &case));
        assert!(relative_l2(&got, &case.logits) < 1e-5, "{outer}");
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains(outer) && said[0].contains("text_config"), "{said:?}");
        let unused = "2 tensors are not used by the model: `model.visual.*` (2)";
        assert_eq!(said[1], unused);
    }
}

/// xLSTM with `weight_mode: fused`: projections of the same input are the rows of one tensor.
#[test]
fn fused_projections_are_the_separate_ones() {
    let case = case_named("xlstm/biases");
    let folder = edited(&case, |entries| {
        for (fused, parts) in [
            ("qkv_opreact", &["q", "k", "v", "ogate_preact"][..]),
            ("ifgate_preact", &["igate_preact", "fgate_preact"]),
            ("proj_up_gate_z", &["proj_up_gate", "proj_up"]),
        ] {
            for kind in ["weight", "bias"] {
                let first = format!(".{}.{kind}", parts[0]);
                let ends = entries.iter().filter_map(|entry| entry.0.strip_suffix(&first));
                for prefix in ends.map(String::from).collect::<Vec<_>>() {
                    let mut whole: Option<Entry> = None;
                    for part in parts {
                        let name = format!("{prefix}.{part}.{kind}");
                        let at = entries.iter().position(|entry| entry.0 == name).unwrap();
                        let (_, dtype, shape, bytes) = entries.remove(at);
                        match &mut whole {
                            Some(whole) => {
                                whole.2[0] += shape[0];
                                whole.3.extend(bytes);
                            }
                            None => {
                                let name = format!("{prefix}.{fused}.{kind}");
                                whole = Some((name, dtype, shape, bytes));
                            }
                        }
                    }
                    entries.extend(whole);
                }
            }
        }
    });
    let expected = logits(&TempDir::copy_of(&case.folder), &case);
    let mut config = config(&folder);
    config["weight_mode"] = json!("fused");
    folder.write("config.json", config.to_string());
    assert_eq!(logits(&folder, &case), expected);
}

/// Fields next to the text part that concern it.
#[test]
fn a_larger_models_own_fields_count_for_its_text_part() {
    let case = case_named("quantized/llama-affine4");
    let folder = TempDir::copy_of(&case.folder);
    let mut inner = config(&folder);
    let quantization = inner.as_object_mut().unwrap().remove("quantization").unwrap();
    inner.as_object_mut().unwrap().remove("quantization_config");
    let mut whole =
        json!({"model_type": "llava", "quantization": quantization, "text_config": inner});
    folder.write("config.json", whole.to_string());
    let checkpoint = Checkpoint::open(folder.path(), Default::default()).unwrap();
    assert!(checkpoint.quantization.is_some());
    assert!(relative_l2(&logits(&folder, &case), &case.logits) < 1e-5);

    // Errors name the field by its path.
    whole["text_config"]["hidden_size"] = (-1).into();
    folder.write("config.json", whole.to_string());
    let error = Model::open(folder.path(), &options()).err().unwrap().to_string();
    assert!(error.contains("text_config.hidden_size"), "{error}");
    whole["text_config"]["model_type"] = "gemma9".into();
    folder.write("config.json", whole.to_string());
    let error = Model::open(folder.path(), &options()).err().unwrap().to_string();
    assert!(error.contains("llava") && error.contains("gemma9"), "{error}");

    // A tied head that only the outer config mentions.
    let case = case_named("llama/tied");
    let folder = TempDir::copy_of(&case.folder);
    let mut inner = config(&folder);
    inner.as_object_mut().unwrap().remove("tie_word_embeddings");
    let whole = json!({"model_type": "llava", "tie_word_embeddings": true, "text_config": inner});
    folder.write("config.json", whole.to_string());
    assert!(relative_l2(&logits(&folder, &case), &case.logits) < 1e-5);
}

#[test]
fn configs_that_say_that_nothing_is_quantized_are_believed() {
    let case = case_named("llama/plain");
    let folder = TempDir::copy_of(&case.folder);
    let plain = config(&folder);
    let weights = json!({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128});
    for stated in [
        json!(null),
        json!({}),
        json!({"quant_method": "compressed-tensors", "format": "dense"}),
        json!({"quant_method": "compressed-tensors", "format": "dense", "config_groups":
            {"group_0": {"targets": ["Linear"], "weights": weights}}}),
        json!({"quant_method": "compressed-tensors", "config_groups": {}}),
        json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}}),
        json!({"quant_method": "compressed-tensors"}),
        json!({"quant_method": "compressed-tensors", "sparsity_config": {"format": "dense"}}),
        json!({"sparsity_config": {"format": "dense", "global_sparsity": 0.1}}),
        json!({"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups":
            {"group_0": {"targets": ["Linear"], "weights": null, "input_activations": {"num_bits": 8}}}}),
        json!({"quant_method": "compressed-tensors", "config_groups":
            {"group_0": {"format": "dense", "weights": weights}}}),
        json!({"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8}, "config_groups": null}),
        json!({"quant_method": "bitsandbytes", "load_in_8bit": false, "load_in_4bit": false}),
        json!({"load_in_8bit": false, "load_in_4bit": false}),
        json!({"quant_method": "bitsandbytes", "load_in_4bit": false, "bnb_4bit_quant_type": "nf4"}),
    ] {
        for key in ["quantization_config", "compression_config"] {
            let mut config = plain.clone();
            config[key] = stated.clone();
            folder.write("config.json", config.to_string());
            let (got, said) = warnings(|| logits(&folder, &case));
            assert!(relative_l2(&got, &case.logits) < 1e-5, "{stated}");
            assert!(said.is_empty(), "{said:?}");
            let checkpoint = Checkpoint::open(folder.path(), Default::default()).unwrap();
            assert_eq!(checkpoint.quantization, None, "{stated}");
        }
    }
    for (stated, part) in [
        (json!({"quant_method": "bitsandbytes", "load_in_4bit": true}), "load_in_4bit"),
        (json!({"load_in_8bit": true}), "load_in_8bit"),
        (json!({"sparsity_config": {"format": "sparse-24-bitmask"}}), "sparsity_config.format"),
        (json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}), "format"),
        (
            json!({"config_groups": {"a": {"weights": weights}, "b": {"format": "dense"}}}),
            "num_bits",
        ),
    ] {
        let mut config = plain.clone();
        config["quantization_config"] = stated.clone();
        folder.write("config.json", config.to_string());
        let error = Model::open(folder.path(), &options()).err().unwrap().to_string();
        assert!(error.contains(part), "{stated}: {error}");
    }
}
