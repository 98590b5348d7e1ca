// A piece of a token in `f32`.
//# use weights
//# use prologue

/// Elements of a token that are prepared at once.
const PIECE: u32 = 1024u;

/// The piece, in vectors of four; a gap after every eight puts threads that read units into different memory banks.
var<workgroup> piece: array<vec4<f32>, 288>;

fn piece_at(quad: u32) -> u32 {
    return quad + quad / 8u;
}

fn unit_of_piece(unit: u32) -> Unit {
    var x: Unit;
    for (var i = 0u; i < UNIT / 4u; i += 1u) {
        x[i] = piece[piece_at(unit * (UNIT / 4u) + i)];
    }
    return x;
}

/// Four elements of `token` after the gate and before the norm.
fn four_gated(p: Prologue, token: u32, k: vec4<u32>) -> vec4<f32> {
    let at = k + token * p.input_stride + p.input_offset;
    var value = vec4(input[at.x], input[at.y], input[at.z], input[at.w]);
    if p.kind == PROLOGUE_PART_SIGMOID {
        value *= four_gate_factors(p, token, k);
    } else if is_gated(p) {
        let at = k + token * p.gate_stride + p.gate_offset;
        value *= four_factors(p, vec4(gate[at.x], gate[at.y], gate[at.z], gate[at.w]));
    }
    return value;
}

/// Applies the norm's weight, bias and factors, and a gate after the norm, to four elements.
fn four_weighted(p: Prologue, token: u32, value: vec4<f32>, k: vec4<u32>) -> vec4<f32> {
    var result = value;
    if needs_scales(p) {
        let group = k / (p.cols / p.groups);
        if is_centred(p) {
            result -= vec4(means[group.x], means[group.y], means[group.z], means[group.w]);
        }
        result *= vec4(scales[group.x], scales[group.y], scales[group.z], scales[group.w]);
    }
    if p.weight != ABSENT {
        let at = k + p.weight;
        result *= vec4(vectors[at.x], vectors[at.y], vectors[at.z], vectors[at.w]);
    }
    if p.bias != ABSENT {
        let at = k + p.bias;
        result += vec4(vectors[at.x], vectors[at.y], vectors[at.z], vectors[at.w]);
    }
    //# when head_rows
    let at = k + token * p.gate_stride + p.gate_offset;
    result *= four_sigmoid(vec4(gate[at.x], gate[at.y], gate[at.z], gate[at.w]));
    //# end
    return result;
}

/// Prepares elements `base .. base + PIECE` of `token`, zeros after the last; returns this thread's sum of squares.
fn fill_piece(p: Prologue, token: u32, base: u32, ids: Ids) -> f32 {
    let thread = thread_of(ids);
    var squares = 0.0;
    // Wait until all threads have read the previous piece.
    workgroupBarrier();
    for (var quad = thread; quad < PIECE / 4u; quad += THREADS) {
        let k = vec4(base + quad * 4u) + vec4(0u, 1u, 2u, 3u);
        let inside = k < vec4(p.cols);
        // Past the end, use the last element: without branches all loads overlap.
        let at = min(k, vec4(p.cols - 1u));
        let raw = select(vec4(0.0), four_gated(p, token, at), inside);
        squares += dot(raw, raw);
        piece[piece_at(quad)] = select(vec4(0.0), four_weighted(p, token, raw, at), inside);
    }
    workgroupBarrier();
    return squares;
}

/// This lane's part of the products of four rows with the piece at `base`, of which `len` elements count.
fn multiply_piece(m: Matrix, rows: vec4<u32>, base: u32, len: u32, lane: u32, lanes: u32) -> vec4<f32> {
    var sum = vec4(0.0);
    let first = base / UNIT;
    let units = (min(len, PIECE) + UNIT - 1u) / UNIT;
    for (var unit = lane; unit < units; unit += lanes) {
        let x = unit_of_piece(unit);
        sum += vec4(
            dot_unit(m, rows.x, first + unit, x),
            dot_unit(m, rows.y, first + unit, x),
            dot_unit(m, rows.z, first + unit, x),
            dot_unit(m, rows.w, first + unit, x),
        );
    }
    return sum;
}

/// The products of four rows with the prepared `token`, returned to each of the `lanes` threads that share them.
fn multiply_rows(m: Matrix, rows: vec4<u32>, p: Prologue, token: u32, lanes: u32, ids: Ids) -> vec4<f32> {
    if needs_scales(p) {
        find_scales(p, token, ids);
    }
    let lane = thread_of(ids) % lanes;
    var sum = vec4(0.0);
    var squares = 0.0;
    for (var base = 0u; base < p.cols; base += PIECE) {
        squares += fill_piece(p, token, base, ids);
        sum += multiply_piece(m, rows, base, p.cols - base, lane, lanes);
    }
    sum = sum_over(sum, ids, lanes);
    if has_late_factor(p) {
        let all = sum_over(vec4(squares, 0.0, 0.0, 0.0), ids, THREADS).x;
        sum *= norm_factor(p, all, p.cols);
    }
    return sum;
}
