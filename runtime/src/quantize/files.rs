//! The files beside the weights that a checkpoint takes along: tokenizer, templates, defaults, licence.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::error::QuantizeError;
use super::write::failed_write;

/// Largest file that is copied: vocabularies have tens of megabytes.
const MAX_BYTES: u64 = 1 << 30;

/// Whether a file belongs to a checkpoint whatever its weights are.
fn belongs(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "generation_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "merges.txt",
        "vocab.txt",
        "vocab.json",
        "preprocessor_config.json",
        "processor_config.json",
        "tekken.json",
    ];
    const BEGINNINGS: [&str; 6] =
        ["tokenizer", "chat_template", "LICENSE", "LICENCE", "NOTICE", "README"];
    const ENDINGS: [&str; 4] = [".jinja", ".tiktoken", "spiece.model", "sentencepiece.bpe.model"];
    let upper = name.to_uppercase();
    NAMES.contains(&name)
        || BEGINNINGS.iter().any(|begin| name.starts_with(begin) || upper.starts_with(begin))
        || ENDINGS.iter().any(|end| name.ends_with(end))
}

/// Copies the files of `from` that belong to a checkpoint to the folder `to`; gives their names.
pub(super) fn copy(from: &Path, to: &Path, needed: u64) -> Result<Vec<String>, QuantizeError> {
    let io = |doing, path: &Path| {
        let path = path.to_path_buf();
        move |source| QuantizeError::Io { doing, path, source }
    };
    let mut copied = Vec::new();
    for entry in fs::read_dir(from).map_err(io("list", from))? {
        let entry = entry.map_err(io("list", from))?;
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str().filter(|name| belongs(name)) else { continue };
        // Links are followed: that is how download caches store their files. What is no file, or nothing, is not taken along.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if !metadata.is_file() || metadata.len() > MAX_BYTES {
            continue;
        }
        let target = to.join(name);
        let mut source = File::open(&path).map_err(io("read", &path))?;
        let mut write = || {
            let mut file = File::create_new(&target)?;
            io::copy(&mut source, &mut file)?;
            file.sync_all()
        };
        write().map_err(|source| failed_write(&target, source, needed))?;
        copied.push(name.to_string());
    }
    copied.sort();
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::belongs;

    #[test]
    fn tokenizer_and_licence_go_along_and_weights_do_not() {
        for name in [
            "tokenizer.json",
            "tokenizer_config.json",
            "tokenizer.model",
            "chat_template.jinja",
            "LICENSE",
            "License.md",
            "README.md",
            "generation_config.json",
            "merges.txt",
        ] {
            assert!(belongs(name), "{name}");
        }
        for name in [
            "config.json",
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            ".gitattributes",
            "modeling_x.py",
            "reference.safetensors",
        ] {
            assert!(!belongs(name), "{name}");
        }
    }
}
