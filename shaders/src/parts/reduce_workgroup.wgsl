// Reductions through workgroup memory only, for every device.

struct Ids {
    index: u32,
}

/// [THREADS].
var<workgroup> partials: array<vec4<f32>, THREADS>;

/// Number of the invocation in its workgroup.
fn thread_of(ids: Ids) -> u32 {
    return ids.index;
}

/// The sum over each `span` neighbouring threads (a power of two), returned to all of them.
fn sum_over(value: vec4<f32>, ids: Ids, span: u32) -> vec4<f32> {
    let thread = ids.index;
    partials[thread] = value;
    workgroupBarrier();
    for (var distance = span / 2u; distance > 0u; distance /= 2u) {
        if thread % span < distance {
            partials[thread] += partials[thread + distance];
        }
        workgroupBarrier();
    }
    let sum = partials[thread / span * span];
    workgroupBarrier();
    return sum;
}

/// The sum over all threads with equal numbers modulo `stride` (a power of two), returned to all of them.
fn sum_strided(value: vec4<f32>, ids: Ids, stride: u32) -> vec4<f32> {
    let thread = ids.index;
    partials[thread] = value;
    workgroupBarrier();
    for (var distance = THREADS / 2u; distance >= stride; distance /= 2u) {
        if thread < distance {
            partials[thread] += partials[thread + distance];
        }
        workgroupBarrier();
    }
    let sum = partials[thread % stride];
    workgroupBarrier();
    return sum;
}

/// The maximum of each component over each `span` neighbouring threads.
fn largest_over(value: vec4<f32>, ids: Ids, span: u32) -> vec4<f32> {
    let thread = ids.index;
    partials[thread] = value;
    workgroupBarrier();
    for (var distance = span / 2u; distance > 0u; distance /= 2u) {
        if thread % span < distance {
            partials[thread] = max(partials[thread], partials[thread + distance]);
        }
        workgroupBarrier();
    }
    let largest = partials[thread / span * span];
    workgroupBarrier();
    return largest;
}

/// The maximum over each `span` neighbouring threads.
fn max_over(value: f32, ids: Ids, span: u32) -> f32 {
    let thread = ids.index;
    partials[thread].x = value;
    workgroupBarrier();
    for (var distance = span / 2u; distance > 0u; distance /= 2u) {
        if thread % span < distance {
            partials[thread].x = max(partials[thread].x, partials[thread + distance].x);
        }
        workgroupBarrier();
    }
    let largest = partials[thread / span * span].x;
    workgroupBarrier();
    return largest;
}

/// The maximum over each four neighbouring threads.
fn max_of_four(value: f32, ids: Ids) -> f32 {
    return max_over(value, ids, 4u);
}

/// The sum over each four neighbouring threads; exact while it stays below 2^24.
fn sum_of_four(value: i32, ids: Ids) -> i32 {
    return i32(sum_over(vec4(f32(value), 0.0, 0.0, 0.0), ids, 4u).x);
}

/// [THREADS]: each thread's part of a total.
var<workgroup> totals: array<f32, THREADS>;

/// Contributes this thread's part of a total, which all threads can read after the next barrier.
fn give_total(value: f32, ids: Ids) {
    totals[ids.index] = value;
}

/// The total of all threads' parts.
fn total(ids: Ids) -> f32 {
    var sum = vec4(0.0);
    for (var i = 0u; i < THREADS; i += 4u) {
        sum += vec4(totals[i], totals[i + 1u], totals[i + 2u], totals[i + 3u]);
    }
    return dot(sum, vec4(1.0));
}
