//! Edits `config.json` as text. Top-level fields are replaced, removed and added; everything else
//! stays as written, down to the spelling of numbers.

use std::ops::Range;

use kinglet_models::tag_bare_floats;
use serde_json::Value;

/// The text of a `config.json`, which is valid JSON after bare infinities are tagged.
#[derive(Clone, Debug)]
pub(super) struct ConfigText {
    text: String,
}

/// A top-level field, as ranges of the text.
struct Member {
    key: String,
    /// From the key's opening quote to the end of the value.
    whole: Range<usize>,
}

impl ConfigText {
    /// Replaces bare words like `Infinity` by the objects that `transformers` and mlx-lm write.
    /// `None` if the text is not a JSON object.
    pub(super) fn new(text: &str) -> Option<Self> {
        let text = tag_bare_floats(text).into_owned();
        let value: Value = serde_json::from_str(&text).ok()?;
        value.is_object().then_some(Self { text })
    }

    /// The text.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// Sets the field `key`: in its place (the first, if it occurs twice), or else at the end.
    pub(super) fn set(&mut self, key: &str, value: &Value) {
        let value = indented(value);
        let members: Vec<Member> = self.members();
        let mut found = members.iter().filter(|member| member.key == key);
        if let Some(first) = found.next() {
            let again: Vec<Range<usize>> = found.map(|member| member.whole.clone()).collect();
            for range in again.into_iter().rev() {
                self.remove_range(range);
            }
            self.text.replace_range(first.whole.clone(), &format!("\"{key}\": {value}"));
            return;
        }
        let Some(close) = self.text.rfind('}') else { return };
        let before = self.text.get(..close).unwrap_or_default().trim_end().len();
        let comma = if members.is_empty() { "" } else { "," };
        let rest = self.text.split_off(before);
        let rest = rest.trim_start();
        self.text.push_str(&format!("{comma}\n  \"{key}\": {value}\n{rest}"));
    }

    /// Removes the field `key`, if it exists.
    pub(super) fn remove(&mut self, key: &str) {
        while let Some(member) = self.members().into_iter().find(|member| member.key == key) {
            self.remove_range(member.whole);
        }
    }

    /// Removes a member with the comma after it, or else the one before it.
    fn remove_range(&mut self, member: Range<usize>) {
        let bytes = self.text.as_bytes();
        let is_space = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_whitespace);
        let (mut start, mut end) = (member.start, member.end);
        while is_space(end) {
            end += 1;
        }
        if bytes.get(end) == Some(&b',') {
            end += 1;
            while is_space(end) {
                end += 1;
            }
        } else {
            end = member.end;
            while start > 0 && is_space(start - 1) {
                start -= 1;
            }
            if start > 0 && bytes.get(start - 1) == Some(&b',') {
                start -= 1;
            }
        }
        self.text.replace_range(start..end, "");
    }

    /// The top-level fields. Since the text is valid JSON, quotes and brackets suffice to find
    /// them.
    fn members(&self) -> Vec<Member> {
        let mut members = Vec::new();
        let (mut depth, mut string, mut escaped) = (0usize, None, false);
        // The key and the start of the current member.
        let mut open: Option<(String, usize)> = None;
        let mut end = 0;
        for (at, byte) in self.text.bytes().enumerate() {
            if let Some(start) = string {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'"' => {
                        string = None;
                        end = at + 1;
                        if depth == 1 && open.is_none() {
                            let quoted = self.text.get(start..end).unwrap_or_default();
                            let key: String = serde_json::from_str(quoted).unwrap_or_default();
                            open = Some((key, start));
                        }
                    }
                    _ => {}
                }
                continue;
            }
            let closes = matches!(byte, b'}' | b']');
            if depth == 1
                && (byte == b',' || closes)
                && let Some((key, start)) = open.take()
            {
                members.push(Member { key, whole: start..end });
            }
            match byte {
                b'"' => string = Some(at),
                b'{' | b'[' => depth += 1,
                _ if closes => depth = depth.saturating_sub(1),
                _ => {}
            }
            if !byte.is_ascii_whitespace() {
                end = at + 1;
            }
        }
        members
    }
}

/// Formats JSON over several lines, indented as a top-level field.
fn indented(value: &Value) -> String {
    let pretty = serde_json::to_string_pretty(value).unwrap_or_default();
    pretty.replace('\n', "\n  ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn edit(text: &str, edit: impl FnOnce(&mut ConfigText)) -> String {
        let mut config = ConfigText::new(text).unwrap();
        edit(&mut config);
        let text = config.into_text();
        assert!(serde_json::from_str::<Value>(&text).is_ok_and(|v| v.is_object()), "{text}");
        text
    }

    #[test]
    fn what_is_not_edited_stays_as_it_was_written() {
        let text = "{\n  \"z\": 1e-05,\n  \"a\": [1.0, {\"b\": \"}\\\"\"}],\n  \"big\": 12345678901234567890123\n}\n";
        let set = edit(text, |config| config.set("q", &json!({"bits": 4})));
        let rest = text.strip_suffix("\n}\n").unwrap();
        assert_eq!(set, format!("{rest},\n  \"q\": {{\n    \"bits\": 4\n  }}\n}}\n"));
        assert_eq!(edit(&set, |config| config.remove("q")), text);
    }

    #[test]
    fn fields_are_replaced_where_they_stand() {
        let text = r#"{"q": null, "a": {"q": 1}, "q": [2, 3], "b": "q"}"#;
        let set = edit(text, |config| config.set("q", &json!(7)));
        assert_eq!(set, r#"{"q": 7, "a": {"q": 1}, "b": "q"}"#);
        assert_eq!(edit(&set, |config| config.remove("q")), r#"{"a": {"q": 1}, "b": "q"}"#);
        assert_eq!(edit(&set, |config| config.remove("b")), r#"{"q": 7, "a": {"q": 1}}"#);
        assert_eq!(edit(&set, |config| config.remove("none")), set);
        assert_eq!(edit("{}", |config| config.set("a", &json!(1))), "{\n  \"a\": 1\n}");
        assert_eq!(edit(r#"{"a":1}"#, |config| config.remove("a")), "{}");
    }

    #[test]
    fn bare_infinities_become_tagged_ones() {
        let text = "{\"limit\": [0.0, Infinity]}";
        let edited = edit(text, |config| config.set("q", &json!(1)));
        assert!(edited.contains("{\"__float__\":\"Infinity\"}"), "{edited}");
        assert!(ConfigText::new("[1]").is_none() && ConfigText::new("{").is_none());
    }
}
