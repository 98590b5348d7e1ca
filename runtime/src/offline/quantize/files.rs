//! Files that are copied to a new checkpoint besides the weights: tokenizer, templates, defaults,
//! licence.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::error::QuantizeError;
use super::write::failed_write;
use crate::files::small_file;
use crate::offline::folder::sync_folder;
use crate::weights::unread;

/// Largest file that is copied, in bytes. Vocabularies have tens of megabytes.
const MAX_BYTES: u64 = 1 << 30;
/// Most files that are copied.
const MAX_FILES: usize = 1000;

/// Whether a file belongs to a checkpoint independently of its weights.
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
    const BEGINNINGS: [&str; 9] = [
        "tokenizer",
        "chat_template",
        "LICENSE",
        "LICENCE",
        "NOTICE",
        "COPYING",
        "COPYRIGHT",
        "USE_POLICY",
        "README",
    ];
    const ENDINGS: [&str; 4] = [".jinja", ".tiktoken", "spiece.model", "sentencepiece.bpe.model"];
    let upper = name.to_uppercase();
    NAMES.contains(&name)
        || BEGINNINGS.iter().any(|begin| name.starts_with(begin) || upper.starts_with(begin))
        || ENDINGS.iter().any(|end| name.ends_with(end))
}

/// Whether a folder belongs to a checkpoint, with its files.
fn folder_belongs(name: &str) -> bool {
    name == "additional_chat_templates" || matches!(&*name.to_uppercase(), "LICENSES" | "LICENCES")
}

/// The files besides the weights that are copied to a new checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Companions {
    /// Their names. A file in a folder is `folder/file`.
    pub files: Vec<String>,
    /// Files that belong to the checkpoint but can't be copied, each with the problem. They were
    /// logged as warnings.
    pub left_out: Vec<(String, String)>,
}

impl Companions {
    /// Finds the files in `folder`, and warns about those that can't be read.
    pub(super) fn of(folder: &Path) -> Result<Self, QuantizeError> {
        let mut found = Self::default();
        for name in names(folder)? {
            if folder_belongs(&name) && folder.join(&name).is_dir() {
                match names(&folder.join(&name)) {
                    Ok(names) => {
                        let hidden = |file: &String| file.starts_with('.');
                        let files = names.into_iter().filter(|file| !hidden(file));
                        files.for_each(|file| found.look_at(folder, format!("{name}/{file}")));
                    }
                    Err(error) => found.left_out.push((name, error.to_string())),
                }
            } else if small_file::is_unfinished(&name) {
                // The finished file may exist too.
                let whole = Path::new(&name).file_stem().unwrap_or_default().to_string_lossy();
                if belongs(&whole) && fs::symlink_metadata(folder.join(&*whole)).is_err() {
                    let problem = format!("its download is unfinished ({name} exists)");
                    found.left_out.push((whole.into_owned(), problem));
                }
            } else if belongs(&name) || folder_belongs(&name) {
                found.look_at(folder, name);
            }
        }
        found.files.sort();
        for (name, problem) in &found.left_out {
            let path = folder.join(name);
            log::warn!(
                "can't copy {}: {problem}; in the new checkpoint, {}",
                path.display(),
                unread::consequence(&path)
            );
        }
        Ok(found)
    }

    /// Adds the file `name`, if it can be read.
    fn look_at(&mut self, folder: &Path, name: String) {
        let path = folder.join(&name);
        // Follow links: download caches store files that way.
        let problem = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => "it is a folder".to_string(),
            // Check before opening: opening a named pipe would wait for a writer.
            Ok(metadata) if !metadata.is_file() => "it is not a regular file".into(),
            Ok(metadata) if metadata.len() > MAX_BYTES => {
                format!("it has {} bytes, more than the limit of {MAX_BYTES}", metadata.len())
            }
            Ok(_) => match File::open(&path) {
                Ok(_) if self.files.len() >= MAX_FILES => {
                    format!("there are more than {MAX_FILES} files")
                }
                Ok(_) => return self.files.push(name),
                Err(error) => error.to_string(),
            },
            Err(error) => {
                small_file::explain_missing(&path, &error).unwrap_or_else(|| error.to_string())
            }
        };
        self.left_out.push((name, problem));
    }

    /// Copies the files from the folder `from` to the folder `to`.
    pub(super) fn copy(&self, from: &Path, to: &Path, needed: u64) -> Result<(), QuantizeError> {
        for name in &self.files {
            let (path, target) = (from.join(name), to.join(name));
            let mut source = File::open(&path).map_err(io_error("read", &path))?;
            let mut write = || {
                if let Some(folder) = target.parent() {
                    fs::create_dir_all(folder)?;
                }
                let mut file = File::create_new(&target)?;
                io::copy(&mut source, &mut file)?;
                file.sync_all()
            };
            write().map_err(|source| failed_write(&target, source, needed))?;
        }
        let folders = self.files.iter().filter_map(|name| name.split_once('/'));
        let folders: BTreeSet<&str> = folders.map(|(folder, _)| folder).collect();
        folders.into_iter().try_for_each(|folder| sync_folder(&to.join(folder)))
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> QuantizeError + use<> {
    let path: PathBuf = path.into();
    move |source| QuantizeError::Io { doing, path: path.clone(), source }
}

/// The names in `folder`, sorted. Names that are not UTF-8 belong to no checkpoint and are skipped.
fn names(folder: &Path) -> Result<Vec<String>, QuantizeError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_error("list", folder))? {
        let entry = entry.map_err(io_error("list", folder))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            "special_tokens_map.json",
            "added_tokens.json",
            "USE_POLICY.md",
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

    #[test]
    fn what_cannot_be_read_is_named_and_folders_of_templates_go_along() {
        let root = std::env::temp_dir().join(format!("kinglet-companions-{}", std::process::id()));
        let (from, to) = (root.join("from"), root.join("to"));
        fs::create_dir_all(from.join("additional_chat_templates")).unwrap();
        fs::create_dir_all(from.join("generation_config.json")).unwrap();
        fs::create_dir_all(&to).unwrap();
        let write = |name: &str| fs::write(from.join(name), name).unwrap();
        let whole = ["additional_chat_templates/rag.jinja", "LICENSE", "merges.txt"];
        whole.iter().for_each(|name| write(name));
        write("merges.txt.part");
        write("tokenizer.json.incomplete");
        write("model.safetensors");
        #[cfg(unix)]
        std::os::unix::fs::symlink("../blobs/gone", from.join("vocab.json")).unwrap();
        let found = Companions::of(&from).unwrap();
        assert_eq!(found.files, ["LICENSE", "additional_chat_templates/rag.jinja", "merges.txt"]);
        let names: Vec<&str> = found.left_out.iter().map(|(name, _)| name.as_str()).collect();
        let mut expected = vec!["generation_config.json", "tokenizer.json"];
        if cfg!(unix) {
            expected.push("vocab.json");
        }
        assert_eq!(names, expected);
        found.copy(&from, &to, 0).unwrap();
        assert_eq!(fs::read_to_string(to.join(whole[0])).unwrap(), whole[0]);
        fs::remove_dir_all(&root).unwrap();
    }
}
