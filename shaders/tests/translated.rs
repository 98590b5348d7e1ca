//! Translation for DX12 and Metal: naga must be able to write every variant in HLSL and MSL. Their
//! compilers are not tested here.

use kinglet_shaders::{Arithmetic, Variant, metadata, source};
use naga::back::{hlsl, msl};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};

/// The parsed modules of all variants without cooperative matrices: DX12 lacks them, and Metal's
/// are untested.
fn modules() -> Vec<(Variant, naga::Module, ModuleInfo)> {
    let all = Variant::all().into_iter().filter(|v| v.arithmetic() != Arithmetic::Cooperative);
    all.map(|variant| {
        let module = naga::front::wgsl::parse_str(&source(variant).unwrap()).unwrap();
        let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
        let info = validator.validate(&module).unwrap();
        (variant, module, info)
    })
    .collect()
}

/// The inputs of `main` in HLSL: its parameters, and the members of naga's own structure among
/// them.
fn inputs(text: &str) -> Vec<&str> {
    let between = |start: &str, end: &str| {
        let (_, rest) = text.split_once(start)?;
        Some(rest.split_once(end)?.0)
    };
    let own = between("struct ComputeInput_main {", "};").into_iter();
    let members = own.flat_map(|members| members.split(';'));
    let parameters = between("void main(", ")\n{").unwrap().split(", ");
    let all = members.chain(parameters).map(str::trim);
    all.filter(|input| !input.is_empty() && !input.starts_with("ComputeInput_main ")).collect()
}

#[test]
fn every_variant_can_be_written_in_hlsl() {
    let mut subgroups = 0;
    for (variant, module, info) in modules() {
        let options = hlsl::Options { shader_model: hlsl::ShaderModel::V6_4, ..Default::default() };
        let mut text = String::new();
        let entry = hlsl::PipelineOptions::default();
        let mut writer = hlsl::Writer::new(&mut text, &options, &entry);
        let written = writer.write(&module, &info, None);
        let name = variant.name();
        assert!(written.is_ok(), "{name}: {:?}", written.err());
        // DXC requires semantics, which naga omits for structure members with subgroup built-ins.
        let inputs = inputs(&text);
        let nameless: Vec<_> = inputs.iter().filter(|input| !input.contains(" : ")).collect();
        assert!(nameless.is_empty(), "{name}: {nameless:?} have no semantics");
        subgroups += usize::from(text.contains("WaveGetLaneIndex"));
    }
    assert!(subgroups > 0);
}

#[test]
fn every_variant_can_be_written_in_metals_language() {
    for (variant, module, info) in modules() {
        let options = msl::Options { lang_version: (2, 4), ..Default::default() };
        let written = msl::write_string(&module, &info, &options, &Default::default());
        let name = variant.name();
        let (text, _) = written.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(text.contains("kernel void"), "{name}");
    }
    assert!(modules().iter().any(|(variant, ..)| metadata(*variant).is_some_and(|m| m.subgroups)));
}
