//! Values as Python writes them: `json.dumps` for `tojson`, `str` and `repr` for numbers.

use std::fmt::Write;

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Error, ErrorKind, Value};

/// Deepest nesting written. Values that a template stores are less deep anyway.
const MAX_DEPTH: usize = 256;
/// Widest indentation per level.
const MAX_INDENT: usize = 64;

/// The filter `tojson` of `transformers`: `json.dumps` with its options, without escapes for HTML.
pub(super) fn tojson(value: &Value, options: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    type Options = (Option<Value>, Option<Value>, Option<Value>, Option<Value>, Kwargs);
    let options = options.into_values();
    let (ensure_ascii, indent, separators, sort_keys, kwargs): Options = from_args(&options)?;
    let option = |positional: Option<Value>, name: &str| -> Result<Value, Error> {
        let named: Option<Value> = kwargs.get(name)?;
        Ok(positional.or(named).unwrap_or(Value::from(())))
    };
    let ensure_ascii = option(ensure_ascii, "ensure_ascii")?.is_true();
    let indent = option(indent, "indent")?;
    let separators = option(separators, "separators")?;
    let sort_keys = option(sort_keys, "sort_keys")?.is_true();
    kwargs.assert_all_used()?;

    let indent = if indent.is_none() {
        None
    } else if let Some(text) = indent.as_str() {
        Some(text.to_string())
    } else {
        let width = i64::try_from(indent)?;
        Some(" ".repeat(usize::try_from(width).unwrap_or(0).min(MAX_INDENT + 1)))
    };
    if indent.as_ref().is_some_and(|indent| indent.len() > MAX_INDENT) {
        let problem = format!("tojson: an indent of more than {MAX_INDENT} is not supported");
        return Err(Error::new(ErrorKind::InvalidOperation, problem));
    }
    let (item, key) = if separators.is_none() {
        (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string())
    } else {
        let pair: Vec<Value> = separators.try_iter()?.collect();
        match pair.as_slice() {
            [item, key] => (item.to_string(), key.to_string()),
            _ => {
                let problem = "tojson: separators must be a pair of strings";
                return Err(Error::new(ErrorKind::InvalidOperation, problem));
            }
        }
    };
    let mut writer =
        JsonWriter { out: String::new(), ensure_ascii, indent, item, key, sort_keys, depth: 0 };
    writer.value(value)?;
    Ok(Value::from(writer.out))
}

/// `json.dumps` as `tojson` calls it without options.
pub(super) fn dumps(value: &Value) -> Result<String, Error> {
    let (item, key) = (", ".to_string(), ": ".to_string());
    let mut writer = JsonWriter {
        out: String::new(),
        ensure_ascii: false,
        indent: None,
        item,
        key,
        sort_keys: false,
        depth: 0,
    };
    writer.value(value)?;
    Ok(writer.out)
}

struct JsonWriter {
    out: String,
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
    depth: usize,
}

impl JsonWriter {
    fn value(&mut self, value: &Value) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value, "Infinity", "NaN")),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.container('[', ']', items.len(), |writer, index| {
                    items.get(index).map_or(Ok(()), |item| writer.value(item))
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.container('{', '}', keys.len(), |writer, index| {
                    let Some(key) = keys.get(index) else { return Ok(()) };
                    writer.object_key(key)?;
                    let separator = std::mem::take(&mut writer.key);
                    writer.out.push_str(&separator);
                    writer.key = separator;
                    writer.value(&value.get_item(key)?)
                })?;
            }
            kind => {
                let problem = format!("a value of type {kind} is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, problem));
            }
        }
        Ok(())
    }

    fn container(
        &mut self,
        open: char,
        close: char,
        len: usize,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        if len > 0 {
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                let problem = "tojson: the value is nested too deeply";
                return Err(Error::new(ErrorKind::InvalidOperation, problem));
            }
            for index in 0..len {
                if index > 0 {
                    self.out.push_str(&self.item);
                }
                self.newline();
                item(self, index)?;
            }
            self.depth -= 1;
            self.newline();
        }
        self.out.push(close);
        Ok(())
    }

    fn newline(&mut self) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..self.depth {
                self.out.push_str(indent);
            }
        }
    }

    fn object_key(&mut self, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.string(key.as_str().unwrap_or_default()),
            ValueKind::None => self.out.push_str("\"null\""),
            ValueKind::Bool | ValueKind::Number => {
                self.out.push('"');
                self.value(key)?;
                self.out.push('"');
            }
            kind => {
                let problem = format!("tojson: a key of type {kind} is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, problem));
            }
        }
        Ok(())
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                ' '..='~' => self.out.push(c),
                c if c < ' ' || self.ensure_ascii => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a string cannot fail.
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A number as Python's `str` writes it, with the given names for infinity and NaN.
fn number(value: &Value, infinity: &str, nan: &str) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(float) => float_repr(float, infinity, nan),
        Err(_) => value.to_string(),
    }
}

/// A value as Python's `str` writes it. Floats inside containers are written as minijinja does,
/// which differs only from 1e16 on and below 1e-4.
pub(super) fn python_str(value: &Value) -> String {
    match value.kind() {
        ValueKind::Number => number(value, "inf", "nan"),
        _ => value.to_string(),
    }
}

/// The shortest digits that parse as this number, in Python's notation: with an exponent from 1e16
/// on and below 1e-4.
fn float_repr(value: f64, infinity: &str, nan: &str) -> String {
    if value.is_nan() {
        return nan.to_string();
    }
    if value.is_infinite() {
        return format!("{}{infinity}", if value < 0.0 { "-" } else { "" });
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        // `{:?}` writes `.0` for whole numbers, and no exponent in this range.
        return if exponent < 0 { value.to_string() } else { format!("{value:?}") };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_in_python() {
        // Written by Python's repr.
        let cases: [(f64, &str); 16] = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (9007199254740993.0, "9007199254740992.0"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e100, "1e+100"),
            (5e-324, "5e-324"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (0.30000000000000004, "0.30000000000000004"),
        ];
        for (value, expected) in cases {
            assert_eq!(float_repr(value, "inf", "nan"), expected);
        }
        assert_eq!(float_repr(f64::NEG_INFINITY, "inf", "nan"), "-inf");
        assert_eq!(float_repr(f64::NAN, "inf", "nan"), "nan");
    }
}
