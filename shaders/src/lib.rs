//! The ops in WGSL, one file each, and what a host must know to run them.
//!
//! A [`Kernel`] has a [`Variant`] for each way to store weights and to reduce within a workgroup.
//! The source of a variant is composed of the op's file and shared parts (`compose.rs`). A file's
//! header declares its kernels and their variants (`kernel.rs`).
//!
//! `shaders/generate.sh` makes `src/generated/` from the WGSL files: the declared kernels, and the
//! [`Metadata`] of every variant, read from the modules that naga parsed and validated. The crate
//! does not compile if the files have changed since, and a test generates everything again and
//! compares.
//!
//! Every variant stays within WebGPU's default limits: 8 storage buffers, 256 invocations, 16 KiB
//! of workgroup memory. Those with cooperative matrices, which WebGPU lacks, may use 32 KiB.
//!
//! Bindings have names. Only `step` and `runs`, of which a kernel has one, have a dynamic offset.

mod compose;
mod generated;
mod kernel;
mod sources;
mod variant;

pub use compose::ComposeError;
use generated::METADATA;
pub use variant::{Arithmetic, Kernel, Reduction, Variant, WeightType};

/// What a host must know about a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Bindings in the order of their numbers, from 0; all in group 0.
    pub bindings: &'static [Binding],
    /// Threads per workgroup.
    pub workgroup_size: u32,
    /// Workgroup memory, in bytes.
    pub workgroup_bytes: u32,
    /// Whether the device must support subgroups.
    pub subgroups: bool,
    /// Tokens and rows of weights of a workgroup's tile; 0 if it has none.
    pub tile: [u32; 2],
    /// Size of the uniform buffer `params`, in bytes.
    pub params_bytes: u32,
    /// Fields of `params`; those of a nested structure are named `outer.inner`.
    pub params: &'static [Field],
}

/// A binding of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Name of the variable.
    pub name: &'static str,
    /// Kind of the binding.
    pub kind: BindingKind,
}

/// The kind of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BindingKind {
    /// A uniform buffer.
    Uniform,
    /// A read-only storage buffer.
    Read,
    /// A read-write storage buffer.
    ReadWrite,
}

/// A field of a kernel's parameters, 4 bytes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Offset in bytes.
    pub offset: u32,
    /// `f32` if true, else `u32`.
    pub float: bool,
}

/// Hash of all WGSL files, in hexadecimal. It changes with every change of a kernel.
pub const FINGERPRINT: &str = generated::SOURCES;

// Stale metadata would bind and set the wrong things without an error.
const _: () = assert!(
    option_env!("KINGLET_GENERATE").is_some() || sources::is(generated::SOURCES),
    "a WGSL file changed: run shaders/generate.sh"
);

/// The WGSL of a variant.
///
/// # Errors
/// If a directive is invalid. Tests compose every variant of [`Variant::all`], so none of these
/// fails.
pub fn source(variant: Variant) -> Result<String, ComposeError> {
    let (file, choice) = variant.choice();
    compose::compose(file, choice)
}

/// What a host must know about a variant.
pub fn metadata(variant: Variant) -> Option<&'static Metadata> {
    let name = variant.name();
    let index = METADATA.binary_search_by_key(&name.as_str(), |(known, _)| known).ok()?;
    METADATA.get(index).map(|(_, metadata)| metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_source_and_metadata_of_its_own() {
        let all = Variant::all();
        assert_eq!(all.len(), METADATA.len());
        let mut names: Vec<_> = all.iter().map(|variant| variant.name()).collect();
        names.dedup();
        assert_eq!(names.len(), all.len());
        for variant in all {
            let source = source(variant).unwrap();
            assert!(!source.contains("//#") && !source.contains("(_)"), "{}", variant.name());
            let metadata = metadata(variant).unwrap();
            let subgroups = source.contains("@builtin(subgroup_");
            assert_eq!(metadata.subgroups, subgroups, "{}", variant.name());
            let steps = metadata.bindings.iter().filter(|b| ["step", "runs"].contains(&b.name));
            assert_eq!(steps.count(), 1, "{}", variant.name());
        }
    }

    #[test]
    fn every_binding_says_what_it_holds() {
        for variant in Variant::all() {
            let source = source(variant).unwrap();
            let mut comment = "";
            for line in source.lines() {
                if line.contains("var<storage") {
                    assert!(comment.starts_with("///"), "{}: {line}", variant.name());
                }
                // One comment may describe two neighbouring bindings.
                if !line.starts_with("@group") {
                    comment = line;
                }
            }
        }
    }

    #[test]
    fn invalid_directives_and_parts_are_refused() {
        let choice = compose::Choice { weights: "weights_f99", ..Variant::all()[0].choice().1 };
        let error = compose::compose("embed", choice).unwrap_err();
        assert_eq!(error, ComposeError::UnknownPart { name: "weights_f99".into() });
    }
}
