//! The methods of Python's strings, dictionaries and lists that templates call.
//!
//! Those in `minijinja-contrib` are used, except where the result could exceed any memory
//! (`replace`, `format`) or differs from Python's (`split`, `title`, indices).

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Longest string that a method returns, in bytes.
const MAX_STRING: usize = 64 << 20;

/// Called by minijinja for a method that an object doesn't have itself.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => string(value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Seq | ValueKind::Iterable => list(value, method, args)?,
        ValueKind::Map if method == "copy" => {
            let () = from_args(args)?;
            Some(value.clone())
        }
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn error(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}

fn too_long(method: &str) -> Error {
    error(format!("{method}: the result is longer than {MAX_STRING} bytes"))
}

fn string(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            let cut = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
            Value::from(match method {
                "strip" => text.trim_matches(cut),
                "lstrip" => text.trim_start_matches(cut),
                _ => text.trim_end_matches(cut),
            })
        }
        "split" | "rsplit" => {
            let (separator, limit) = split_args(args)?;
            let mut parts = match separator.as_deref() {
                Some("") => return Err(error("split: empty separator")),
                separator if method == "split" => split(text, separator, limit),
                separator => rsplit(text, separator, limit),
            };
            if method == "rsplit" {
                parts.reverse();
            }
            parts.into_iter().collect()
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let first = method == "partition";
            let found =
                if first { text.split_once(separator) } else { text.rsplit_once(separator) };
            let (before, middle, after) = match (found, first) {
                (Some((before, after)), _) => (before, separator, after),
                (None, true) => (text, "", ""),
                (None, false) => ("", "", text),
            };
            let parts = [before, middle, after].map(Value::from);
            Value::from(minijinja::value::Tuple::from(parts))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "replace" => {
            let (old, new, count, kwargs): (&str, &str, Option<i64>, Kwargs) = from_args(args)?;
            let count = count.or(kwargs.get("count")?).and_then(|n| usize::try_from(n).ok());
            kwargs.assert_all_used()?;
            let count = count.unwrap_or(usize::MAX).min(text.matches(old).count());
            let grown = new.len().checked_mul(count).and_then(|new| new.checked_add(text.len()));
            if grown.is_none_or(|bytes| bytes > MAX_STRING) {
                return Err(too_long("replace"));
            }
            Value::from(text.replacen(old, new, count))
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            let mut joined = String::new();
            for (index, item) in items.try_iter()?.enumerate() {
                let Some(item) = item.as_str() else {
                    return Err(error(format!(
                        "join: item {index} is not a string but of type {}",
                        item.kind()
                    )));
                };
                if index > 0 {
                    joined.push_str(text);
                }
                joined.push_str(item);
                if joined.len() > MAX_STRING {
                    return Err(too_long("join"));
                }
            }
            Value::from(joined)
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let (skipped, part) = char_slice(text, start, end);
            if method == "count" {
                return Ok(Some(Value::from(if what.is_empty() {
                    part.chars().count() + 1
                } else {
                    part.matches(what).count()
                })));
            }
            let found = if method.starts_with('r') { part.rfind(what) } else { part.find(what) };
            match found.and_then(|at| part.get(..at)) {
                Some(before) => Value::from(skipped + before.chars().count()),
                None if method.ends_with("find") => Value::from(-1),
                None => return Err(error(format!("{method}: substring not found"))),
            }
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swap = |c: char| -> String {
                if c.is_uppercase() {
                    c.to_lowercase().collect()
                } else {
                    c.to_uppercase().collect()
                }
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "casefold" => {
            let () = from_args(args)?;
            Value::from(text.to_lowercase().replace('ß', "ss"))
        }
        "splitlines" => {
            let (keep, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(kwargs.get("keepends")?).unwrap_or(false);
            kwargs.assert_all_used()?;
            let line = |(line, end): (&'_ str, &'_ str)| {
                if keep { Value::from(format!("{line}{end}")) } else { Value::from(line) }
            };
            lines(text).into_iter().map(line).collect()
        }
        "ljust" | "rjust" | "center" | "zfill" => {
            let (width, fill): (i64, Option<&str>) = from_args(args)?;
            Value::from(pad(text, method, width, fill.unwrap_or(" "))?)
        }
        "format" => {
            // Reject a huge width or precision before it is allocated.
            let mut digits = 0;
            for c in text.chars() {
                digits = if c.is_ascii_digit() { digits + 1 } else { 0 };
                if digits > 4 {
                    return Err(error("format: a width or precision above 9999"));
                }
            }
            return Ok(None);
        }
        _ => return Ok(None),
    }))
}

fn list(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(match method {
        "index" => {
            let (what,): (&Value,) = from_args(args)?;
            match value.try_iter()?.position(|item| item == *what) {
                Some(index) => Some(Value::from(index)),
                None => return Err(error(format!("index: {what} is not in the list"))),
            }
        }
        "copy" => {
            let () = from_args(args)?;
            Some(value.clone())
        }
        "append" | "extend" | "insert" | "pop" | "remove" | "clear" | "sort" | "reverse" => {
            // The sandbox of `transformers` refuses these too.
            return Err(error(format!("{method}: a template may not change a list")));
        }
        _ => None,
    })
}

/// White space as in Python: that of Unicode, and four ASCII separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn split_args(args: &[Value]) -> Result<(Option<String>, Option<usize>), Error> {
    let (separator, limit, kwargs): (Option<String>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.or(kwargs.get("sep")?);
    let limit = limit.or(kwargs.get("maxsplit")?);
    kwargs.assert_all_used()?;
    // A negative limit means no limit.
    Ok((separator, limit.and_then(|limit| usize::try_from(limit).ok())))
}

fn split<'a>(text: &'a str, separator: Option<&str>, limit: Option<usize>) -> Vec<&'a str> {
    let Some(separator) = separator else {
        let mut parts = Vec::new();
        let mut rest = text.trim_start_matches(is_space);
        while !rest.is_empty() {
            if limit.is_some_and(|limit| parts.len() >= limit) {
                parts.push(rest);
                break;
            }
            let end = rest.find(is_space).unwrap_or(rest.len());
            let (part, after) = rest.split_at(end);
            parts.push(part);
            rest = after.trim_start_matches(is_space);
        }
        return parts;
    };
    match limit {
        Some(limit) => text.splitn(limit.saturating_add(1), separator).collect(),
        None => text.split(separator).collect(),
    }
}

/// Like [`split`], but from the end. Returns the last part first.
fn rsplit<'a>(text: &'a str, separator: Option<&str>, limit: Option<usize>) -> Vec<&'a str> {
    let Some(separator) = separator else {
        let mut parts = Vec::new();
        let mut rest = text.trim_end_matches(is_space);
        while !rest.is_empty() {
            if limit.is_some_and(|limit| parts.len() >= limit) {
                parts.push(rest);
                break;
            }
            match rest.char_indices().rev().find(|(_, c)| is_space(*c)) {
                Some((at, space)) => {
                    parts.push(rest.get(at + space.len_utf8()..).unwrap_or_default());
                    rest = rest.get(..at).unwrap_or_default().trim_end_matches(is_space);
                }
                None => {
                    parts.push(rest);
                    break;
                }
            }
        }
        return parts;
    };
    match limit {
        Some(limit) => text.rsplitn(limit.saturating_add(1), separator).collect(),
        None => text.rsplit(separator).collect(),
    }
}

/// `text[start:end]` in characters, with the number of characters before it.
fn char_slice(text: &str, start: Option<i64>, end: Option<i64>) -> (usize, &str) {
    if start.is_none() && end.is_none() {
        return (0, text);
    }
    let len = text.chars().count();
    let place = |index: i64| {
        let index = if index < 0 { index.saturating_add_unsigned(len as u64) } else { index };
        usize::try_from(index).unwrap_or(0).min(len)
    };
    let (start, end) = (place(start.unwrap_or(0)), end.map_or(len, place));
    let byte = |chars: usize| text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at);
    (start, text.get(byte(start)..byte(end.max(start))).unwrap_or_default())
}

/// Splits a text into lines and their line ends, at everything that Python treats as one.
fn lines(text: &str) -> Vec<(&str, &str)> {
    let mut lines = Vec::new();
    let mut rest = text;
    let is_end = |c: char| {
        matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}')
            || matches!(c, '\u{2028}' | '\u{2029}')
    };
    while let Some((at, end)) = rest.char_indices().find(|(_, c)| is_end(*c)) {
        let (line, after) = rest.split_at(at);
        let length = if after.starts_with("\r\n") { 2 } else { end.len_utf8() };
        let (end, after) = after.split_at(length);
        lines.push((line, end));
        rest = after;
    }
    if !rest.is_empty() {
        lines.push((rest, ""));
    }
    lines
}

/// The filter `indent`: prefixes all lines but the first and empty ones with `width` spaces, or
/// with a string.
pub(super) fn indent(text: String, options: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let options = options.into_values();
    type Options = (Option<Value>, Option<bool>, Option<bool>, Kwargs);
    let (width, first, blank, kwargs): Options = from_args(&options)?;
    let width = width.or(kwargs.get("width")?).unwrap_or(Value::from(4));
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = blank.or(kwargs.get("blank")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let indentation = match width.as_str() {
        Some(text) => text.to_string(),
        None => {
            let width = usize::try_from(i64::try_from(width)?).unwrap_or(0);
            if width > MAX_STRING {
                return Err(too_long("indent"));
            }
            " ".repeat(width)
        }
    };
    // The added newline preserves one at the end of the text.
    let text = text + "\n";
    let lines = lines(&text);
    if indentation.len().saturating_mul(lines.len()).saturating_add(text.len()) > MAX_STRING {
        return Err(too_long("indent"));
    }
    let mut out = String::new();
    for (index, (line, _)) in lines.into_iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let indented = if index == 0 { first } else { blank || !line.is_empty() };
        if indented {
            out.push_str(&indentation);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// Capitalizes each letter that follows a non-letter, and lowercases all others.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

fn pad(text: &str, method: &str, width: i64, fill: &str) -> Result<String, Error> {
    let len = text.chars().count();
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(len);
    let fill = if method == "zfill" { "0" } else { fill };
    if fill.chars().count() != 1 {
        return Err(error(format!("{method}: the fill must be one character")));
    }
    if missing > MAX_STRING / 4 {
        return Err(too_long(method));
    }
    Ok(match method {
        "ljust" => format!("{text}{}", fill.repeat(missing)),
        "rjust" => format!("{}{text}", fill.repeat(missing)),
        "zfill" => {
            let sign = text.len() - text.trim_start_matches(['+', '-']).len();
            let (sign, digits) = text.split_at(sign.min(1));
            format!("{sign}{}{digits}", fill.repeat(missing))
        }
        _ => {
            // Like Python: if both the padding and the width are odd, the extra character goes to
            // the left.
            let left = missing / 2 + (missing & usize::try_from(width).unwrap_or(0) & 1);
            format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left))
        }
    })
}
