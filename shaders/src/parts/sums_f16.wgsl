// The totals that sums in f16 are added to.

//# when tiles
alias Block = array<vec4<f32>, 8>;

/// Adds the sums over a tile's columns to the totals.
fn add_sums(block: ptr<function, Block>, sums: ptr<function, Sums>) {
    (*block)[0] += vec4<f32>((*sums)[0]);
    (*block)[1] += vec4<f32>((*sums)[1]);
    (*block)[2] += vec4<f32>((*sums)[2]);
    (*block)[3] += vec4<f32>((*sums)[3]);
    (*block)[4] += vec4<f32>((*sums)[4]);
    (*block)[5] += vec4<f32>((*sums)[5]);
    (*block)[6] += vec4<f32>((*sums)[6]);
    (*block)[7] += vec4<f32>((*sums)[7]);
}

//# when small_tiles
alias Block = array<vec4<f32>, 4>;

/// Adds the sums over a tile's columns to the totals.
fn add_sums(block: ptr<function, Block>, sums: ptr<function, Sums>) {
    (*block)[0] += vec4<f32>((*sums)[0]);
    (*block)[1] += vec4<f32>((*sums)[1]);
    (*block)[2] += vec4<f32>((*sums)[2]);
    (*block)[3] += vec4<f32>((*sums)[3]);
}
//# end
