// `moe_down`: x += scale * (sum over chosen experts of weight_e * D_e h_e + D h_shared).
//
// In `weights`, the rows of all D_e stand one behind the other; then, where it is stored alike, the shared expert's D.
//# use rows

/// Each `lanes` threads have four rows of x; y counts tokens.
const THREADS: u32 = 256u;

struct Params {
    /// First expert whose rows are in `weights`, and how many there are.
    first_expert: u32,
    experts: u32,
    /// Rows of D.
    rows: u32,
    /// Columns of D_e, and of D; the latter 0 where this dispatch doesn't compute it.
    inner: u32,
    shared_inner: u32,
    /// Experts of a token that this dispatch looks at: `top_k`, or 0 where it computes the shared expert alone.
    places: u32,
    top_k: u32,
    input_stride: u32,
    routes_stride: u32,
    output_stride: u32,
    /// Threads that share rows, a power of two.
    lanes: u32,
    scale: f32,
    @align(16) matrix: Matrix,
    @align(16) shared_matrix: Matrix,
}

@group(0) @binding(_) var<uniform> params: Params;
/// What `moe_route` wrote, [T, routes_stride].
@group(0) @binding(_) var<storage, read> routes: array<f32>;
/// x, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

//# when f32
/// This lane's share of the products of four rows with the `cols` elements of h from `column` on.
fn share(m: Matrix, rows: vec4<u32>, token: u32, column: u32, cols: u32, ids: Ids) -> vec4<f32> {
    let p = Prologue(PROLOGUE_NONE, cols, column, params.input_stride, 0u, 0u, ABSENT, ABSENT, 1u, 0.0);
    var sum = vec4(0.0);
    for (var base = 0u; base < cols; base += PIECE) {
        _ = fill_piece(p, token, base, ids);
        sum += multiply_piece(m, rows, base, cols - base, thread_of(ids) % params.lanes, params.lanes);
    }
    return sum;
}

/// This lane's share of the products of four rows with h of all experts.
fn shares(rows: vec4<u32>, token: u32, ids: Ids) -> vec4<f32> {
    var sum = vec4(0.0);
    for (var place = 0u; place < params.places; place += 1u) {
        let route = token * params.routes_stride + place;
        let expert = u32(routes[route]) - params.first_expert;
        if expert < params.experts {
            let own = share(params.matrix, rows + expert * params.rows, token, place * params.inner, params.inner, ids);
            sum += routes[route + params.top_k] * own;
        }
    }
    if params.shared_inner > 0u {
        sum += share(params.shared_matrix, rows, token, params.top_k * params.inner, params.shared_inner, ids);
    }
    return sum;
}
//# when int8
/// A unit of four rows of one of the experts.
struct Own {
    raw: RawRows,
    is_shared: bool,
    /// The expert's; 0 for one whose rows are elsewhere.
    weight: f32,
}

/// The rows' unit that meets element `k` of h, of which the first `chosen` are of the chosen experts.
fn load_own(rows: vec4<u32>, token: u32, k: u32, chosen: u32) -> Own {
    if k >= chosen {
        return Own(load_rows(params.shared_matrix, rows, (k - chosen) / UNIT), true, 1.0);
    }
    let place = k / params.inner;
    let route = token * params.routes_stride + place;
    let expert = u32(routes[route]) - params.first_expert;
    let there = expert < params.experts;
    let first = select(0u, expert, there) * params.rows;
    let weight = select(0.0, routes[route + params.top_k], there);
    return Own(load_rows(params.matrix, rows + first, (k - place * params.inner) / UNIT), false, weight);
}

/// This lane's share of the products of four rows with h of all experts. All of h passes in one loop: a unit of it tells whose
/// it is.
fn shares(rows: vec4<u32>, token: u32, ids: Ids) -> vec4<f32> {
    let lane = thread_of(ids) % params.lanes;
    let chosen = params.places * params.inner;
    // Without the chosen experts, h of the shared one alone.
    let column = select(0u, params.top_k * params.inner, params.places == 0u);
    let p = Prologue(PROLOGUE_NONE, chosen + params.shared_inner, column, params.input_stride, 0u, 0u, ABSENT, ABSENT, 1u, 0.0);
    var sum = vec4(0.0);
    var next = load_own(rows, token, min(lane * UNIT, p.cols - UNIT), chosen);
    for (var base = 0u; base < p.cols; base += PIECE) {
        _ = fill_piece(p, token, base, 0.0, ids);
        let units = min(p.cols - base, PIECE) / UNIT;
        for (var unit = lane; unit < units; unit += params.lanes) {
            let own = next;
            let then = base + select(unit + params.lanes, units + lane, unit + params.lanes >= units) * UNIT;
            if then < p.cols {
                next = load_own(rows, token, then, chosen);
            }
            if own.is_shared {
                sum += dot_rows(params.shared_matrix, own.raw, unit_of_piece(unit));
            } else {
                sum += own.weight * dot_rows(params.matrix, own.raw, unit_of_piece(unit));
            }
        }
    }
    return sum;
}
//# end

@compute @workgroup_size(THREADS)
fn main(ids: Ids) {
    let thread = thread_of(ids);
    let lane = thread % params.lanes;
    let token = step.start + ids.group.y;
    let first = (ids.group.x * (THREADS / params.lanes) + thread / params.lanes) * 4u;
    let rows = min(vec4(first) + vec4(0u, 1u, 2u, 3u), vec4(params.rows - 1u));
    var sum = shares(rows, token, ids);
    sum = sum_over(sum, ids, params.lanes);
    if lane < 4u && first + lane < params.rows {
        let at = token * params.output_stride + first + lane;
        output[at] += params.scale * sum[lane];
    }
}
