//! `src/generated/` must match the WGSL files: every variant is composed, parsed, validated,
//! checked against WebGPU's limits, and described.
//!
//! With `KINGLET_GENERATE` in the environment the files are written instead
//! (`shaders/generate.sh`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use kinglet_shaders::{Arithmetic, Variant, source};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, Expression, Literal, Module, ScalarKind, StorageAccess, Type, TypeInner};

/// Limits of every WebGPU device.
const MAX_STORAGE_BUFFERS: usize = 8;
const MAX_INVOCATIONS: u32 = 256;
const MAX_WORKGROUP_BYTES: u32 = 16 << 10;
/// Limit of devices with cooperative matrices.
const MAX_COOPERATIVE_BYTES: u32 = 32 << 10;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Compares `text` with a file of `src/generated/`, or writes it.
#[track_caller]
fn settle(name: &str, text: &str) {
    let path = folder().join("generated").join(name);
    if std::env::var_os("KINGLET_GENERATE").is_some() {
        return std::fs::write(path, text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    let same = committed.lines().zip(text.lines()).take_while(|(a, b)| a == b).count();
    assert!(
        committed == text,
        "src/generated/{name} is stale from line {} on: run shaders/generate.sh\n{:?}\n{:?}",
        same + 1,
        committed.lines().nth(same),
        text.lines().nth(same),
    );
}

/// The WGSL files of a folder in `src`: (name, path from `src`, text).
fn files(sub: &str) -> Vec<(String, String, String)> {
    let mut files: Vec<_> = std::fs::read_dir(folder().join(sub))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wgsl"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_string();
            (name.clone(), format!("{sub}{name}.wgsl"), std::fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// FNV-1a as in `src/sources.rs`.
fn hash(files: &[(String, String, String)]) -> u64 {
    let add = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let texts = files.iter().flat_map(|(name, _, text)| [name, text]);
    texts.fold(0xcbf2_9ce4_8422_2325, |hash, text| add(text.bytes().fold(hash, add), 0xff))
}

/// A `//# kernel` line as the variant of `Kernel` and its declaration.
fn kernel(file: &str, line: &str) -> (String, String) {
    let (words, text) = line.split_once(": ").expect("`: ` before what the kernel does");
    let mut words = words.split_whitespace();
    let mut next = || words.next().expect("`//# kernel NAME FORM`");
    let (name, form) = (next(), next());
    let (mut stored, mut arithmetic, mut reduces, mut samples) = ("Nothing", "Plain", false, false);
    for word in words {
        match word {
            "weights" => stored = "Weights",
            "cache" => stored = "Cache",
            "states" => stored = "States",
            "int8" => arithmetic = "Int8",
            "tiled" => arithmetic = "Tiled",
            "f16" => arithmetic = "F16",
            "reduce" => reduces = true,
            "samples" => samples = true,
            other => panic!("{file}.wgsl: {other} is not a trait of kernels: {line}"),
        }
    }
    let form = if form == "-" { "" } else { form };
    let doc = format!("    /// `{file}`: {text}.\n    {name},\n");
    let declaration = format!(
        "    Declaration {{ file: {file:?}, form: {form:?}, stored: Stored::{stored}, \
         arithmetic: Kinds::{arithmetic}, reduces: {reduces}, samples: {samples} }},\n"
    );
    (doc, declaration)
}

#[test]
fn kernels_are_those_that_the_headers_declare() {
    let mut all = files("");
    let ops = all.len();
    all.extend(files("parts/"));
    let (mut names, mut declarations, mut list) = (String::new(), String::new(), String::new());
    let (mut variants, mut count) = (String::new(), 0);
    for (file, path, text) in &all {
        writeln!(list, "    ({file:?}, include_str!(\"../{path}\")),").unwrap();
        for line in text.lines().filter_map(|line| line.strip_prefix("//# kernel ")) {
            let (doc, declaration) = kernel(file, line);
            names += &doc;
            declarations += &declaration;
            let name = line.split_whitespace().next().unwrap();
            writeln!(variants, "        Self::{name},").unwrap();
            count += 1;
        }
    }
    for (file, _, text) in &all[..ops] {
        assert!(text.contains("\n//# kernel "), "{file}.wgsl declares no kernel");
    }
    let text = format!(
        "//! Made by `shaders/generate.sh`; not to be edited.

use crate::kernel::{{Declaration, Kinds, Stored}};

/// A kernel: an op, or a form or part of one, that is dispatched by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kernel {{
{names}}}

impl Kernel {{
    /// Every kernel.
    pub const ALL: [Self; {count}] = [
{variants}    ];
}}

/// The declarations, in the order of [`Kernel`].
#[rustfmt::skip]
pub(crate) const KERNELS: [Declaration; {count}] = [
{declarations}];

/// Every WGSL file by its name.
#[rustfmt::skip]
pub(crate) const FILES: &[(&str, &str)] = &[
{list}];

/// The hash of the files that this was made from (see `sources.rs`).
pub(crate) const SOURCES: &str = \"{:016x}\";
",
        hash(&all)
    );
    settle("kernels.rs", &text);
}

/// Lists that many variants share, each written once.
#[derive(Default)]
struct Shared(BTreeMap<String, usize>);

impl Shared {
    /// The number of `list`.
    fn number(&mut self, list: String) -> usize {
        let next = self.0.len();
        *self.0.entry(list).or_insert(next)
    }

    /// The lists as constants `NAME0`, `NAME1`, ...
    fn constants(&self, name: &str, ty: &str) -> String {
        let mut lists: Vec<_> = self.0.iter().map(|(list, number)| (number, list)).collect();
        lists.sort();
        let one = |(number, list)| format!("const {name}{number}: &[{ty}] = &[{list}];\n");
        lists.into_iter().map(one).collect()
    }
}

#[test]
fn metadata_is_that_of_the_parsed_modules() {
    let (mut bindings, mut params) = (Shared::default(), Shared::default());
    let (mut entries, mut errors) = (BTreeMap::new(), Vec::new());
    for variant in Variant::all() {
        match describe(variant, &mut bindings, &mut params) {
            Ok(metadata) => drop(entries.insert(variant.name(), metadata)),
            Err(error) => errors.push(format!("{}: {error}", variant.name())),
        }
    }
    assert!(errors.is_empty(), "{} variants are broken:\n{}", errors.len(), errors.join("\n"));
    let entries: String = entries
        .into_iter()
        .map(|(name, metadata)| format!("    ({name:?}, {metadata}),\n"))
        .collect();
    let text = format!(
        "//! Made by `shaders/generate.sh`; not to be edited.
#![cfg_attr(rustfmt, rustfmt::skip)]

use crate::BindingKind::{{Read, ReadWrite, Uniform}};
use crate::{{Binding, BindingKind, Field, Metadata}};

const fn b(name: &'static str, kind: BindingKind) -> Binding {{
    Binding {{ name, kind }}
}}

/// A field that is a `u32`.
const fn u(name: &'static str, offset: u32) -> Field {{
    Field {{ name, offset, float: false }}
}}

/// A field that is an `f32`.
const fn f(name: &'static str, offset: u32) -> Field {{
    Field {{ name, offset, float: true }}
}}

const fn m(
    bindings: &'static [Binding],
    [workgroup_size, workgroup_bytes]: [u32; 2],
    subgroups: bool,
    tile: [u32; 2],
    params_bytes: u32,
    params: &'static [Field],
) -> Metadata {{
    Metadata {{ bindings, workgroup_size, workgroup_bytes, subgroups, tile, params_bytes, params }}
}}

{}
{}
/// By the names of variants, sorted.
pub(crate) const METADATA: &[(&str, Metadata)] = &[
{entries}];
",
        bindings.constants("B", "Binding"),
        params.constants("P", "Field"),
    );
    settle("metadata.rs", &text);
}

/// The metadata of a variant as a Rust expression.
fn describe(
    variant: Variant,
    all_bindings: &mut Shared,
    all_params: &mut Shared,
) -> Result<String, String> {
    let (file, _) = variant.kernel().file();
    let source = source(variant).map_err(|error| error.to_string())?;
    let module = naga::front::wgsl::parse_str(&source)
        .map_err(|error| error.emit_to_string_with_path(&source, file))?;
    // Every WebGPU device has `unpack2x16float`; naga requires it because older hardware lacks it.
    let mut capabilities = Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let cooperative = variant.arithmetic() == Arithmetic::Cooperative;
    capabilities.set(Capabilities::SHADER_FLOAT16, source.starts_with("enable f16;"));
    capabilities.set(Capabilities::COOPERATIVE_MATRIX, cooperative);
    Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .map_err(|error| error.emit_to_string_with_path(&source, file))?;

    let [entry] = &module.entry_points[..] else { return Err("not one entry point".into()) };
    let invocations: u32 = entry.workgroup_size.iter().product();
    if invocations > MAX_INVOCATIONS {
        return Err(format!("{invocations} invocations"));
    }
    let (mut bindings, mut params, mut params_bytes) = (Vec::new(), String::new(), 0);
    let mut workgroup_bytes = 0;
    for (_, variable) in module.global_variables.iter() {
        let ty = &module.types[variable.ty];
        if variable.space == AddressSpace::WorkGroup {
            workgroup_bytes += size(&module, ty);
        }
        let Some(binding) = &variable.binding else { continue };
        let name = variable.name.clone().unwrap_or_default();
        let kind = match variable.space {
            AddressSpace::Uniform => "Uniform",
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => {
                "ReadWrite"
            }
            AddressSpace::Storage { .. } => "Read",
            other => return Err(format!("{name} is in {other:?}")),
        };
        if name == "params" {
            params_bytes = size(&module, ty);
            fields(&module, ty, "", 0, &mut params)?;
        }
        bindings.push((binding.group, binding.binding, name, kind));
    }
    bindings.sort();
    if bindings.iter().enumerate().any(|(i, b)| (b.0, b.1) != (0, i as u32)) {
        return Err("bindings are not numbered from 0".into());
    }
    let storage = bindings.iter().filter(|b| b.3 != "Uniform").count();
    if storage > MAX_STORAGE_BUFFERS {
        return Err(format!("{storage} storage buffers"));
    }
    if workgroup_bytes > if cooperative { MAX_COOPERATIVE_BYTES } else { MAX_WORKGROUP_BYTES } {
        return Err(format!("{workgroup_bytes} bytes of workgroup memory"));
    }
    let mut list = String::new();
    for (_, _, name, kind) in &bindings {
        write!(list, "b({name:?}, {kind}), ").unwrap();
    }
    let subgroups = source.contains("@builtin(subgroup_");
    let [tile_tokens, tile_rows] = ["TOKENS", "ROWS"].map(|name| constant(&module, name));
    let (list, params) = (all_bindings.number(list), all_params.number(params));
    Ok(format!(
        "m(B{list}, [{invocations}, {workgroup_bytes}], {subgroups}, [{tile_tokens}, {tile_rows}], \
         {params_bytes}, P{params})"
    ))
}

/// The value of the constant `name`; 0 if there is none.
fn constant(module: &Module, name: &str) -> u32 {
    let mut known = module.constants.iter();
    let found = known.find(|(_, constant)| constant.name.as_deref() == Some(name));
    match found.map(|(_, constant)| &module.global_expressions[constant.init]) {
        Some(Expression::Literal(Literal::U32(value))) => *value,
        _ => 0,
    }
}

fn size(module: &Module, ty: &Type) -> u32 {
    ty.inner.size(module.to_ctx())
}

/// Lists the scalar fields of the structure `ty` at offset `base`.
fn fields(
    module: &Module,
    ty: &Type,
    prefix: &str,
    base: u32,
    list: &mut String,
) -> Result<(), String> {
    let TypeInner::Struct { members, .. } = &ty.inner else {
        return Err("params is not a structure".into());
    };
    for member in members {
        let name = format!("{prefix}{}", member.name.as_deref().unwrap_or_default());
        let (ty, offset) = (&module.types[member.ty], base + member.offset);
        match ty.inner {
            TypeInner::Scalar(scalar) if scalar.width == 4 => {
                let kind = if scalar.kind == ScalarKind::Float { 'f' } else { 'u' };
                write!(list, "{kind}({name:?}, {offset}), ").unwrap();
            }
            _ => fields(module, ty, &format!("{name}."), offset, list)?,
        }
    }
    Ok(())
}
