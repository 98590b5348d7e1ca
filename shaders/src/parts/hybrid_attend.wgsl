// Attention of a token of `hybrid_attention`: the spans of keys that its position sees, the softmax over them, and the mixture with the linear
// memory.

//# use math
//# use reduce
// A workgroup takes the query heads of a key/value head of a token, four at a time, over all keys that they see.
const THREADS: u32 = 128u;
/// Widest head.
const MOST_DIM: u32 = 512u;
/// Elements of a value per thread.
const HELD_ELEMENTS: u32 = 4u;
/// Most spans of keys: window, first ones, chosen ones, levels.
const MOST_SPANS: u32 = 72u;
/// No score yet: finite, so that differences stay defined.
const LOWEST: f32 = -1e30;

/// The share of the linear memory before its sigmoid, [heads].
@group(0) @binding(_) var<storage, read> vectors: array<f32>;
/// [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

// Kinds of spans, and of where a key lies.
const BY_POSITION: u32 = 0u;
const FIRST: u32 = 1u;
const CHOSEN: u32 = 2u;
const MEANS: u32 = 3u;
const OWN: u32 = 0u;
const STATE: u32 = 1u;
const WORK: u32 = 2u;

/// Keys that are numbered together.
struct Span {
    kind: u32,
    /// Position of the first key, or number of the first block.
    first: u32,
    /// Of dilated keys and of means.
    level: u32,
    count: u32,
}

/// [MOST_SPANS].
var<workgroup> spans: array<Span, MOST_SPANS>;
var<workgroup> span_count: u32;
var<workgroup> key_count: u32;
/// [MOST_DIM]: four query heads.
var<workgroup> queries: array<vec4<f32>, MOST_DIM>;
/// [THREADS]: the weights of four query heads for the keys of a turn, and where these lie.
var<workgroup> weights: array<vec4<f32>, THREADS>;
var<workgroup> places: array<vec2<u32>, THREADS>;

fn add_span(kind: u32, first: u32, level: u32, count: u32) {
    if count > 0u && span_count < MOST_SPANS {
        spans[span_count] = Span(kind, first, level, count);
        span_count += 1u;
        key_count += count;
    }
}

/// Lists what the query at position `t` sees.
fn find_spans(t: u32) {
    span_count = 0u;
    key_count = 0u;
    let first = first_position();
    if t < params.full_until {
        add_span(BY_POSITION, first, 0u, t + 1u - first);
        return;
    }
    let oldest = t + 1u - min(t + 1u, params.window);
    let start = max(oldest, first);
    add_span(BY_POSITION, start, 0u, t + 1u - start);
    let firsts = min(params.global_first, oldest);
    add_span(FIRST, first, 0u, firsts - min(firsts, first));
    if t < params.dilated_until {
        for (var level = 1u; level <= params.levels; level += 1u) {
            let distances = dilated(level);
            if t < distances.x {
                break;
            }
            let last = t - distances.x;
            let mask = (1u << level) - 1u;
            let lowest = max(max(t + 1u - min(t + 1u, distances.y), first), params.global_first);
            let lowest_multiple = (lowest + mask) & ~mask;
            if lowest_multiple <= last {
                add_span(BY_POSITION, lowest_multiple, level, ((last - lowest_multiple) >> level) + 1u);
            }
        }
    }
    add_span(CHOSEN, 0u, 0u, params.global_top);
    if t >= params.linear_until {
        for (var level = 0u; level < params.mean_levels; level += 1u) {
            let size = block_size(level);
            let complete = oldest / size;
            let whole = first / size + select(0u, 1u, first % size != 0u);
            let lowest = max(complete - min(complete, params.mean_width), whole);
            add_span(MEANS, lowest, level, complete - min(complete, lowest));
        }
    }
}

/// Whether the query at `t` sees the key at `j`, which is outside its window, as a first or as a dilated one.
fn sees_anyway(t: u32, j: u32) -> bool {
    if j < params.global_first {
        return true;
    }
    if t < params.dilated_until {
        for (var level = 1u; level <= params.levels; level += 1u) {
            let distances = dilated(level);
            if t - j >= distances.x && t - j < distances.y {
                return (j & ((1u << level) - 1u)) == 0u;
            }
        }
    }
    return false;
}

/// Where the key at `j` lies, of a dilated level or level 0.
fn place_of(j: u32, level: u32) -> vec2<u32> {
    if j >= step.position {
        return vec2(OWN, j - step.position);
    }
    if level > 0u && step.position - j > params.ring {
        let ring = level_ring(level);
        return vec2(STATE, ring.x + (j >> level) % ring.y);
    }
    return vec2(STATE, j % params.ring);
}

/// Where key number `number` of those that token `t` of the run sees lies; `ABSENT` if it is seen already.
fn find_key(t: u32, number: u32) -> vec2<u32> {
    var n = number;
    var index = 0u;
    while n >= spans[index].count {
        n -= spans[index].count;
        index += 1u;
    }
    let span = spans[index];
    if span.kind == BY_POSITION {
        return place_of(span.first + (n << span.level), span.level);
    }
    if span.kind == FIRST {
        let j = span.first + n;
        if j < step.position {
            return vec2(STATE, params.first_row + j);
        }
        return vec2(OWN, j - step.position);
    }
    if span.kind == CHOSEN {
        let code = u32(work[code_at(t, n)]);
        if code == NONE {
            return vec2(ABSENT);
        }
        var place = vec2(STATE, params.top_row + n);
        var j = 0u;
        if code == HELD {
            j = pair_of(base + params.positions + 2u * n);
        } else {
            j = step.position + (code - LEAVING) - params.window;
            place = place_of(j, 0u);
        }
        return select(place, vec2(ABSENT), sees_anyway(step.position + t, j));
    }
    let block = span.first + n;
    let done = complete_blocks(span.level, step.position);
    if block < done || is_direct() {
        return vec2(STATE, mean_row(span.level, block));
    }
    return vec2(WORK, record_at(span.level, block));
}

/// Element `i` of the key, then the value at a place.
fn element_of(place: vec2<u32>, i: u32) -> f32 {
    if place.x == OWN {
        return own_pair(place.y, i);
    }
    if place.x == STATE {
        return state[pair_at(place.y, i)];
    }
    return work[place.y + i];
}

fn score_of(place: vec2<u32>) -> f32 {
    if place.x == OWN {
        return own_score(place.y);
    }
    if place.x == STATE {
        return held_score(place.y);
    }
    return work[place.y + 2u * params.dim];
}

@compute @workgroup_size(THREADS)
//# use main
    step = runs[group.z];
    set_head(group.x);
    let thread = thread_of(ids);
    let t = group.y;
    // Other runs of the dispatch may be longer.
    let row = min(t, max(step.tokens, 1u) - 1u);
    let position = step.position + row;
    let sharing = params.heads / params.kv_heads;
    if thread == 0u {
        find_spans(position);
    }
    workgroupBarrier();
    let keys = workgroupUniformLoad(&key_count);
    let left = position >= params.window && position - params.window >= first_position();
    let mixed = position >= params.dilated_until && left;
    for (var head = 0u; head < sharing; head += 4u) {
        for (var i = thread; i < params.dim; i += THREADS) {
            var own = vec4(0.0);
            for (var h = 0u; h < min(4u, sharing - head); h += 1u) {
                own[h] = params.scale * query(row, kv * sharing + head + h, i);
            }
            queries[i] = own;
        }
        workgroupBarrier();
        var largest = vec4(LOWEST);
        var total = vec4(0.0);
        var sums: array<vec4<f32>, HELD_ELEMENTS>;
        for (var e = 0u; e < HELD_ELEMENTS; e += 1u) {
            sums[e] = vec4(0.0);
        }
        for (var first = 0u; first < keys; first += THREADS) {
            var logits = vec4(LOWEST);
            var place = vec2(ABSENT);
            if first + thread < keys {
                place = find_key(row, first + thread);
                if place.x != ABSENT {
                    logits = vec4(score_of(place));
                    for (var i = 0u; i < params.dim; i += 1u) {
                        logits += queries[i] * element_of(place, i);
                    }
                }
            }
            let next = max(largest, largest_over(logits, ids, THREADS));
            let weight = select(exp(logits - next), vec4(0.0), logits == vec4(LOWEST));
            let keep = exp(largest - next);
            largest = next;
            total = keep * total + weight;
            weights[thread] = weight;
            places[thread] = place;
            workgroupBarrier();
            for (var e = 0u; e < HELD_ELEMENTS; e += 1u) {
                let i = e * THREADS + thread;
                if i < params.dim {
                    var sum = keep * sums[e];
                    for (var k = 0u; k < min(THREADS, keys - first); k += 1u) {
                        if places[k].x != ABSENT {
                            sum += weights[k] * element_of(places[k], params.dim + i);
                        }
                    }
                    sums[e] = sum;
                }
            }
            workgroupBarrier();
        }
        total = sum_over(total, ids, THREADS);
        for (var h = 0u; h < min(4u, sharing - head) && t < step.tokens; h += 1u) {
            let number = kv * sharing + head + h;
            let recalled = params.recalled + ((step.start + row) * params.heads + number) * (params.dim + 1u);
            let gate = sigmoid(vectors[number]);
            for (var e = 0u; e < HELD_ELEMENTS; e += 1u) {
                let i = e * THREADS + thread;
                if i < params.dim {
                    var value = sums[e][h] / total[h];
                    if mixed {
                        let memory = work[recalled + i] / (work[recalled + params.dim] + params.eps);
                        value = (1.0 - gate) * value + gate * memory;
                    }
                    output[(step.start + row) * params.output_stride + number * params.dim + i] = value;
                }
            }
        }
        workgroupBarrier();
    }
}
