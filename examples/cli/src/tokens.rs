//! Token ids as text, such as `1,2,3`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::CliError;
use crate::paths;

/// Maximum size of a file of text or token ids, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Parses ids separated by commas or white space, optionally in brackets, as in JSON.
///
/// # Errors
/// The part that is not an id, with its position.
pub(crate) fn parse(text: &str) -> Result<Vec<u32>, String> {
    let text = text.trim();
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let parts =
        inner.split(|c: char| c == ',' || c.is_whitespace()).filter(|part| !part.is_empty());
    let ids = parts.zip(1..).map(|(part, number): (&str, usize)| {
        part.parse().map_err(|_| {
            let part: String = part.chars().take(40).collect();
            format!(
                "{part:?} (number {number}) is not a token id: ids are integers from 0, as in 1,2,3"
            )
        })
    });
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    if ids.is_empty() { Err("no token ids: give them as in 1,2,3".into()) } else { Ok(ids) }
}

/// Reads the ids in a file.
///
/// # Errors
/// If it can't be read or is not a list of ids.
pub(crate) fn from_file(path: &Path) -> Result<Vec<u32>, CliError> {
    let text = read_text(path)?;
    parse(&text).map_err(|problem| CliError::Contents { path: path.into(), problem })
}

/// Reads a text file, or standard input for `-`.
///
/// # Errors
/// If it can't be read, exceeds the size limit or is not UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String, CliError> {
    if path == Path::new("-") {
        return read_stdin();
    }
    let path = &paths::expand(path);
    let fail = |source| CliError::Read { path: path.clone(), source };
    read_all(File::open(path).map_err(fail)?, path)
}

/// Reads all of standard input.
///
/// # Errors
/// As [`read_text`].
pub(crate) fn read_stdin() -> Result<String, CliError> {
    read_all(std::io::stdin().lock(), Path::new("standard input"))
}

fn read_all(from: impl Read, path: &Path) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    let read = from.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|source| CliError::Read { path: path.into(), source })?;
    let contents = |problem: String| CliError::Contents { path: path.into(), problem };
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(contents(format!("more than {MAX_FILE_BYTES} bytes: give a smaller text")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        contents(format!("byte {at} is not UTF-8: convert the text to UTF-8"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_several_forms() {
        for text in ["1,2,30", " 1 2\n30\n", "[1, 2, 30]", "1,2,30,"] {
            assert_eq!(parse(text).unwrap(), [1, 2, 30], "{text:?}");
        }
        for (text, part) in
            [("1,x", "\"x\" (number 2)"), ("-1", "\"-1\" (number 1)"), ("4294967296", "4294967296")]
        {
            let problem = parse(text).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        }
        assert!(parse(" ,[]").is_err());
        assert!(parse("").is_err());
    }
}
