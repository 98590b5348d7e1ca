//! Puts the WGSL of a variant together. Used when the crate is built, to validate every variant, and when a program runs.
//!
//! A source line that begins with `//#` is a directive:
//!
//! ```text
//! //# use NAME       the part NAME stands here, unless it stood before; `weights` and `reduce` are the variant's own, and so is `main`, the
//!                    beginning of an entry point that has the `ids` for `reduce`
//! //# when WORD ..   what follows is for these forms or kinds of arithmetic of the kernel only, up to the next `when`, `unless` or `end`
//! //# unless WORD .. what follows is for all others
//! //# end
//! ```
//!
//! `@binding(_)` gets the next number. The extensions that an arithmetic needs are enabled. Nothing else is changed; an unknown directive or part is an error.

use std::fmt;

/// Every WGSL file by its name.
const FILES: &[(&str, &str)] = &[
    ("attention", include_str!("attention.wgsl")),
    ("conv1d", include_str!("conv1d.wgsl")),
    ("copy", include_str!("copy.wgsl")),
    ("embed", include_str!("embed.wgsl")),
    ("gated_linear", include_str!("gated_linear.wgsl")),
    ("head", include_str!("head.wgsl")),
    ("linear", include_str!("linear.wgsl")),
    ("mamba2_scan", include_str!("mamba2_scan.wgsl")),
    ("mamba_scan", include_str!("mamba_scan.wgsl")),
    ("mlstm_scan", include_str!("mlstm_scan.wgsl")),
    ("moe_down", include_str!("moe_down.wgsl")),
    ("moe_group", include_str!("moe_group.wgsl")),
    ("moe_route", include_str!("moe_route.wgsl")),
    ("moe_up", include_str!("moe_up.wgsl")),
    ("prepare", include_str!("prepare.wgsl")),
    ("sample", include_str!("sample.wgsl")),
    ("affine", include_str!("parts/affine.wgsl")),
    ("affine_any", include_str!("parts/affine_any.wgsl")),
    ("attention_pieces", include_str!("parts/attention_pieces.wgsl")),
    ("cache_affine4", include_str!("parts/cache_affine4.wgsl")),
    ("cache_affine8", include_str!("parts/cache_affine8.wgsl")),
    ("cache_packed", include_str!("parts/cache_packed.wgsl")),
    ("decays", include_str!("parts/decays.wgsl")),
    ("drawing", include_str!("parts/drawing.wgsl")),
    ("grouped", include_str!("parts/grouped.wgsl")),
    ("mamba2_chunks", include_str!("parts/mamba2_chunks.wgsl")),
    ("math", include_str!("parts/math.wgsl")),
    ("main_subgroup", include_str!("parts/main_subgroup.wgsl")),
    ("main_workgroup", include_str!("parts/main_workgroup.wgsl")),
    ("matrix", include_str!("parts/matrix.wgsl")),
    ("mlstm_chunks", include_str!("parts/mlstm_chunks.wgsl")),
    ("products", include_str!("parts/products.wgsl")),
    ("prologue", include_str!("parts/prologue.wgsl")),
    ("quantized", include_str!("parts/quantized.wgsl")),
    ("ranked", include_str!("parts/ranked.wgsl")),
    ("reduce_subgroup", include_str!("parts/reduce_subgroup.wgsl")),
    ("reduce_workgroup", include_str!("parts/reduce_workgroup.wgsl")),
    ("rows", include_str!("parts/rows.wgsl")),
    ("rows_f32", include_str!("parts/rows_f32.wgsl")),
    ("rows_int8", include_str!("parts/rows_int8.wgsl")),
    ("shares", include_str!("parts/shares.wgsl")),
    ("state_f16", include_str!("parts/state_f16.wgsl")),
    ("state_f32", include_str!("parts/state_f32.wgsl")),
    ("step", include_str!("parts/step.wgsl")),
    ("sums_f16", include_str!("parts/sums_f16.wgsl")),
    ("tiles", include_str!("parts/tiles.wgsl")),
    ("tiles_cooperative", include_str!("parts/tiles_cooperative.wgsl")),
    ("tiles_plain", include_str!("parts/tiles_plain.wgsl")),
    ("weights_affine2", include_str!("parts/weights_affine2.wgsl")),
    ("weights_affine3", include_str!("parts/weights_affine3.wgsl")),
    ("weights_affine4", include_str!("parts/weights_affine4.wgsl")),
    ("weights_affine5", include_str!("parts/weights_affine5.wgsl")),
    ("weights_affine6", include_str!("parts/weights_affine6.wgsl")),
    ("weights_affine8", include_str!("parts/weights_affine8.wgsl")),
    ("weights_bf16", include_str!("parts/weights_bf16.wgsl")),
    ("weights_f16", include_str!("parts/weights_f16.wgsl")),
    ("weights_f32", include_str!("parts/weights_f32.wgsl")),
    ("weights_mxfp4", include_str!("parts/weights_mxfp4.wgsl")),
    ("weights_mxfp8", include_str!("parts/weights_mxfp8.wgsl")),
    ("weights_nvfp4", include_str!("parts/weights_nvfp4.wgsl")),
];

/// Why no source could be put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ComposeError {
    /// There is no such file, or the variant leaves open which it is.
    UnknownPart {
        /// What was asked for.
        name: String,
    },
    /// A line is no directive.
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

/// A variant's own parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    /// The form of the kernel; empty where it has one only.
    pub form: &'a str,
    /// What `use weights` means; empty where the kernel has none.
    pub weights: &'a str,
    /// What `use reduce` means; empty where the kernel has none.
    pub reduce: &'a str,
    /// The name of its arithmetic.
    pub arithmetic: &'a str,
    /// What must be enabled for it.
    pub extensions: &'a [&'a str],
}

/// The source of the kernel in `file`.
///
/// # Errors
/// When a file is missing or has a broken directive.
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
