// A piece of a token rounded to eight bits, with a scale for every unit of 32 elements. A unit of a row is `w = scale *
// code + bias` with integer codes, so its product with the token is `x_scale * (scale * (code . x) + bias * sum(x))`,
// in which everything that grows with the unit is an integer product.
//
// The bias is multiplied by the sum of the rounded elements. Then the rounding error is multiplied by weights, whose
// mean is about 0, and not by codes, whose mean isn't.
//
// Loads of weights are grouped, and issued before computations that don't need them, so that they overlap: a thread
// that waits for one row after another, or for the token before it loads weights, waits most of the time.

/// A unit of a token.
struct Rounded {
    /// Its elements, eight each, in the order of the weights' codes.
    a: vec2<u32>,
    b: vec2<u32>,
    c: vec2<u32>,
    d: vec2<u32>,
    scale: f32,
    /// The sum of the rounded elements times the scale.
    sum: f32,
}

//# use weights
//# use prologue

/// Elements of a token that are prepared at once.
const PIECE: u32 = 7168u;
const UNITS: u32 = 224u;
/// Distance between quarters of the units; the gap puts threads that write quarters of a unit into different memory
/// banks.
const QUARTER: u32 = 228u;

/// [4, QUARTER]: eight elements of each unit, in the order of the weights' codes: `pack_codes`.
var<workgroup> rounded: array<vec2<u32>, 912>;
/// [UNITS]: a unit's scale, and the scale times the sum of its elements.
var<workgroup> rounded_scales: array<vec2<f32>, UNITS>;

/// Eight elements.
struct Eight {
    low: vec4<f32>,
    high: vec4<f32>,
}

/// Elements `k ..` of `token` after the gate and before the norm.
fn eight_gated(p: Prologue, token: u32, k: u32) -> Eight {
    let at = (token * p.input_stride + p.input_offset + k) / 4u;
    var low = input[at];
    var high = input[at + 1u];
    if p.kind == PROLOGUE_PART_SIGMOID {
        let four = vec4(k) + vec4(0u, 1u, 2u, 3u);
        low *= four_gate_factors(p, token, four);
        high *= four_gate_factors(p, token, four + 4u);
    } else if is_gated(p) {
        let at = (token * p.gate_stride + p.gate_offset + k) / 4u;
        low *= four_factors(p, gate[at]);
        high *= four_factors(p, gate[at + 1u]);
    }
    return Eight(low, high);
}

/// Applies the norm's weight, bias and factors, and a gate after the norm, to elements `k ..` of `token`.
fn eight_weighted(p: Prologue, token: u32, value: Eight, k: u32) -> Eight {
    var low = value.low;
    var high = value.high;
    if needs_scales(p) {
        // Groups have at least eight elements, so these belong to at most two.
        let width = p.cols / p.groups;
        let group = k / width;
        let next = min(group + 1u, p.groups - 1u);
        let rest = vec4((group + 1u) * width - k);
        let in_next_low = vec4(0u, 1u, 2u, 3u) >= rest;
        let in_next_high = vec4(4u, 5u, 6u, 7u) >= rest;
        if is_centred(p) {
            low -= select(vec4(means[group]), vec4(means[next]), in_next_low);
            high -= select(vec4(means[group]), vec4(means[next]), in_next_high);
        }
        low *= select(vec4(scales[group]), vec4(scales[next]), in_next_low);
        high *= select(vec4(scales[group]), vec4(scales[next]), in_next_high);
    }
    if p.weight != ABSENT {
        let at = (p.weight + k) / 4u;
        low *= vectors[at];
        high *= vectors[at + 1u];
    }
    if p.bias != ABSENT {
        let at = (p.bias + k) / 4u;
        low += vectors[at];
        high += vectors[at + 1u];
    }
    //# when head_rows
    let at = (token * p.gate_stride + p.gate_offset + k) / 4u;
    low *= four_sigmoid(gate[at]);
    high *= four_sigmoid(gate[at + 1u]);
    //# end
    return Eight(low, high);
}

/// Rounds item `item`: eight elements, a quarter of a unit whose other quarters the three neighbouring threads have.
/// Writes the item if it is one of the piece's `count`.
fn round_item(value: Eight, item: u32, count: u32, ids: Ids) {
    let a = max(abs(value.low), abs(value.high));
    let largest = max_of_four(max(max(a.x, a.y), max(a.z, a.w)), ids);
    let inverse = select(0.0, 127.0 / largest, largest > 1e-30);
    let words = pack_codes(vec4<i32>(round(value.low * inverse)), vec4<i32>(round(value.high * inverse)));
    let sum = sum_of_four(dot4I8Packed(words.x, 0x01010101u) + dot4I8Packed(words.y, 0x01010101u), ids);
    if item < count {
        rounded[item % 4u * QUARTER + item / 4u] = words;
        if item % 4u == 0u {
            let scale = largest / 127.0;
            rounded_scales[item / 4u] = vec2(scale, scale * f32(sum));
        }
    }
}

/// Prepares elements `base .. base + PIECE` of `token`. `squares` is this thread's sum of squares so far; returns the
/// new one. Afterwards `total` is that of all threads.
fn fill_piece(p: Prologue, token: u32, base: u32, squares: f32, ids: Ids) -> f32 {
    let thread = thread_of(ids);
    let count = min(p.cols - base, PIECE) / 8u;
    var sum = squares;
    // Wait until all threads have read the previous piece.
    workgroupBarrier();
    // Two items per turn, so that their loads overlap.
    for (var start = 0u; start < count; start += 2u * THREADS) {
        let first = start + thread;
        let second = first + THREADS;
        let k = base + min(first, count - 1u) * 8u;
        let l = base + min(second, count - 1u) * 8u;
        let a = eight_gated(p, token, k);
        let b = eight_gated(p, token, l);
        sum += select(0.0, dot(a.low, a.low) + dot(a.high, a.high), first < count);
        sum += select(0.0, dot(b.low, b.low) + dot(b.high, b.high), second < count);
        let c = eight_weighted(p, token, a, k);
        let d = eight_weighted(p, token, b, l);
        round_item(c, first, count, ids);
        if start + THREADS < count {
            round_item(d, second, count, ids);
        }
    }
    give_total(sum, ids);
    workgroupBarrier();
    return sum;
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

/// The products of four rows with the prepared `token`, returned to each of the `lanes` threads that share them.
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
        squares = fill_piece(p, token, base, squares, ids);
        let first = base / UNIT;
        let units = min(p.cols - base, PIECE) / UNIT;
        for (var unit = lane; unit < units; unit += lanes) {
            let raw = next;
            // The next unit of this piece, or the first of the next piece.
            let then = select(first + unit + lanes, first + units + lane, unit + lanes >= units);
            if then < all_units {
                next = load_rows(m, rows, then);
            }
            sum += dot_rows(m, raw, unit_of_piece(unit));
        }
    }
    sum = sum_over(sum, ids, lanes);
    if has_late_factor(p) {
        sum *= norm_factor(p, total(ids), p.cols);
    }
    return sum;
}
