//! Which chat template a command renders with: the model's, one of several by its name, or a file.

use std::path::Path;

use kinglet::text::{ChatOptions, ChatTemplate, DateTime, SpecialTokens, TextError};

use crate::error::CliError;
use crate::tokens;

/// The largest chat template that is read.
const MAX_BYTES: usize = 1 << 20;

/// The templates to render with, and the name of the one to use if it was named.
///
/// # Errors
/// When there is no such template or file, or several and none of them is the default.
pub(crate) fn load(
    folder: &Path,
    given: Option<&str>,
) -> Result<(ChatTemplate, Option<String>), CliError> {
    let own = ChatTemplate::from_folder(folder);
    let Some(given) = given else {
        let template = own?;
        // Said now rather than after the first message.
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
    // What looks like a name is missed among the names, what looks like a path among the files.
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
        let problem = format!("{} bytes are too many for a chat template", source.len());
        return Err(CliError::Contents { path: path.into(), problem });
    }
    Ok((ChatTemplate::new(&source, special)?, None))
}

/// The time by the local clock, where the library doesn't know the zone.
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

/// The library reads the system's zone itself.
#[cfg(not(windows))]
pub(crate) fn now() -> Option<DateTime> {
    None
}
