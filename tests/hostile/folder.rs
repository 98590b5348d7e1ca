//! Folders that don't exist, lack a file, or have something else in a file's place.

use std::path::Path;

use kinglet::weights::WeightsError;
use kinglet::{Error, Model, ModelFiles, ModelOptions, NotAModel};
use kinglet_tests::temp::TempDir;

use crate::{copy, open, open_with, refused};

#[test]
fn no_folder_no_config_no_weights() {
    let error = refused(Path::new("/nowhere/at/all"), &["/nowhere/at/all", "nor does /nowhere"]);
    assert!(matches!(error, Error::NotAModel(NotAModel::Nowhere { .. })), "{error:?}");

    let folder = TempDir::new();
    let path = folder.path().display().to_string();
    let error = refused(folder.path(), &[&path, "empty", "config.json"]);
    assert!(matches!(error, Error::NotAModel(NotAModel::Empty { .. })), "{error:?}");

    let folder = copy("llama/plain");
    folder.remove("config.json");
    let error = refused(folder.path(), &["no config.json", "model.safetensors"]);
    assert!(matches!(error, Error::NotAModel(NotAModel::NoConfig { .. })), "{error:?}");

    let folder = copy("llama/plain");
    folder.remove("model.safetensors");
    folder.remove("reference.safetensors");
    let path = folder.path().display().to_string();
    let error = refused(folder.path(), &[&path, "model.safetensors"]);
    assert!(matches!(error, Error::Weights(WeightsError::NoWeights { .. })), "{error:?}");
    folder.write("pytorch_model.bin", "x");
    refused(folder.path(), &["pytorch_model.bin", "save_pretrained"]);
    folder.write("model-q4.gguf", "x");
    refused(folder.path(), &["GGUF"]);
}

#[test]
fn a_file_where_a_folder_should_be() {
    let folder = copy("llama/plain");
    for name in ["model.safetensors", "config.json"] {
        let file = folder.path().join(name);
        let path = folder.path().display().to_string();
        let error = refused(&file, &[&file.display().to_string(), "is a file", &path]);
        let NotAModel::File { model: Some(model), .. } = not_a_model(error) else { panic!() };
        assert_eq!(model, folder.path());
    }
    // Only weights.
    folder.remove("config.json");
    let file = folder.path().join("model.safetensors");
    let error = refused(&file, &["is a file", "without the model's config.json beside it"]);
    assert!(matches!(not_a_model(error), NotAModel::File { model: None, .. }));
    folder.write("model-q4.gguf", "");
    refused(&folder.path().join("model-q4.gguf"), &["is a file", "GGUF"]);
}

#[test]
fn a_folder_where_a_file_should_be() {
    let folder = copy("llama/plain");
    folder.remove("config.json");
    std::fs::create_dir(folder.path().join("config.json")).unwrap();
    let error = refused(folder.path(), &["config.json", "folder"]);
    assert!(matches!(error, Error::Read { .. }), "{error:?}");

    let folder = copy("llama/plain");
    folder.remove("model.safetensors");
    std::fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    let error = refused(folder.path(), &["model.safetensors", "a folder"]);
    assert!(matches!(error, Error::Weights(WeightsError::NotAFile { .. })), "{error:?}");
}

#[test]
fn empty_files() {
    for (name, file) in [
        ("llama/plain", "config.json"),
        ("llama/plain", "model.safetensors"),
        ("llama/sharded", "model.safetensors.index.json"),
    ] {
        let folder = copy(name);
        folder.write(file, "");
        refused(folder.path(), &[file]);
    }
}

#[test]
fn a_missing_shard_and_a_missing_index() {
    let folder = copy("llama/sharded");
    let shards: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("model-") && name.ends_with(".safetensors"))
        .collect();
    let shard = shards.iter().max().unwrap();
    folder.remove(shard);
    let error = refused(folder.path(), &[shard, "download", "tensors missing"]);
    assert!(matches!(error, Error::Weights(WeightsError::Incomplete { .. })), "{error:?}");
    // The numbers in the names of the other files show it too.
    folder.remove("model.safetensors.index.json");
    let error = refused(folder.path(), &[shard, "download"]);
    assert!(matches!(error, Error::Weights(WeightsError::Incomplete { .. })), "{error:?}");
    assert!(kinglet::estimate(folder.path(), &ModelOptions::new(), 1).is_err());

    let whole = open(copy("llama/sharded").path()).unwrap();
    let folder = copy("llama/sharded");
    folder.remove("model.safetensors.index.json");
    let fingerprint = |model: &kinglet::Model| model.weights().fingerprint().unwrap();
    assert_eq!(fingerprint(&open(folder.path()).unwrap()), fingerprint(&whole));
    // An index that places every tensor elsewhere, partly in missing files.
    let index = copy("llama/sharded").read("model.safetensors.index.json");
    let index = index
        .replace("00001-of", "0000x-of")
        .replace("00002-of", "00001-of")
        .replace("0000x-of", "00013-of");
    folder.write("model.safetensors.index.json", index);
    assert_eq!(fingerprint(&open(folder.path()).unwrap()), fingerprint(&whole));
}

fn not_a_model(error: Error) -> NotAModel {
    match error {
        Error::NotAModel(problem) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn folders_without_a_config() {
    let says = |files: &[&str], parts: &[&str]| {
        let folder = TempDir::new();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, r#"{"base_model_name_or_path": "org/base"}"#).unwrap();
        }
        not_a_model(refused(folder.path(), &[parts, &["config.json"]].concat()))
    };
    says(&["a-Q4_K_M.gguf", "a-Q8_0.gguf", "README.md"], &["a-Q8_0.gguf", "GGUF is not supported"]);
    says(&["pytorch_model.bin", "tokenizer.json"], &["pytorch_model.bin", "save_pretrained"]);
    says(&["model.pt"], &["model.pt", "run code"]);
    says(&["decoder.onnx"], &["decoder.onnx", "exported"]);
    says(&["adapter_config.json", "adapter_model.safetensors"], &["adapter", "org/base", "merge"]);
    says(&["model-00001-of-00002.safetensors"], &["download config.json of the same model too"]);
    says(&["consolidated.safetensors", "params.json"], &["params.json", "model*.safetensors"]);
    says(&["model_index.json", "unet/config.json"], &["diffusers"]);
    says(&["tokenizer.json", "merges.txt"], &["tokenizer.json", "nor weights"]);
    let found =
        says(&["a/config.json", "b/config.json", "c/README.md"], &["`a`, `b`", "one of these"]);
    assert!(matches!(found, NotAModel::Folders { models, .. } if models == ["a", "b"]));
    says(&["org/a/config.json", "org/b/c"], &["`org/a`: pass that folder"]);
    let cache = ["models--o--n/snapshots/5/config.json", "models--o--m/snapshots/5/config.json"];
    says(&cache, &["`models--o--m`, `models--o--n`"]);
    says(&["hub/models--o--n/snapshots/5/config.json"], &["`hub/models--o--n`"]);
}

#[test]
fn files_given_without_a_folder() {
    let says = |names: &[&str], part: &str| {
        let mut files = ModelFiles::new();
        names.iter().for_each(|name| files.add_bytes(*name, b"{}".to_vec()));
        let mounted = files.mount();
        let message = refused(mounted.path(), &[part]).to_string();
        assert!(!message.contains("kinglet-files"), "{message}");
    };
    says(&[], "the list of files is empty");
    says(&["a.gguf"], "GGUF");
    says(&["model.safetensors"], "no config.json");
    says(&["adapter_config.json"], "adapter");
    // Shards need no index there either.
    let folder = copy("llama/sharded");
    let shard = |number: usize| format!("model-{number:05}-of-00004.safetensors");
    let mount = |shards: usize| {
        let mut files = ModelFiles::new();
        for name in (1..=shards).map(shard).chain(["config.json".into()]) {
            let contents = std::fs::read(folder.path().join(&name)).unwrap();
            files.add_bytes(name, contents);
        }
        files.mount()
    };
    Model::open(mount(4).path(), &ModelOptions::new().threads(1)).unwrap();
    refused(mount(3).path(), &["incomplete", &shard(4)]);
}

#[test]
fn templates_among_files_given_without_a_folder() {
    let mut files = ModelFiles::new();
    let inside = ["rag.jinja", "a.jinja", "README.md", "deeper/no.jinja"];
    let inside = inside.map(|name| format!("additional_chat_templates/{name}"));
    let others = ["chat_template.jinja", "no.jinja", "other/no.jinja"].map(String::from);
    inside.into_iter().chain(others).for_each(|name| files.add_bytes(name, b"x".to_vec()));
    let mounted = files.mount();
    let templates = kinglet::text::ChatTemplate::from_folder(mounted.path()).unwrap();
    assert_eq!(templates.names(), ["default", "a", "rag"]);
}

/// A repository of the hub's cache, with snapshots of a model.
#[cfg(unix)]
#[test]
fn a_repository_of_the_hubs_cache() {
    use std::os::unix::fs::symlink;
    let root = TempDir::new();
    let repository = root.path().join("models--org--name");
    let blobs = copy("llama/plain");
    let snapshot = |commit: &str| {
        let folder = repository.join("snapshots").join(commit);
        std::fs::create_dir_all(&folder).unwrap();
        for file in ["config.json", "model.safetensors"] {
            symlink(blobs.path().join(file), folder.join(file)).unwrap();
        }
        folder
    };
    std::fs::create_dir_all(repository.join("blobs")).unwrap();
    assert!(matches!(
        not_a_model(refused(&repository, &["snapshot"])),
        NotAModel::NoSnapshot { .. }
    ));
    let first = snapshot("aa11");
    assert_eq!(open(&repository).unwrap().folder(), first);
    let second = snapshot("bb22");
    let error = not_a_model(refused(&repository, &["aa11", "bb22", "refs/main"]));
    assert!(matches!(error, NotAModel::Snapshots { .. }), "{error}");
    let refs = repository.join("refs");
    std::fs::create_dir(&refs).unwrap();
    std::fs::write(refs.join("v1"), "aa11").unwrap();
    refused(&repository, &["aa11 (v1)"]);
    for (main, folder) in [("bb22", &second), ("aa11\n", &first)] {
        std::fs::write(refs.join("main"), main).unwrap();
        assert_eq!(open(&repository).unwrap().folder(), folder);
        assert_eq!(open(&repository.join("snapshots")).unwrap().folder(), folder);
        assert!(kinglet::estimate(&repository, &ModelOptions::new(), 1).is_ok());
    }
    // A ref can't leave the repository.
    for main in ["../../..", "", "cc33", "bb22/../aa11"] {
        std::fs::write(refs.join("main"), main).unwrap();
        assert!(matches!(
            not_a_model(refused(&repository, &["aa11"])),
            NotAModel::Snapshots { .. }
        ));
    }
}

/// Devices, pipes and dangling links: reading one could block forever or never end.
#[cfg(unix)]
#[test]
fn files_that_are_no_files() {
    use std::os::unix::fs::symlink;
    for file in ["config.json", "model.safetensors"] {
        for target in ["/dev/zero", "/dev/null", "/nowhere/at/all"] {
            let folder = copy("llama/plain");
            folder.remove(file);
            symlink(target, folder.path().join(file)).unwrap();
            refused(folder.path(), &[file]);
        }
        let folder = copy("llama/plain");
        folder.remove(file);
        let made = std::process::Command::new("mkfifo").arg(folder.path().join(file)).status();
        assert!(made.unwrap().success());
        refused(folder.path(), &[file]);
    }
}

/// Links as in the hub's cache work like files.
#[cfg(unix)]
#[test]
fn links_to_files_are_followed() {
    let original = copy("llama/plain");
    let folder = TempDir::new();
    for file in ["config.json", "model.safetensors"] {
        let target = original.path().join(file);
        std::os::unix::fs::symlink(target, folder.path().join(file)).unwrap();
    }
    open(folder.path()).unwrap();
}

#[test]
fn options_out_of_range() {
    let folder = copy("llama/plain");
    for (options, parts) in [
        (ModelOptions::new().threads(0), ["threads", "0"]),
        (ModelOptions::new().threads(usize::MAX), ["threads", "512"]),
        (ModelOptions::new().threads(1).chunk(0), ["chunk", "0"]),
        (ModelOptions::new().threads(1).chunk(usize::MAX), ["chunk", "65536"]),
    ] {
        let error = open_with(folder.path(), &options).err().unwrap();
        assert!(matches!(error, Error::Option { .. }), "{error:?}");
        assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    }
}
