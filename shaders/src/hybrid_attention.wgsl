// `hybrid_attention`: softmax attention over a bounded number of keys, chosen by the position of the query, and a linear memory of all that
// have left the window. The state of a key/value head is a table of keys, values and scores, then a few numbers, then the linear memory; see
// the op. Positions are u32: up to 2^32.
//
// Dispatches: `choose`, the global keys of each token; `fold`, the means of blocks that become complete; `recall`, the linear memory, and what
// each token reads in it; `attend`, softmax and mixture; `move`, what goes to another place of the state; `append`, the run's keys. What a
// query reads is written after it was read.
//# kernel HybridChoose choose: the keys with the largest scores, for each token
//# kernel HybridFold fold: the hierarchy of means
//# kernel HybridRecall recall: the linear memory
//# kernel HybridAttend attend reduce: attention of a token
//# kernel HybridMove move: keys that leave the ring, chosen keys and means go to their places
//# kernel HybridAppend append: the run's keys go to the ring
//# use runs

struct Params {
    heads: u32,
    kv_heads: u32,
    dim: u32,
    /// First columns and strides of the inputs. There may be no scores: `ABSENT`.
    query_start: u32,
    query_stride: u32,
    key_start: u32,
    key_stride: u32,
    value_start: u32,
    value_stride: u32,
    score_start: u32,
    score_stride: u32,
    output_stride: u32,
    scale: f32,
    eps: f32,
    /// 0.
    zero: u32,
    /// The tiers.
    window: u32,
    full_until: u32,
    dilated_until: u32,
    linear_until: u32,
    levels: u32,
    global_first: u32,
    global_top: u32,
    block: u32,
    mean_levels: u32,
    mean_width: u32,
    /// The state: rows of the ring of keys, and of a ring of means; first rows of the parts of the table.
    ring: u32,
    mean_ring: u32,
    first_row: u32,
    top_row: u32,
    mean_row: u32,
    open_row: u32,
    /// First elements of values, scores, and what follows.
    values: u32,
    scores: u32,
    positions: u32,
    seen: u32,
    memory: u32,
    head_state: u32,
    /// Most tokens of a run whose means go directly to the state.
    direct: u32,
    /// Most tokens of a step; first elements of the parts of `work`.
    chunk: u32,
    means: u32,
    recalled: u32,
}

@group(0) @binding(_) var<uniform> params: Params;

// What a slot of a chosen key holds, in the list of a token: nothing, what the state holds, or the key that leaves the window at a token of
// the run.
const NONE: u32 = 0u;
const HELD: u32 = 1u;
const LEAVING: u32 = 2u;

/// The key/value head of the workgroup, and the beginning of its state: `main` sets them.
var<private> kv: u32;
var<private> base: u32;

fn set_head(number: u32) {
    kv = number;
    base = step.slot * 4u + number * params.head_state;
}

//# when choose attend
/// The states of all heads; see the op.
@group(0) @binding(_) var<storage, read> state: array<f32>;

//# when fold recall move append
/// The states of all heads; see the op.
@group(0) @binding(_) var<storage, read_write> state: array<f32>;

//# when choose fold recall
/// Chosen keys, [T, kv_heads, global_top]; means by level, [blocks, kv_heads, 2 dim + 1]; what is read in the linear memory, with the sum of
/// weights, [T, heads, dim + 1].
@group(0) @binding(_) var<storage, read_write> work: array<f32>;

//# when attend move
/// Chosen keys, [T, kv_heads, global_top]; means by level, [blocks, kv_heads, 2 dim + 1]; what is read in the linear memory, with the sum of
/// weights, [T, heads, dim + 1].
@group(0) @binding(_) var<storage, read> work: array<f32>;

//# when recall attend
/// [T, query_stride].
@group(0) @binding(_) var<storage, read> query_input: array<f32>;

/// Element `i` of query head `head` of token `t` of the run.
fn query(t: u32, head: u32, i: u32) -> f32 {
    return query_input[(step.start + t) * params.query_stride + params.query_start + head * params.dim + i];
}

//# when fold recall attend move append
/// [T, key_stride].
@group(0) @binding(_) var<storage, read> key_input: array<f32>;
/// [T, value_stride].
@group(0) @binding(_) var<storage, read> value_input: array<f32>;

//# when choose fold attend move append
/// [T, score_stride].
@group(0) @binding(_) var<storage, read> score_input: array<f32>;

/// The score of token `t` of the run.
fn own_score(t: u32) -> f32 {
    if params.score_start == ABSENT {
        return 0.0;
    }
    return score_input[(step.start + t) * params.score_stride + params.score_start + kv];
}

/// The score in row `row` of the state.
fn held_score(row: u32) -> f32 {
    return state[base + params.scores + row];
}

/// The score at position `j`, which is the run's or still in the ring.
fn score_at(j: u32) -> f32 {
    if j >= step.position {
        return own_score(j - step.position);
    }
    return held_score(j % params.ring);
}

//# when fold recall attend move append
/// Element `i` of the key, then the value of token `t` of the run.
fn own_pair(t: u32, i: u32) -> f32 {
    if i < params.dim {
        return key_input[(step.start + t) * params.key_stride + params.key_start + kv * params.dim + i];
    }
    return value_input[(step.start + t) * params.value_stride + params.value_start + kv * params.dim + i - params.dim];
}

/// Index of element `i` of the key, then the value in row `row` of the state.
fn pair_at(row: u32, i: u32) -> u32 {
    if i < params.dim {
        return base + row * params.dim + i;
    }
    return base + params.values + row * params.dim + i - params.dim;
}

/// Element `i` of the key, then the value at position `j`, which is the run's or still in the ring.
fn element_at(j: u32, i: u32) -> f32 {
    if j >= step.position {
        return own_pair(j - step.position, i);
    }
    return state[pair_at(j % params.ring, i)];
}

//# when choose fold recall attend move append
/// A whole number in two numbers of at most 16 bits.
fn pair_of(at: u32) -> u32 {
    return u32(state[at]) * 65536u + u32(state[at + 1u]);
}

/// The first position of the sequence.
fn first_position() -> u32 {
    return step.position - min(step.position, pair_of(base + params.seen));
}

/// Index of the code of a chosen key of token `t` of the run.
fn code_at(t: u32, slot: u32) -> u32 {
    return ((step.start + t) * params.kv_heads + kv) * params.global_top + slot;
}

//# when fold attend move
/// Positions of a block of a level of the hierarchy.
fn block_size(level: u32) -> u32 {
    return select(params.block << level, ABSENT, params.block > (ABSENT >> level));
}

/// Complete blocks of a level, if the sequence has `tokens` tokens.
fn complete_blocks(level: u32, tokens: u32) -> u32 {
    return (tokens - min(tokens, params.window)) / block_size(level);
}

/// Whether the means of blocks that become complete in the run go directly to the state. Its rings have room for them besides those that the
/// first query sees.
fn is_direct() -> bool {
    return step.tokens <= params.direct;
}

/// Index of the record of a block that became complete in the run. Its place among those of its level follows from the row of the step at
/// which that was, and from the number of runs before, of which each has more tokens than are direct.
fn record_at(level: u32, block: u32) -> u32 {
    let size = block_size(level);
    let token = (block + 1u) * size + params.window - 1u - step.position;
    var place = (step.start + token) / size + step.start / (params.direct + 1u);
    for (var l = 0u; l < level; l += 1u) {
        place += params.chunk / block_size(l) + params.chunk / (params.direct + 1u) + 2u;
    }
    return params.means + (place * params.kv_heads + kv) * (2u * params.dim + 1u);
}

/// The row of a block's mean in the state.
fn mean_row(level: u32, block: u32) -> u32 {
    return params.mean_row + level * params.mean_ring + block % params.mean_ring;
}

//# when attend move
/// The distances, from the first to before the second, of the dilated keys of a level.
fn dilated(level: u32) -> vec2<u32> {
    return vec2(reach(level - 1u), reach(level));
}

fn reach(level: u32) -> u32 {
    return select(params.window << level, params.dilated_until, params.window > (params.dilated_until >> level));
}

/// First row and number of rows of the ring of a dilated level.
fn level_ring(level: u32) -> vec2<u32> {
    var first = params.ring;
    var count = 0u;
    for (var l = 1u; l <= level; l += 1u) {
        first += count;
        let far = reach(l);
        let distances = far - min(far, params.ring + 1u);
        count = (distances >> l) + select(0u, 1u, (distances & ((1u << l) - 1u)) != 0u);
    }
    return vec2(first, count);
}

//# when choose
// A workgroup takes a key/value head through the run's tokens.
const THREADS: u32 = 64u;
/// Most chosen keys.
const MOST_TOP: u32 = 1024u;

/// [MOST_TOP]: rounded scores, positions and codes of the chosen keys.
var<workgroup> slot_scores: array<f32, MOST_TOP>;
var<workgroup> slot_positions: array<u32, MOST_TOP>;
var<workgroup> slot_codes: array<u32, MOST_TOP>;
/// [THREADS]: the slot that each thread would give up.
var<workgroup> offered: array<u32, THREADS>;

/// floor(1024 s + 0.5), exactly.
fn rounded(score: f32) -> f32 {
    let steps = 1024.0 * score;
    let below = floor(steps);
    return below + select(0.0, 1.0, steps - below >= 0.5);
}

/// Of two slots, or of one and `ABSENT`, the one to give up: the first empty one, or that with the smaller score, or the later one.
fn worse(a: u32, b: u32) -> u32 {
    if a == ABSENT || b == ABSENT {
        return min(a, b);
    }
    let empty = vec2(slot_codes[a] == NONE, slot_codes[b] == NONE);
    if empty.x && empty.y {
        return min(a, b);
    }
    if empty.x || empty.y {
        return select(b, a, empty.x);
    }
    if slot_scores[a] != slot_scores[b] {
        return select(b, a, slot_scores[a] < slot_scores[b]);
    }
    return select(b, a, slot_positions[a] > slot_positions[b]);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    step = runs[group.z];
    set_head(group.x);
    let count = runs[group.z].tokens;
    let first = first_position();
    let outside = step.position - min(step.position, params.window);
    let gone = outside - min(outside, first);
    for (var slot = thread; slot < params.global_top; slot += THREADS) {
        slot_codes[slot] = NONE;
        if slot < gone {
            slot_codes[slot] = HELD;
            slot_scores[slot] = rounded(held_score(params.top_row + slot));
            slot_positions[slot] = pair_of(base + params.positions + 2u * slot);
        }
    }
    workgroupBarrier();
    for (var t = 0u; t < count; t += 1u) {
        var own = ABSENT;
        for (var slot = thread; slot < params.global_top; slot += THREADS) {
            own = worse(own, slot);
        }
        offered[thread] = own;
        workgroupBarrier();
        for (var distance = THREADS / 2u; distance > 0u; distance /= 2u) {
            if thread < distance {
                offered[thread] = worse(offered[thread], offered[thread + distance]);
            }
            workgroupBarrier();
        }
        let position = step.position + t;
        if thread == 0u && position >= params.window && position - params.window >= first {
            let j = position - params.window;
            let slot = offered[0];
            let score = rounded(score_at(j));
            if slot_codes[slot] == NONE || score > slot_scores[slot] {
                slot_codes[slot] = LEAVING + t;
                slot_scores[slot] = score;
                slot_positions[slot] = j;
            }
        }
        workgroupBarrier();
        for (var slot = thread; slot < params.global_top; slot += THREADS) {
            work[code_at(t, slot)] = f32(slot_codes[slot]);
        }
    }
}

//# when fold recall
//# use hybrid_sums

//# when attend
//# use hybrid_attend

//# when move append
// A workgroup takes a token of a key/value head.
const THREADS: u32 = 64u;

/// Copies the key, value and score at position `j` to row `row` of the state.
fn copy_key(j: u32, row: u32, thread: u32) {
    for (var i = thread; i < 2u * params.dim; i += THREADS) {
        state[pair_at(row, i)] = element_at(j, i);
    }
    if thread == 0u {
        state[base + params.scores + row] = score_at(j);
    }
}

fn set_pair(at: u32, value: u32) {
    state[at] = f32(value / 65536u);
    state[at + 1u] = f32(value % 65536u);
}

//# when move
@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    step = runs[group.z];
    set_head(group.x);
    let t = group.y;
    if t >= step.tokens {
        return;
    }
    let position = step.position + t;
    let end = step.position + step.tokens;
    let first = first_position();
    // A key that leaves the ring, unless a later one of the run takes its place, or no later token sees it.
    if position >= params.ring && position - params.ring >= first && end < params.dilated_until {
        let j = position - params.ring;
        for (var level = 1u; level <= params.levels; level += 1u) {
            let ring = level_ring(level);
            let multiple = (j & ((1u << level) - 1u)) == 0u;
            if multiple && ring.y > 0u && end - position <= (ring.y << level) {
                copy_key(j, ring.x + (j >> level) % ring.y, thread);
            }
        }
    }
    if position < params.global_first {
        copy_key(position, params.first_row + position, thread);
    }
    if position >= params.window && position - params.window >= first {
        let j = position - params.window;
        for (var slot = 0u; slot < params.global_top; slot += 1u) {
            if u32(work[code_at(step.tokens - 1u, slot)]) == LEAVING + t {
                copy_key(j, params.top_row + slot, thread);
                if thread == 0u {
                    set_pair(base + params.positions + 2u * slot, j);
                }
            }
        }
    }
    for (var level = 0u; level < params.mean_levels && !is_direct(); level += 1u) {
        let complete = complete_blocks(level, position + 1u);
        let last = complete_blocks(level, end);
        if complete == complete_blocks(level, position) || last - complete >= params.mean_ring {
            continue;
        }
        let block = complete - 1u;
        let record = record_at(level, block);
        let row = mean_row(level, block);
        for (var i = thread; i < 2u * params.dim; i += THREADS) {
            state[pair_at(row, i)] = work[record + i];
        }
        if thread == 0u {
            state[base + params.scores + row] = work[record + 2u * params.dim];
        }
    }
}

//# when append
@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    step = runs[group.z];
    set_head(group.x);
    let t = group.y;
    if t >= step.tokens {
        return;
    }
    let position = step.position + t;
    if step.tokens - t <= params.ring {
        copy_key(position, position % params.ring, thread);
    }
    if thread == 0u && t + 1u == step.tokens {
        set_pair(base + params.seen, position + 1u - first_position());
    }
}
