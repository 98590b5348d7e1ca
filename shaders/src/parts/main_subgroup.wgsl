fn main(
    @builtin(subgroup_id) own_subgroup: u32,
    @builtin(subgroup_size) subgroup_size: u32,
    @builtin(subgroup_invocation_id) place_in_subgroup: u32,
    @builtin(workgroup_id) group: vec3<u32>,
) {
    // As parameters they have names in HLSL; as members of a structure they don't.
    let ids = Ids(own_subgroup, subgroup_size, place_in_subgroup);
