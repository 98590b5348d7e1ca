// Sums that never decay, each kept as two numbers: the sum in f32, and what its additions rounded off (Neumaier, 1974).
//
// WGSL lets a compiler reassociate, and Metal's does: it would find that what an addition rounded off is 0. So every result whose rounding
// counts passes through an exclusive or with `params.zero`, of which only the host knows that it is 0.

/// The same number, of which a compiler doesn't know how it was computed.
fn opaque(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ params.zero);
}

/// `sum` plus `x`: as it is rounded, and what was rounded off so far (Knuth's two-sum: exact whichever of the two is larger).
fn add_to(sum: vec2<f32>, x: f32) -> vec2<f32> {
    // Not a product that could become part of a fused addition.
    let added = opaque(x);
    let high = opaque(sum.x + added);
    let part = opaque(high - sum.x);
    let kept = opaque(high - part);
    return vec2(high, sum.y + ((sum.x - kept) + (added - part)));
}
