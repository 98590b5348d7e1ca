//! Composes the WGSL of a variant from its op's file and the parts that this file uses.
//!
//! A source line that begins with `//#` is a directive:
//!
//! ```text
//! //# kernel ..      declares a kernel (see `kernel.rs`) and adds nothing to the source
//! //# use NAME       inserts the part NAME, once; `weights` and `reduce` are the variant's own, and so
//!                    is `main`, the beginning of an entry point that has the `ids` for `reduce`
//! //# when WORD ..   includes what follows, up to the next `when`, `unless` or `end`, only for these
//!                    forms or kinds of arithmetic of the kernel
//! //# unless WORD .. includes it for all others
//! //# end
//! ```
//!
//! `@binding(_)` gets the next number, and the extensions of the arithmetic are enabled. Nothing
//! else changes. An unknown directive or part is an error.

use std::fmt;

use super::generated::FILES;

/// Why a source could not be composed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ComposeError {
    /// A part does not exist, or the variant does not select it.
    UnknownPart {
        /// Name of the part.
        name: String,
    },
    /// A line is not a valid directive.
    Directive {
        /// The file.
        file: String,
        /// The line.
        line: String,
    },
}

impl fmt::Display for ComposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPart { name } => write!(f, "there is no shader part {name}"),
            Self::Directive { file, line } => write!(f, "{file}.wgsl: {line:?} is no directive"),
        }
    }
}

impl std::error::Error for ComposeError {}

/// The parts that a variant selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    /// Form of the kernel; empty if it has only one.
    pub form: &'a str,
    /// Part for `use weights`; empty if the kernel has none.
    pub weights: &'a str,
    /// Part for `use reduce`; empty if the kernel has none.
    pub reduce: &'a str,
    /// Name of its arithmetic.
    pub arithmetic: &'a str,
    /// Extensions to enable.
    pub extensions: &'a [&'a str],
}

/// The source of the kernel in `file`.
///
/// # Errors
/// If a file is missing or has an invalid directive.
pub(crate) fn compose(file: &str, choice: Choice<'_>) -> Result<String, ComposeError> {
    let mut composer = Composer { choice, used: Vec::new(), text: String::new() };
    composer.add(file)?;
    let mut numbered = String::with_capacity(composer.text.len());
    for extension in choice.extensions {
        numbered.push_str(&format!("enable {extension};\n"));
    }
    let mut pieces = composer.text.split("@binding(_)");
    numbered.extend(pieces.next());
    for (number, piece) in pieces.enumerate() {
        numbered.push_str(&format!("@binding({number}){piece}"));
    }
    Ok(numbered)
}

struct Composer<'a> {
    choice: Choice<'a>,
    used: Vec<String>,
    text: String,
}

impl Composer<'_> {
    fn add(&mut self, name: &str) -> Result<(), ComposeError> {
        if self.used.iter().any(|used| used == name) {
            return Ok(());
        }
        self.used.push(name.into());
        let file = FILES.iter().find(|(file, _)| *file == name);
        let (_, text) = file.ok_or_else(|| ComposeError::UnknownPart { name: name.into() })?;
        let mut included = true;
        for line in text.lines() {
            let Some(directive) = line.trim_start().strip_prefix("//#") else {
                if included {
                    self.text.push_str(line);
                    self.text.push('\n');
                }
                continue;
            };
            let words: Vec<&str> = directive.split_whitespace().collect();
            match words[..] {
                [what @ ("when" | "unless"), ref words @ ..] if !words.is_empty() => {
                    let own = [self.choice.form, self.choice.arithmetic];
                    included = words.iter().any(|word| own.contains(word)) == (what == "when");
                }
                ["end"] => included = true,
                ["kernel", ..] => {}
                ["use", _] if !included => {}
                ["use", "weights"] => self.add(self.choice.weights)?,
                ["use", "reduce"] => self.add(self.choice.reduce)?,
                ["use", "main"] => self.add(&self.choice.reduce.replace("reduce_", "main_"))?,
                ["use", part] => self.add(part)?,
                _ => {
                    let (file, line) = (name.into(), line.into());
                    return Err(ComposeError::Directive { file, line });
                }
            }
        }
        Ok(())
    }
}
