// A lane's part of the products of rows of `moe_down` with h of all experts.

//# when f32
/// This lane's part of the products of four rows with the `cols` elements of h from `column` on.
fn share(m: Matrix, rows: vec4<u32>, token: u32, column: u32, cols: u32, ids: Ids) -> vec4<f32> {
    let p = Prologue(PROLOGUE_NONE, cols, column, params.input_stride, 0u, 0u, ABSENT, ABSENT, 1u, 0.0);
    var sum = vec4(0.0);
    for (var base = 0u; base < cols; base += PIECE) {
        _ = fill_piece(p, token, base, ids);
        sum += multiply_piece(m, rows, base, cols - base, thread_of(ids) % params.lanes, params.lanes);
    }
    return sum;
}

/// This lane's part of the products of four rows with h of all experts.
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
    /// The expert's weight; 0 if its rows are in another piece.
    weight: f32,
}

/// The unit of the rows for element `k` of h, of which the first `chosen` belong to the chosen experts.
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

/// This lane's part of the products of four rows with h of all experts. One loop passes over all of h: a unit's index
/// tells its expert.
fn shares(rows: vec4<u32>, token: u32, ids: Ids) -> vec4<f32> {
    let lane = thread_of(ids) % params.lanes;
    let chosen = params.places * params.inner;
    // Without the chosen experts, only h of the shared one.
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
