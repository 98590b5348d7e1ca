//! The file format of saved conversations: JSON with the messages.
//!
//! `{"format": "kinglet-conversation", "version": 1, "model": "...", "messages": [{"role": "user",
//! "content": "..."}]}`. A bare list of messages, which many tools write, is read too.

use std::path::{Path, PathBuf};

use kinglet::text::Message;
use serde_json::{Value, json};

use crate::atomic::AtomicFile;
use crate::error::CliError;
use crate::tokens;

const FORMAT: &str = "kinglet-conversation";
const VERSION: u64 = 1;

/// Writes a conversation atomically.
///
/// # Errors
/// If the file can't be written.
pub(crate) fn save(path: &Path, model: &str, messages: &[Message]) -> Result<(), CliError> {
    let value =
        json!({ "format": FORMAT, "version": VERSION, "model": model, "messages": messages });
    let mut file = AtomicFile::create(path)?;
    file.write(format!("{value:#}\n").as_bytes())?;
    file.commit()
}

/// Files that a conversation may overwrite: those it was loaded from or saved to.
#[derive(Default)]
pub(crate) struct Own(Vec<PathBuf>);

impl Own {
    /// Adds a file, which may not exist yet.
    pub(crate) fn add(&mut self, path: &Path) {
        self.0.push(real(path));
    }

    /// Checks that saving to `path` overwrites no other file's contents.
    ///
    /// # Errors
    /// [`CliError::Exists`] with the advice.
    pub(crate) fn check(&self, path: &Path, advice: &'static str) -> Result<(), CliError> {
        // An empty file, such as mktemp makes, may be overwritten. A path that is not a file fails
        // later.
        let has_content =
            std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() > 0);
        if has_content && !self.0.contains(&real(path)) {
            return Err(CliError::Exists { path: path.into(), advice });
        }
        Ok(())
    }
}

/// Resolves links, if the file exists.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.into())
}

/// Reads a conversation.
///
/// # Errors
/// If the file can't be read or is not a conversation, with the position of the error.
pub(crate) fn load(path: &Path) -> Result<Vec<Message>, CliError> {
    let text = tokens::read_text(path)?;
    parse(&text).map_err(|problem| CliError::Contents { path: path.into(), problem })
}

fn parse(text: &str) -> Result<Vec<Message>, String> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| format!("not a saved conversation: invalid JSON: {error}"))?;
    let list = match &value {
        Value::Array(list) => list,
        Value::Object(map) => {
            if let Some(version) = map.get("version").filter(|version| **version != VERSION) {
                return Err(format!(
                    "unknown format version {version}, expected {VERSION}: use a newer Kinglet"
                ));
            }
            let list = map.get("messages").and_then(Value::as_array);
            list.ok_or("not a saved conversation: it has no list `messages`")?
        }
        _ => return Err("not a saved conversation: expected an object with `messages`".into()),
    };
    let message = |(index, value): (usize, &Value)| {
        let message: Message = serde_json::from_value(value.clone())
            .map_err(|error| format!("message {index}: {error}"))?;
        match &message.content {
            Some(Value::String(_) | Value::Array(_)) => Ok(message),
            _ => Err(format!("message {index}: `content` is not text")),
        }
    };
    list.iter().enumerate().map(message).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_conversations_load() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        let messages = vec![
            Message::system("Be brief."),
            Message::user("Hi \"you\"\n"),
            Message::assistant("é"),
        ];
        save(&path, "demo", &messages).unwrap();
        assert_eq!(load(&path).unwrap(), messages);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(r#""model": "demo""#), "{text}");
    }

    #[test]
    fn other_files_are_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let [full, empty, missing] =
            ["full", "empty", "missing"].map(|name| folder.path().join(name));
        std::fs::write(&full, "{}").unwrap();
        std::fs::write(&empty, "").unwrap();
        let mut own = Own::default();
        for path in [&empty, &missing] {
            own.check(path, "").unwrap();
        }
        let error = own.check(&full, "do this").unwrap_err().to_string();
        assert!(error.contains("full already exists: do this"), "{error}");
        own.add(&folder.path().join(".").join("full"));
        own.check(&full, "").unwrap();
        assert!(Own::default().check(&full, "").is_err());
    }

    #[test]
    fn bare_lists_are_read_and_other_files_are_refused() {
        let list = parse(r#"[{"role": "user", "content": "Hi"}]"#).unwrap();
        assert_eq!(list, [Message::user("Hi")]);
        for (text, part) in [
            ("", "invalid JSON"),
            ("3", "an object"),
            (r#"{"text": 1}"#, "`messages`"),
            (r#"{"version": 2, "messages": []}"#, "version 2"),
            (r#"[{"content": "Hi"}]"#, "message 0: missing field `role`"),
            (r#"[{"role": "user", "content": "Hi"}, {"role": "user"}]"#, "message 1"),
            (r#"[{"role": "user", "content": 3}]"#, "message 0"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }
}
