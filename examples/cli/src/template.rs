//! Selects the chat template of a command: the model's default, one of several by name, or a file.

use std::path::Path;

use kinglet::text::{ChatOptions, ChatTemplate, DateTime, SpecialTokens, TextError};

use crate::error::CliError;
use crate::tokens;

/// Maximum size of a chat template, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Loads the templates, and returns the name of the one to use if `given` names it.
///
/// # Errors
/// If there is no such template or file, or several templates and no default.
pub(crate) fn load(
    folder: &Path,
    given: Option<&str>,
) -> Result<(ChatTemplate, Option<String>), CliError> {
    let own = ChatTemplate::from_folder(folder);
    let Some(given) = given else {
        let template = own?;
        // Fail now rather than after the first message.
        template.choose(&ChatOptions::default())?;
        return Ok((template, None));
    };
    let own = match own {
        Ok(template) if template.names().iter().any(|name| name == given) => {
            return Ok((template, Some(given.to_string())));
        }
        own => own,
    };
    let path = Path::new(given);
    // Report a missing name if `given` looks like a name, a missing file if it looks like a path.
    let looks_like_path = path.extension().is_some() || path.components().count() > 1;
    match own {
        Ok(template) if given != "-" && !looks_like_path && !path.exists() => {
            let available = template.names().to_vec();
            Err(TextError::NoSuchChatTemplate { name: given.to_string(), available }.into())
        }
        _ => file(path, folder),
    }
}

fn file(path: &Path, folder: &Path) -> Result<(ChatTemplate, Option<String>), CliError> {
    let special = SpecialTokens::from_folder(folder)?;
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        let template = ChatTemplate::from_file(path, special)?;
        template.choose(&ChatOptions::default())?;
        return Ok((template, None));
    }
    let source = tokens::read_text(path)?;
    if source.len() > MAX_BYTES {
        let problem =
            format!("{} bytes: a chat template may have at most {MAX_BYTES}", source.len());
        return Err(CliError::Contents { path: path.into(), problem });
    }
    Ok((ChatTemplate::new(&source, special)?, None))
}

/// Local time, on a system whose time zone the library can't read.
#[cfg(windows)]
pub(crate) fn now() -> Option<DateTime> {
    use chrono::{Datelike, Timelike};
    let now = chrono::Local::now();
    let small = |number: u32| u8::try_from(number).ok();
    Some(DateTime {
        year: now.year(),
        month: small(now.month())?,
        day: small(now.day())?,
        hour: small(now.hour())?,
        minute: small(now.minute())?,
        second: small(now.second())?,
    })
}

/// The library reads the time zone itself.
#[cfg(not(windows))]
pub(crate) fn now() -> Option<DateTime> {
    None
}
