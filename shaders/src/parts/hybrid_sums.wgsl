// What keys that leave the window become part of: the hierarchy of means, and the linear memory.

//# when fold recall
//# use compensated
const THREADS: u32 = 64u;

//# when fold
/// Element `i` of key, value and score at position `j`.
fn record_element(j: u32, i: u32) -> f32 {
    if i == 2u * params.dim {
        return score_at(j);
    }
    return element_at(j, i);
}

/// Index of element `i` of key, value and score in row `row` of the state.
fn state_at(row: u32, i: u32) -> u32 {
    if i == 2u * params.dim {
        return base + params.scores + row;
    }
    return pair_at(row, i);
}

// A thread takes an element of a key/value head through the run's tokens.
@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    step = runs[group.z];
    set_head(group.x);
    let i = group.y * THREADS + thread;
    if i > 2u * params.dim {
        return;
    }
    let first = first_position();
    let open = vec2(state_at(params.open_row, i), state_at(params.open_row + 1u, i));
    var sum = vec2(state[open.x], state[open.y]);
    for (var t = 0u; t < step.tokens; t += 1u) {
        let position = step.position + t;
        if position < params.window || position - params.window < first {
            continue;
        }
        let j = position - params.window;
        sum = add_to(sum, record_element(j, i));
        if (j + 1u) % params.block != 0u {
            continue;
        }
        var mean = (sum.x + sum.y) / f32(params.block);
        sum = vec2(0.0);
        var block = j / params.block;
        for (var level = 0u; level < params.mean_levels; level += 1u) {
            let done = complete_blocks(level, step.position);
            if is_direct() {
                state[state_at(mean_row(level, block), i)] = mean;
            } else {
                work[record_at(level, block) + i] = mean;
            }
            if block % 2u == 0u {
                break;
            }
            // The block of the next level is this one and the one before it.
            var other = 0.0;
            if block > done && !is_direct() {
                other = work[record_at(level, block - 1u) + i];
            } else {
                other = state[state_at(mean_row(level, block - 1u), i)];
            }
            mean = 0.5 * (mean + other);
            block /= 2u;
        }
    }
    state[open.x] = sum.x;
    state[open.y] = sum.y;
}

//# when recall
/// elu(x) + 1. The subtraction would cancel.
fn feature(x: f32) -> f32 {
    return select(exp(min(x, 0.0)), x + 1.0, x > 0.0);
}

/// The features of element `i` of four query heads from `head` on, of which there are `count`.
fn query_features(t: u32, head: u32, count: u32, i: u32) -> vec4<f32> {
    var features = vec4(0.0);
    for (var h = 0u; h < min(4u, count); h += 1u) {
        features[h] = feature(query(t, head + h, i));
    }
    return features;
}

// A thread takes a column of a head's memory through the run's tokens; the last column is the sum of weights.
@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    step = runs[group.z];
    set_head(group.x);
    let column = group.y * THREADS + thread;
    let width = params.dim + 1u;
    if column >= width {
        return;
    }
    let first = first_position();
    let sharing = params.heads / params.kv_heads;
    for (var t = 0u; t < step.tokens; t += 1u) {
        let position = step.position + t;
        if position < params.window || position - params.window < first {
            continue;
        }
        let j = position - params.window;
        var value = 1.0;
        if column < params.dim {
            value = element_at(j, params.dim + column);
        }
        for (var head = 0u; head < sharing; head += 4u) {
            var sums = vec4(0.0);
            for (var i = 0u; i < params.dim; i += 1u) {
                let at = base + params.memory + i * width + column;
                let rest = at + params.dim * width;
                var held = vec2(state[at], state[rest]);
                if head == 0u {
                    held = add_to(held, feature(element_at(j, i)) * value);
                    state[at] = held.x;
                    state[rest] = held.y;
                }
                if position >= params.dilated_until {
                    let features = query_features(t, kv * sharing + head, sharing - head, i);
                    sums += features * (held.x + held.y);
                }
            }
            if position < params.dilated_until {
                break;
            }
            for (var h = 0u; h < min(4u, sharing - head); h += 1u) {
                let number = (step.start + t) * params.heads + kv * sharing + head + h;
                work[params.recalled + number * width + column] = sums[h];
            }
        }
    }
}
//# end
