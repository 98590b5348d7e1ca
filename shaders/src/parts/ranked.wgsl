// Ordering of logits, independent of a device's comparisons with NaN; and a workgroup of 256 threads that finds the
// largest, or the place where running totals reach a number.
//# use step

const THREADS: u32 = 256u;
/// Logits per block, which a workgroup processes at once.
const BLOCK: u32 = 1024u;

/// [THREADS]: a key and its token each.
var<workgroup> tops: array<vec2<u32>, THREADS>;
/// [THREADS].
var<workgroup> totals: array<f32, THREADS>;
/// Totals before each sixteenth of the threads.
var<workgroup> bases: array<f32, 16>;

/// Keys from that of positive infinity on; NaN and infinity are broken logits.
const BROKEN: u32 = 0xff800000u;
/// The key of negative infinity: an excluded token.
const EXCLUDED: u32 = 0x007fffffu;

/// A number that increases with the logit; both zeros have the same.
fn key_of(logit: f32) -> u32 {
    let bits = bitcast<u32>(logit);
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u || bits == 0x7f800000u {
        return BROKEN;
    }
    if magnitude == 0u {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

/// The logit of a key; only for finite logits.
fn logit_of(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u));
}

/// Whether `a` comes before `b`: the larger logit first, on a tie the lower token.
fn before(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}

/// The first in order over all threads.
fn first_of(own: vec2<u32>, thread: u32) -> vec2<u32> {
    tops[thread] = own;
    workgroupBarrier();
    for (var distance = THREADS / 2u; distance > 0u; distance /= 2u) {
        if thread < distance && before(tops[thread + distance], tops[thread]) {
            tops[thread] = tops[thread + distance];
        }
        workgroupBarrier();
    }
    return workgroupUniformLoad(&tops[0]);
}

/// Fills `totals` with the running totals over the threads; they never decrease.
fn accumulate(own: f32, thread: u32) {
    workgroupBarrier();
    totals[thread] = own;
    workgroupBarrier();
    if thread < 16u {
        var sum = 0.0;
        for (var i = 16u * thread; i < 16u * thread + 16u; i += 1u) {
            sum += totals[i];
            totals[i] = sum;
        }
    }
    workgroupBarrier();
    if thread == 0u {
        var sum = 0.0;
        for (var i = 0u; i < 16u; i += 1u) {
            bases[i] = sum;
            sum += totals[16u * i + 15u];
        }
    }
    workgroupBarrier();
    totals[thread] += bases[thread / 16u];
    workgroupBarrier();
}

/// The total of the threads before this one, after [`accumulate`].
fn total_before(thread: u32) -> f32 {
    return select(0.0, totals[max(thread, 1u) - 1u], thread > 0u);
}

/// Whether the running total passes `place` at this thread, which is true for exactly one. What rounding leaves beyond
/// the last total belongs to the last thread with any mass.
fn passes(place: f32, thread: u32) -> bool {
    let all = totals[THREADS - 1u];
    let start = total_before(thread);
    if place >= all {
        return totals[thread] == all && start < all;
    }
    return totals[thread] > place && start <= place;
}
