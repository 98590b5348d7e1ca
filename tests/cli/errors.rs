//! Models that are missing or broken: one line that says what was wrong and what to do.

use crate::support::{TextModel, command, fixture, kinglet, run};

#[test]
fn a_model_that_is_not_there() {
    let model = TextModel::new();
    let file = model.path().join("config.json");
    for (path, part) in
        [("/no/such/model", "does not exist"), (file.to_str().unwrap(), "is a file")]
    {
        for line in
            [&["generate", "--prompt", "a"][..], &["tokenize", "a"], &["chat", "--prompt", "a"]]
        {
            let message = kinglet(&[line, &["--model", path]].concat()).error(1);
            for part in [path, part, "--model", "config.json"] {
                assert!(message.contains(part), "{message}");
            }
        }
    }
    let empty = tempfile::tempdir().unwrap();
    let dir = empty.path().to_str().unwrap();
    let message = kinglet(&["generate", "--prompt", "a", "--model", dir]).error(1);
    assert!(message.contains("config.json"), "{message}");
}

#[test]
fn the_environment_names_a_model_and_is_named_in_the_error() {
    let model = TextModel::new();
    let mut line = command(&["tokenize", "Hi"]);
    line.env("KINGLET_MODEL", model.path());
    assert_eq!(run(line, b"").ok(), model.run("tokenize", &["Hi"]).ok());
    let mut line = command(&["tokenize", "Hi"]);
    line.env("KINGLET_MODEL", "/no/such/model");
    let message = run(line, b"").error(1);
    assert!(message.contains("KINGLET_MODEL") && message.contains("/no/such/model"), "{message}");
}

#[test]
fn broken_files_are_named() {
    let replace = |file: &str, contents: &[u8]| {
        let model = TextModel::new();
        std::fs::write(model.path().join(file), contents).unwrap();
        let message = model.run("chat", &["--prompt", "Hi", "-n", "2"]).error(1);
        assert!(!message.contains("bug"), "{message}");
        message
    };
    for (file, contents, part) in [
        ("config.json", &b"{"[..], "config.json"),
        ("config.json", b"{\"model_type\": \"gpt9\"}", "gpt9"),
        ("config.json", b"\xff\xfe", "config.json"),
        ("model.safetensors", b"", "model.safetensors"),
        ("model.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "model.safetensors"),
        ("tokenizer.json", b"{\"model\": 3}", "tokenizer.json"),
        ("tokenizer.json", b"", "tokenizer.json"),
        ("chat_template.jinja", b"{{ messages ", "template"),
        (
            "chat_template.jinja",
            b"{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
            "template",
        ),
        ("generation_config.json", b"[]", "generation_config.json"),
        ("generation_config.json", b"{\"eos_token_id\": \"x\"}", "eos_token_id"),
    ] {
        let message = replace(file, contents);
        assert!(message.contains(part), "{file}: {message}");
    }
    let model = TextModel::new();
    std::fs::remove_file(model.path().join("model.safetensors")).unwrap();
    let message = model.run("generate", &["--prompt", "Hi"]).error(1);
    assert!(message.contains("model.safetensors"), "{message}");
}

#[test]
fn prompt_tokens_without_an_embedding_row_are_refused() {
    let model = TextModel::new();
    let path = model.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"!\":0", "\"!\":5000")).unwrap();
    let line = ["--prompt", "Hi", "-n", "3", "--ignore-eos", "--temperature", "1", "--json"];
    for command in ["generate", "chat"] {
        let done = model.run(command, &line).events().pop().unwrap();
        assert_eq!(done["tokens"]["generated"], 3);
        let message = model.run(command, &["--prompt", "Hi!"]).error(1);
        assert!(message.contains("5000") && message.contains("112"), "{message}");
        assert!(message.contains("\"!\""), "{message}");
    }
}

#[test]
fn ids_that_stand_for_no_token_are_no_fault() {
    let model = TextModel::new();
    let end = model.id("<|end|>");
    let only = model.only(&["<|end|>"]);
    for eos in [format!("[-1, {end}]"), "-1".into(), "null".into()] {
        let ids = format!("\"bos_token_id\": -1, \"pad_token_id\": -1, \"eos_token_id\": {eos}");
        model.write("generation_config.json", &format!("{{{ids}}}"));
        // If this file is silent, config.json decides.
        let path = model.path().join("config.json");
        let config = std::fs::read_to_string(&path).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        config["bos_token_id"] = (-1).into();
        config["pad_token_id"] = (-1).into();
        config["eos_token_id"] = serde_json::json!([-1, end]);
        std::fs::write(&path, config.to_string()).unwrap();
        let line = ["--prompt", "Hi", "-n", "3", "--logit-bias", &only, "--json"];
        let done = model.run("generate", &line).events().pop().unwrap();
        assert_eq!(done["stop_reason"], "stop_token", "{eos}");
    }
}

#[test]
fn options_out_of_range_are_wrong_usage() {
    let model = TextModel::new();
    for (option, value) in [
        ("--temperature", "-1"),
        ("--temperature", "nan"),
        ("--top-p", "0"),
        ("--top-p", "1.5"),
        ("--min-p", "-0.1"),
        ("--typical-p", "0"),
        ("--repetition-penalty", "0"),
        ("--presence-penalty", "inf"),
        ("--dry-base", "0.5"),
        ("--xtc-probability", "2"),
        ("--logit-bias", "3=nan"),
    ] {
        let message = model.run("generate", &["--prompt", "Hi", option, value]).error(2);
        let name = option.trim_start_matches('-').split('-').next().unwrap();
        assert!(message.contains(name), "{option} {value}: {message}");
    }
    let message = model.run("generate", &["--prompt", "Hi", "--logit-bias", "112=1"]).error(1);
    assert!(message.contains("112"), "{message}");
    let message = model.run("generate", &["--prompt", "Hi", "--stop", ""]).error(1);
    assert!(message.contains("empty"), "{message}");
}

#[test]
fn tokens_that_the_model_lacks_are_refused() {
    let model = fixture("mamba2/plain");
    let message = kinglet(&["generate", "--model", &model, "--tokens", "5,500"]).error(1);
    assert!(message.contains("500") && message.contains("111"), "{message}");
    let message = kinglet(&["generate", "--model", &model, "--prompt", "text"]).error(1);
    assert!(message.contains("tokenizer.json"), "{message}");
    let message =
        kinglet(&["generate", "--model", &model, "--tokens", "5", "--stop", "x"]).error(2);
    assert!(message.contains("--stop"), "{message}");
    let text = TextModel::new();
    let message = text.run("generate", &["--prompt", ""]).error(1);
    assert!(message.contains("empty"), "{message}");
}

#[test]
fn broken_weights_are_an_error_and_not_an_answer() {
    let model = TextModel::new();
    let path = model.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for value in bytes[8 + header..].chunks_exact_mut(4) {
        value.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    std::fs::write(&path, &bytes).unwrap();
    let message = model.run("generate", &["--prompt", "Hi"]).error(1);
    assert!(message.contains("NaN"), "{message}");
}

#[test]
fn more_of_a_long_error_comes_with_verbose() {
    let model = TextModel::new();
    let config = std::fs::read_to_string(model.path().join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    // Then every tensor of the embedding's width has the wrong shape.
    config["hidden_size"] = 2048.into();
    model.write("config.json", &config.to_string());
    let short = model.run("generate", &["--prompt", "Hi"]).error(1);
    let long = model.run("generate", &["--prompt", "Hi", "--verbose"]);
    assert_eq!(long.code, 1);
    assert!(long.stderr.lines().count() >= short.lines().count(), "{long:?}");
}

#[test]
fn the_name_of_a_model_on_the_hub() {
    let cache = tempfile::tempdir().unwrap();
    let say = |id: &str| {
        let mut line = command(&["tokenize", "Hi", "--model", id]);
        line.env("HF_HUB_CACHE", cache.path()).current_dir(cache.path());
        run(line, b"")
    };
    for id in ["some-org/no.such_model-1b", "https://huggingface.co/some-org/no.such_model-1b"] {
        let message = say(id).error(1);
        for part in ["`hf download some-org/no.such_model-1b`", "--model", "config.json"] {
            assert!(message.contains(part), "{message}");
        }
    }
    // As if it had been downloaded.
    let model = TextModel::new();
    let snapshot = cache.path().join("models--some-org--no.such_model-1b/snapshots/0a1b");
    std::fs::create_dir_all(snapshot.parent().unwrap()).unwrap();
    std::fs::rename(model.path(), &snapshot).unwrap();
    let message = say("some-org/no.such_model-1b").error(1);
    assert!(message.contains(snapshot.to_str().unwrap()), "{message}");
    // The repository's folder is as good as its snapshot's.
    let repository = "models--some-org--no.such_model-1b";
    assert_eq!(say(repository).ok(), say(snapshot.to_str().unwrap()).ok());
    let message = say(".").error(1);
    assert!(message.contains(repository), "{message}");
}

/// A link in a download cache whose file was not downloaded.
#[cfg(unix)]
#[test]
fn unreadable_small_files_give_one_warning() {
    let line = ["--prompt", "Hi", "-n", "2", "--temperature", "0"];
    for (file, consequence) in [
        ("generation_config.json", "an answer ends at token"),
        ("tokenizer_config.json", "special tokens"),
        ("special_tokens_map.json", "special tokens"),
        ("chat_template.json", "chat template"),
    ] {
        let model = TextModel::new();
        let config = std::fs::read_to_string(model.path().join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        config["eos_token_id"] = 7.into();
        model.write("config.json", &config.to_string());
        // Without chat_template.jinja the other files are searched.
        let template = model.path().join("chat_template.jinja");
        let template = template.to_str().unwrap();
        let run = || model.run("chat", &[&line[..], &["--template", template]].concat());
        let path = model.path().join(file);
        let _ = std::fs::remove_file(&path);
        let right = run().ok();
        for place in ["link", "folder", "unfinished"] {
            match place {
                "link" => std::os::unix::fs::symlink("../../blobs/gone", &path).unwrap(),
                "folder" => {
                    std::fs::remove_file(&path).unwrap();
                    std::fs::create_dir(&path).unwrap();
                }
                _ => {
                    std::fs::remove_dir(&path).unwrap();
                    model.write(&format!("{file}.incomplete"), "{");
                }
            }
            let done = run();
            if file == "chat_template.json" {
                // The template was given, so it is not searched.
                assert_eq!(done.ok(), right);
                continue;
            }
            assert_eq!((done.code, &done.stdout), (0, &right), "{done:?}");
            let problem = match place {
                "link" => "a link to ../../blobs/gone, which does not exist",
                "folder" => "it is a folder",
                _ => ".incomplete exists",
            };
            for part in [file, problem, consequence] {
                assert!(done.stderr.contains(part), "{part}: {done:?}");
            }
            assert_eq!(done.stderr.lines().count(), 1, "told once: {done:?}");
        }
    }
    // Files that nothing works without are an error.
    for file in ["tokenizer.json", "config.json", "model.safetensors"] {
        let model = TextModel::new();
        let path = model.path().join(file);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("../../blobs/gone", &path).unwrap();
        let message = model.run("chat", &line).error(1);
        assert!(message.contains(file) && message.contains("the download may be"), "{message}");
    }
}
