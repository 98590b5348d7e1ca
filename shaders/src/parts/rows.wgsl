// Products of rows of weights with one token: the form for few tokens. A workgroup makes a piece of the token ready in its
// memory; then `lanes` threads multiply four rows, whose weights they stream, with it.
//# when f32
//# use rows_f32
//# when int8
//# use rows_int8
//# end

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
