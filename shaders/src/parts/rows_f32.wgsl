// A piece of a token in `f32`.
//# use weights
//# use prologue

/// Elements of a token that are made ready at once.
const PIECE: u32 = 1024u;

/// The piece, four elements each; a gap after every eight keeps threads that read units apart in memory's banks.
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

/// Makes elements `base .. base + PIECE` of `token` ready, zeros behind the last; gives this thread's sum of squares.
fn fill_piece(p: Prologue, token: u32, base: u32, ids: Ids) -> f32 {
    let thread = thread_of(ids);
    var squares = 0.0;
    // All have read the piece before.
    workgroupBarrier();
    for (var quad = thread; quad < PIECE / 4u; quad += THREADS) {
        var value = vec4(0.0);
        for (var i = 0u; i < 4u; i += 1u) {
            let k = base + quad * 4u + i;
            if k < p.cols {
                let raw = gated(p, token, k);
                squares += raw * raw;
                value[i] = weighted(p, raw, k);
            }
        }
        piece[piece_at(quad)] = value;
    }
    workgroupBarrier();
    return squares;
}

/// This lane's share of the products of four rows with the piece that begins at `base` and of which `len` elements count.
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

/// The products of four rows with the prepared `token`; each of the `lanes` neighbours that share them gets them.
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
