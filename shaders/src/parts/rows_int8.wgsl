// A piece of a token rounded to eight bits, with a scale for every unit of 32 elements. A unit of a row is
// `w = scale * code + bias` with integer codes, so its product with the token is
// `x_scale * (scale * (code . x) + bias * sum(x))`, in which all that grows with the unit is a product of integers.
//
// The bias is multiplied with the sum of the rounded elements: then what rounding adds is multiplied with weights, whose mean
// is about 0, and not with codes, whose mean isn't.
//
// Loads of weights stand together and before what doesn't need them, so that they are under way together: a thread that waits for
// one row after the other, or for the token before it asks for weights, waits for most of its time.

/// A unit of a token.
struct Rounded {
    /// Its elements, eight each, in the order of the weights' codes.
    a: vec2<u32>,
    b: vec2<u32>,
    c: vec2<u32>,
    d: vec2<u32>,
    scale: f32,
    /// The sum of the rounded elements, times the scale.
    sum: f32,
}

//# use weights
//# use prologue

/// Elements of a token that are made ready at once.
const PIECE: u32 = 7168u;
const UNITS: u32 = 224u;
/// From a quarter of the units to the next; the gap keeps threads that write quarters of a unit apart in memory's banks.
const QUARTER: u32 = 228u;

/// [4, QUARTER]: eight elements of each unit, in the order of the weights' codes: `pack_codes`.
var<workgroup> rounded: array<vec2<u32>, 912>;
/// [UNITS]: a unit's scale, and that times the sum of its elements.
var<workgroup> rounded_scales: array<vec2<f32>, UNITS>;

/// Four elements of `token` behind the gate and before the norm.
fn four_gated(p: Prologue, token: u32, k: u32) -> vec4<f32> {
    let at = token * p.input_stride + p.input_offset + k;
    var value = vec4(input[at], input[at + 1u], input[at + 2u], input[at + 3u]);
    if p.kind == PROLOGUE_GATE || p.kind == PROLOGUE_GATED_NORM || p.kind == PROLOGUE_SCALED_GATED_NORM {
        let at = token * p.gate_stride + p.gate_offset + k;
        let g = vec4(gate[at], gate[at + 1u], gate[at + 2u], gate[at + 3u]);
        value *= vec4(silu(g.x), silu(g.y), silu(g.z), silu(g.w));
    }
    return value;
}

/// Four elements with the norm's weight, bias and found factors.
fn four_weighted(p: Prologue, value: vec4<f32>, k: u32) -> vec4<f32> {
    return vec4(
        weighted(p, value.x, k),
        weighted(p, value.y, k + 1u),
        weighted(p, value.z, k + 2u),
        weighted(p, value.w, k + 3u),
    );
}

fn largest_of(value: vec4<f32>) -> f32 {
    let a = abs(value);
    return max(max(a.x, a.y), max(a.z, a.w));
}

/// Makes elements `base .. base + PIECE` of `token` ready; gives this thread's sum of squares. A thread takes eight elements,
/// four threads a unit.
fn fill_piece(p: Prologue, token: u32, base: u32, ids: Ids) -> f32 {
    let thread = thread_of(ids);
    let count = min(p.cols - base, PIECE) / 8u;
    var squares = 0.0;
    // All have read the piece before.
    workgroupBarrier();
    for (var start = 0u; start < count; start += THREADS) {
        let item = start + thread;
        var low = vec4(0.0);
        var high = vec4(0.0);
        if item < count {
            let k = base + item * 8u;
            low = four_gated(p, token, k);
            high = four_gated(p, token, k + 4u);
            squares += dot(low, low) + dot(high, high);
            low = four_weighted(p, low, k);
            high = four_weighted(p, high, k + 4u);
        }
        let largest = max_of_four(max(largest_of(low), largest_of(high)), ids);
        let inverse = select(0.0, 127.0 / largest, largest > 1e-30);
        let words = pack_codes(vec4<i32>(round(low * inverse)), vec4<i32>(round(high * inverse)));
        let sum = sum_of_four(dot4I8Packed(words.x, 0x01010101u) + dot4I8Packed(words.y, 0x01010101u), ids);
        if item < count {
            let scale = largest / 127.0;
            rounded[item % 4u * QUARTER + item / 4u] = words;
            if item % 4u == 0u {
                rounded_scales[item / 4u] = vec2(scale, scale * f32(sum));
            }
        }
    }
    workgroupBarrier();
    return squares;
}

/// Unit `place` of the piece.
fn unit_of_piece(place: u32) -> Rounded {
    let s = rounded_scales[place];
    return Rounded(
        rounded[place],
        rounded[QUARTER + place],
        rounded[2u * QUARTER + place],
        rounded[3u * QUARTER + place],
        s.x,
        s.y,
    );
}

/// A unit of each of four rows.
struct RawRows {
    a: Raw,
    b: Raw,
    c: Raw,
    d: Raw,
}

fn load_rows(m: Matrix, rows: vec4<u32>, unit: u32) -> RawRows {
    return RawRows(load_raw(m, rows.x, unit), load_raw(m, rows.y, unit), load_raw(m, rows.z, unit), load_raw(m, rows.w, unit));
}

fn dot_rows(m: Matrix, raw: RawRows, x: Rounded) -> vec4<f32> {
    return vec4(dot_raw(m, raw.a, x), dot_raw(m, raw.b, x), dot_raw(m, raw.c, x), dot_raw(m, raw.d, x));
}

/// The products of four rows with the prepared `token`; each of the `lanes` neighbours that share them gets them.
fn multiply_rows(m: Matrix, rows: vec4<u32>, p: Prologue, token: u32, lanes: u32, ids: Ids) -> vec4<f32> {
    let lane = thread_of(ids) % lanes;
    let all_units = p.cols / UNIT;
    var next = load_rows(m, rows, min(lane, all_units - 1u));
    if needs_scales(p) {
        find_scales(p, token, ids);
    }
    var sum = vec4(0.0);
    var squares = 0.0;
    for (var base = 0u; base < p.cols; base += PIECE) {
        squares += fill_piece(p, token, base, ids);
        let first = base / UNIT;
        let units = min(p.cols - base, PIECE) / UNIT;
        for (var unit = lane; unit < units; unit += lanes) {
            let raw = next;
            // Of this piece, or the first of the next one.
            let then = select(first + unit + lanes, first + units + lane, unit + lanes >= units);
            if then < all_units {
                next = load_rows(m, rows, then);
            }
            sum += dot_rows(m, raw, unit_of_piece(unit));
        }
    }
    sum = sum_over(sum, ids, lanes);
    if has_late_factor(p) {
        let all = sum_over(vec4(squares, 0.0, 0.0, 0.0), ids, THREADS).x;
        sum *= norm_factor(p, all, p.cols);
    }
    return sum;
}
