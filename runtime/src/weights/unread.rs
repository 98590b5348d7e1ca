//! Warnings about small files that exist but can't be read, with the consequences of ignoring them.
//!
//! None of these files is needed to compute, so none causes an error. But an answer that ends
//! elsewhere, or a prompt whose special tokens are parsed as text, would be wrong without any sign.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::files::small_file;

/// Files that were reported. Several parts of the text code read the same ones.
static REPORTED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
/// Most files remembered.
const MAX_REPORTED: usize = 1000;
/// Largest file searched for the end of an answer, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// Clears what was reported about the files in `folder`, when a model is opened there.
pub(crate) fn begin(folder: &Path) {
    let mut reported = REPORTED.lock().unwrap_or_else(PoisonError::into_inner);
    reported.retain(|path| !path.starts_with(folder));
}

/// Warns that the file at `path` can't be read, unless that was done already.
pub(crate) fn warn(path: &Path, problem: &dyn Display) {
    {
        let mut reported = REPORTED.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.len() >= MAX_REPORTED {
            reported.clear();
        }
        if !reported.insert(path.to_path_buf()) {
            return;
        }
    }
    log::warn!("can't read {}: {problem}; without it, {}", path.display(), consequence(path));
}

/// The consequence of ignoring a file.
pub(crate) fn consequence(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = path.parent().unwrap_or(path);
    match &*name {
        "generation_config.json" => end_of_answers(folder),
        "tokenizer.json" => "text can't be tokenized".into(),
        "tokenizer_config.json" => {
            "its special tokens and chat template are unknown, so prompts may be wrong".into()
        }
        "special_tokens_map.json" | "added_tokens.json" => {
            "special tokens that only it names are parsed as plain text, so prompts may be wrong"
                .into()
        }
        "chat_template.jinja" => {
            "the chat template may be in tokenizer_config.json or chat_template.json".into()
        }
        "chat_template.json" => "its chat template is unknown".into(),
        "additional_chat_templates" => "the chat templates in it are unknown".into(),
        "config.json" => "its stop tokens are unknown".into(),
        name if name.ends_with(".jinja") => "this chat template is unknown".into(),
        _ => "its contents are ignored".into(),
    }
}

/// How an answer ends without `generation_config.json`, following the rules for the stop tokens of
/// a folder.
fn end_of_answers(folder: &Path) -> String {
    let config = object(&folder.join("config.json"));
    let of = |config: &Value| ids(config.get("eos_token_id")?);
    let ids =
        config.as_ref().and_then(|config| of(config).or_else(|| of(config.get("text_config")?)));
    let end = match ids {
        Some(ids) => format!("an answer ends at token {ids} (eos_token_id of config.json)"),
        None => match eos_token(folder) {
            Some(token) => {
                format!("an answer ends at {token} (eos_token of tokenizer_config.json)")
            }
            None => "no token ends an answer, only the limit on its length".into(),
        },
    };
    format!("{end}, and sampling uses its defaults")
}

fn object(path: &Path) -> Option<Value> {
    let bytes = small_file::read(path, MAX_BYTES).ok()?;
    serde_json::from_str(&kinglet_models::tag_bare_floats(std::str::from_utf8(&bytes).ok()?)).ok()
}

/// Displays the token ids in a field, one or several. Doesn't validate them.
fn ids(value: &Value) -> Option<String> {
    let ids: Vec<String> = match value {
        Value::Array(items) => {
            items.iter().filter_map(Value::as_u64).map(|id| id.to_string()).collect()
        }
        other => other.as_u64().map(|id| id.to_string()).into_iter().collect(),
    };
    (!ids.is_empty()).then(|| ids.join(" or "))
}

fn eos_token(folder: &Path) -> Option<String> {
    let config = object(&folder.join("tokenizer_config.json"))?;
    let token = config.get("eos_token")?;
    let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
    Some(format!("{text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_answer_ends_without_the_file_that_says_it() {
        let folder = std::env::temp_dir().join(format!("kinglet-unread-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        let said = || consequence(&folder.join("generation_config.json"));
        assert!(said().starts_with("no token ends an answer"), "{}", said());
        write("tokenizer_config.json", r#"{"eos_token": {"content": "</s>"}}"#);
        assert!(said().contains("ends at \"</s>\""), "{}", said());
        for (config, end) in [
            (r#"{"text_config": {"eos_token_id": 9}}"#, "token 9"),
            (r#"{"eos_token_id": [3, 5], "text_config": {"eos_token_id": 9}}"#, "token 3 or 5"),
            (r#"{"eos_token_id": 3, "time_step_limit": [0, Infinity]}"#, "token 3"),
            (r#"{"eos_token_id": null}"#, "</s>"),
        ] {
            write("config.json", config);
            assert!(said().contains(end), "{config}: {}", said());
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
