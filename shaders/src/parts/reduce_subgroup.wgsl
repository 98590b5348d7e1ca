// Reductions within subgroups first, of any size, then through workgroup memory. Threads are numbered by subgroup and
// position in it, so that neighbouring numbers are in the same subgroup.

struct Ids {
    subgroup: u32,
    size: u32,
    lane: u32,
}

/// [THREADS]: the result of each subgroup; for sums in strides, at most one per thread.
var<workgroup> partials: array<vec4<f32>, THREADS>;

/// Number of the invocation in its workgroup.
fn thread_of(ids: Ids) -> u32 {
    return ids.subgroup * ids.size + ids.lane;
}

/// The sum over each `span` neighbouring threads (a power of two), returned to all of them.
fn sum_over(value: vec4<f32>, ids: Ids, span: u32) -> vec4<f32> {
    var sum = value;
    let near = min(span, ids.size);
    for (var distance = 1u; distance < near; distance *= 2u) {
        sum += subgroupShuffleXor(sum, distance);
    }
    if ids.size >= span {
        return sum;
    }
    let thread = thread_of(ids);
    if thread % near == 0u {
        partials[thread / near] = sum;
    }
    workgroupBarrier();
    let count = span / near;
    let first = thread / span * count;
    sum = partials[first];
    if count == 2u {
        sum += partials[first + 1u];
    } else if count > 2u {
        // Small subgroups leave many parts: add four per turn.
        sum = vec4(0.0);
        for (var i = first; i < first + count; i += 4u) {
            sum += (partials[i] + partials[i + 1u]) + (partials[i + 2u] + partials[i + 3u]);
        }
    }
    workgroupBarrier();
    return sum;
}

/// The sum over all threads with equal numbers modulo `stride` (a power of two), returned to all of them.
fn sum_strided(value: vec4<f32>, ids: Ids, stride: u32) -> vec4<f32> {
    var sum = value;
    for (var distance = stride; distance < ids.size; distance *= 2u) {
        sum += subgroupShuffleXor(sum, distance);
    }
    let thread = thread_of(ids);
    let near = max(ids.size, stride);
    if thread % near < stride {
        partials[thread / near * stride + thread % stride] = sum;
    }
    workgroupBarrier();
    sum = vec4(0.0);
    for (var i = thread % stride; i < THREADS / near * stride; i += stride) {
        sum += partials[i];
    }
    workgroupBarrier();
    return sum;
}

/// The maximum of each component over each `span` neighbouring threads.
fn largest_over(value: vec4<f32>, ids: Ids, span: u32) -> vec4<f32> {
    var largest = value;
    let near = min(span, ids.size);
    for (var distance = 1u; distance < near; distance *= 2u) {
        largest = max(largest, subgroupShuffleXor(largest, distance));
    }
    let thread = thread_of(ids);
    if thread % near == 0u {
        partials[thread / near] = largest;
    }
    workgroupBarrier();
    let count = span / near;
    let first = thread / span * count;
    for (var i = first; i < first + count; i += 1u) {
        largest = max(largest, partials[i]);
    }
    workgroupBarrier();
    return largest;
}

/// The maximum over each `span` neighbouring threads.
fn max_over(value: f32, ids: Ids, span: u32) -> f32 {
    var largest = value;
    let near = min(span, ids.size);
    for (var distance = 1u; distance < near; distance *= 2u) {
        largest = max(largest, subgroupShuffleXor(largest, distance));
    }
    let thread = thread_of(ids);
    if thread % near == 0u {
        partials[thread / near].x = largest;
    }
    workgroupBarrier();
    let count = span / near;
    let first = thread / span * count;
    largest = partials[first].x;
    if count == 2u {
        largest = max(largest, partials[first + 1u].x);
    } else if count > 2u {
        for (var i = first; i < first + count; i += 4u) {
            let pairs = max(vec2(partials[i].x, partials[i + 1u].x), vec2(partials[i + 2u].x, partials[i + 3u].x));
            largest = max(largest, max(pairs.x, pairs.y));
        }
    }
    workgroupBarrier();
    return largest;
}

/// The maximum over each four neighbouring threads. Every subgroup has at least four.
fn max_of_four(value: f32, ids: Ids) -> f32 {
    let pair = max(value, subgroupShuffleXor(value, 1u));
    return max(pair, subgroupShuffleXor(pair, 2u));
}

/// The sum over each four neighbouring threads.
fn sum_of_four(value: i32, ids: Ids) -> i32 {
    let pair = value + subgroupShuffleXor(value, 1u);
    return pair + subgroupShuffleXor(pair, 2u);
}

/// [THREADS / 4]: each subgroup's part of a total.
var<workgroup> totals: array<f32, THREADS / 4u>;

/// Contributes this thread's part of a total, which all threads can read after the next barrier.
fn give_total(value: f32, ids: Ids) {
    var sum = value;
    for (var distance = 1u; distance < ids.size; distance *= 2u) {
        sum += subgroupShuffleXor(sum, distance);
    }
    if ids.lane == 0u {
        totals[ids.subgroup] = sum;
    }
}

/// The total of all threads' parts.
fn total(ids: Ids) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < THREADS / ids.size; i += 1u) {
        sum += totals[i];
    }
    return sum;
}
