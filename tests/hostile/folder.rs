//! Folders that are none, lack a file, or have something else in a file's place.

use std::path::Path;

use kinglet::weights::WeightsError;
use kinglet::{Error, ModelOptions};
use kinglet_tests::temp::TempDir;

use crate::{copy, open, open_with, refused};

#[test]
fn no_folder_no_config_no_weights() {
    let error = refused(Path::new("/nowhere/at/all"), &["/nowhere/at/all"]);
    assert!(matches!(error, Error::Read { .. }), "{error:?}");

    let folder = TempDir::new();
    let path = folder.path().display().to_string();
    assert!(matches!(refused(folder.path(), &[&path, "config.json"]), Error::Read { .. }));

    let folder = copy("llama/plain");
    folder.remove("config.json");
    refused(folder.path(), &["config.json"]);

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
    let file = folder.path().join("model.safetensors");
    let error = refused(&file, &[&file.display().to_string()]);
    assert!(matches!(error, Error::Read { .. }), "{error:?}");
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
    let error = refused(folder.path(), &[shard, "download"]);
    assert!(matches!(error, Error::Weights(WeightsError::MissingShard { .. })), "{error:?}");

    let folder = copy("llama/sharded");
    folder.remove("model.safetensors.index.json");
    refused(folder.path(), &["model.safetensors.index.json"]);
}

/// Devices, pipes and links that lead nowhere: reading one could block for ever, or never end.
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

/// Links as the hub's cache has them are as good as files.
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
