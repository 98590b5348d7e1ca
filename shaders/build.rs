//! Parses and validates every variant of every kernel, and writes what a host must know of each as Rust source.

use std::fmt::Write as _;
use std::path::Path;

use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, Expression, Literal, Module, ScalarKind, StorageAccess, Type, TypeInner};

#[path = "src/compose.rs"]
#[allow(dead_code, unreachable_pub)]
mod compose;
#[path = "src/kernel.rs"]
#[allow(dead_code, unreachable_pub)]
mod kernel;
#[path = "src/variant.rs"]
#[allow(dead_code, unreachable_pub)]
mod variant;

/// Limits that every WebGPU device has.
const MAX_STORAGE_BUFFERS: usize = 8;
const MAX_INVOCATIONS: u32 = 256;
const MAX_WORKGROUP_BYTES: u32 = 16 << 10;
/// What devices with cooperative matrices have.
const MAX_COOPERATIVE_BYTES: u32 = 32 << 10;

fn main() {
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=build.rs");
    let mut text = String::from("static METADATA: &[(&str, Metadata)] = &[\n");
    let (mut errors, mut fingerprint) = (Vec::new(), 0xcbf2_9ce4_8422_2325u64);
    for variant in variant::Variant::all() {
        match describe(variant, &mut fingerprint) {
            Ok(metadata) => writeln!(text, "({:?}, {metadata}),", variant.name()).unwrap(),
            Err(error) => errors.push(format!("{}: {error}", variant.name())),
        }
    }
    text.push_str("];\n\n/// Another one for other sources.\n");
    writeln!(text, "pub const FINGERPRINT: &str = \"{fingerprint:016x}\";").unwrap();
    if !errors.is_empty() {
        panic!("{} shader variants are broken:\n{}", errors.len(), errors.join("\n"));
    }
    let folder = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    std::fs::write(Path::new(&folder).join("metadata.rs"), text).expect("OUT_DIR is writable");
}

/// The metadata of a variant as a Rust expression.
fn describe(variant: variant::Variant, fingerprint: &mut u64) -> Result<String, String> {
    let (file, choice) = variant.choice();
    let source = compose::compose(file, choice).map_err(|error| error.to_string())?;
    // FNV-1a.
    for byte in source.bytes() {
        *fingerprint = (*fingerprint ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let module = naga::front::wgsl::parse_str(&source)
        .map_err(|error| error.emit_to_string_with_path(&source, file))?;
    // `unpack2x16float` is in every WebGPU device; naga asks for it because older hardware has not.
    let mut capabilities = Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let cooperative = variant.arithmetic() == variant::Arithmetic::Cooperative;
    capabilities.set(Capabilities::SHADER_FLOAT16, !choice.extensions.is_empty());
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
        write!(list, "Binding {{ name: {name:?}, kind: BindingKind::{kind} }}, ").unwrap();
    }
    let subgroups = cooperative || choice.reduce == "reduce_subgroup";
    let [tile_tokens, tile_rows] = ["TOKENS", "ROWS"].map(|name| constant(&module, name));
    Ok(format!(
        "Metadata {{ bindings: &[{list}], workgroup_size: {invocations}, \
         workgroup_bytes: {workgroup_bytes}, subgroups: {subgroups}, \
         tile: [{tile_tokens}, {tile_rows}], params_bytes: {params_bytes}, params: &[{params}] }}"
    ))
}

/// The constant `name`; 0 where there is none.
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

/// Lists the scalar fields of the structure `ty`, which begins at `base`.
fn fields(
    module: &Module,
    ty: &Type,
    prefix: &str,
    base: u32,
    list: &mut String,
) -> Result<(), String> {
    let TypeInner::Struct { members, .. } = &ty.inner else {
        return Err("params is no structure".into());
    };
    for member in members {
        let name = format!("{prefix}{}", member.name.as_deref().unwrap_or_default());
        let (ty, offset) = (&module.types[member.ty], base + member.offset);
        match ty.inner {
            TypeInner::Scalar(scalar) if scalar.width == 4 => {
                let float = scalar.kind == ScalarKind::Float;
                write!(list, "Field {{ name: {name:?}, offset: {offset}, float: {float} }}, ")
                    .unwrap();
            }
            _ => fields(module, ty, &format!("{name}."), offset, list)?,
        }
    }
    Ok(())
}
