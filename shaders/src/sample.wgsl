// The next token from the logits of one position, without the host: the most probable, or a sampled one. First a kernel
// over blocks of logits, then a single workgroup that chooses. What it can't decide (broken logits, more candidates
// than fit) is left to the host.
//# kernel SampleGreedy greedy samples: chooses the most probable token
//# kernel SampleLargest largest samples: the largest logit of each block
//# kernel SampleMasses masses samples: the probability mass of each block of logits
//# kernel SampleDrawn drawn samples: samples from all tokens
//# kernel SampleSorted sorted samples: samples from the most probable tokens
//# use ranked

struct Params {
    vocab: u32,
}

@group(0) @binding(_) var<uniform> params: Params;

//# when largest
// A workgroup finds the largest logit of a block.
/// [vocab].
@group(0) @binding(_) var<storage, read> logits: array<f32>;
/// [blocks]: key and token of the largest.
@group(0) @binding(_) var<storage, read_write> largest: array<vec2<u32>>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    var own = vec2(0u, ABSENT);
    for (var i = 0u; i < BLOCK / THREADS; i += 1u) {
        let token = group.x * BLOCK + i * THREADS + thread;
        if token < params.vocab {
            let next = vec2(key_of(logits[token]), token);
            if before(next, own) {
                own = next;
            }
        }
    }
    let first = first_of(own, thread);
    if thread == 0u {
        largest[group.x] = first;
    }
}

//# when greedy
/// [blocks]: key and token of the largest of each block of logits.
@group(0) @binding(_) var<storage, read> largest: array<vec2<u32>>;
/// [1]: the token; `ABSENT` if the host must choose.
@group(0) @binding(_) var<storage, read_write> chosen: array<u32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    let first = largest_of_all(thread);
    if thread == 0u {
        chosen[0] = select(first.y, ABSENT, first.x >= BROKEN || first.x <= EXCLUDED);
    }
}

//# when masses
//# use drawing
// A workgroup sums the weights of a block.
/// [vocab].
@group(0) @binding(_) var<storage, read> logits: array<f32>;
/// [blocks]: key and token of the largest of each block of logits.
@group(0) @binding(_) var<storage, read> largest: array<vec2<u32>>;
/// [blocks].
@group(0) @binding(_) var<storage, read_write> masses: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let most = logit_of(largest_of_all(thread).x);
    accumulate(sum4(weights_at(group.x * BLOCK + 4u * thread, most)), thread);
    if thread == 0u {
        masses[group.x] = totals[THREADS - 1u];
    }
}

//# when drawn
//# use drawing
// Samples from all tokens, or those with at least the fraction `min_p` of the highest probability, in the order of
// their ids.
/// [vocab].
@group(0) @binding(_) var<storage, read> logits: array<f32>;
/// [blocks]: key and token of the largest of each block of logits.
@group(0) @binding(_) var<storage, read> largest: array<vec2<u32>>;
/// [blocks]: sums of weights.
@group(0) @binding(_) var<storage, read> masses: array<f32>;
/// [1]: the token; `ABSENT` if the host must choose.
@group(0) @binding(_) var<storage, read_write> chosen: array<u32>;

/// The block in which the random number falls, and the remainder within it.
var<workgroup> block: u32;
var<workgroup> rest: f32;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    let first = largest_of_all(thread);
    let sound = first.x < BROKEN && first.x > EXCLUDED;
    let most = logit_of(first.x);
    let blocks = (params.vocab + BLOCK - 1u) / BLOCK;
    let share = (blocks + THREADS - 1u) / THREADS;
    let start = thread * share;
    var mass = 0.0;
    for (var i = start; i < min(start + share, blocks); i += 1u) {
        mass += masses[i];
    }
    accumulate(mass, thread);
    let place = draw.number * totals[THREADS - 1u];
    if passes(place, thread) {
        // The last block with any mass, unless the number falls before its end.
        var sum = total_before(thread);
        for (var i = start; i < min(start + share, blocks); i += 1u) {
            if masses[i] > 0.0 {
                block = i;
                rest = place - sum;
                sum += masses[i];
                if sum > place {
                    break;
                }
            }
        }
    }
    workgroupBarrier();
    let weights = weights_at(block * BLOCK + 4u * thread, most);
    let left = rest;
    accumulate(sum4(weights), thread);
    if thread == 0u && !sound {
        chosen[0] = ABSENT;
    }
    if sound && passes(left, thread) {
        chosen[0] = block * BLOCK + 4u * thread + pick(weights, left, total_before(thread));
    }
}

//# when sorted
//# use drawing
// Samples from the most probable tokens, in order of probability: the first `top_k`, or the first that together have
// the probability `top_p`. A histogram of the logits' distances from the largest gives a bound after which there is no
// candidate; the tokens before it are sorted.
/// [vocab].
@group(0) @binding(_) var<storage, read> logits: array<f32>;
/// [blocks]: key and token of the largest of each block of logits.
@group(0) @binding(_) var<storage, read> largest: array<vec2<u32>>;
/// [1]: the token; `ABSENT` if the host must choose.
@group(0) @binding(_) var<storage, read_write> chosen: array<u32>;

/// Maximum number of candidates.
const ROOM: u32 = 1024u;
const BINS: u32 = 1024u;
/// log2 of the number of bins per doubling of the distance, and the exponent of the first bin.
const BINS_PER_DOUBLING_LOG: u32 = 5u;
const FIRST_EXPONENT: u32 = 127u - 24u;

/// [BINS]: number of tokens by distance; the last bin has all larger distances.
var<workgroup> counts: array<atomic<u32>, BINS>;
/// [ROOM]: keys and tokens.
var<workgroup> candidates: array<vec2<u32>, ROOM>;
var<workgroup> count: atomic<u32>;
/// The last bin that is taken, plus one.
var<workgroup> bins_taken: u32;
/// Number of tokens taken.
var<workgroup> taken: u32;
/// Number of sorted candidates that are kept.
var<workgroup> kept: u32;
/// The token, found by one thread and written by another: a workgroup's barriers order no other memory.
var<workgroup> answer: u32;

/// Leaves the choice to the host.
fn leave(thread: u32) {
    if thread == 0u {
        chosen[0] = ABSENT;
    }
}

/// The bin of a logit by its distance from the largest: exponent and first mantissa bits, which resolves nearly flat
/// distributions as well as steep ones.
fn bin_of(logit: f32, most: f32) -> u32 {
    let distance = clamp((most - logit) / draw.cut_temperature, 0.0, 1e30);
    let place = bitcast<u32>(distance) >> (23u - BINS_PER_DOUBLING_LOG);
    let first = FIRST_EXPONENT << BINS_PER_DOUBLING_LOG;
    return min(max(place, first) - first, BINS - 1u);
}

/// Whether a token counts: neither excluded nor so far from the largest that its weight vanishes in every stage.
fn counts_at_all(logit: f32, most: f32) -> bool {
    let distance = (logit - most) / draw.cut_temperature;
    return key_of(logit) > EXCLUDED && distance > -88.0 * max(draw.draw_temperature, 1.0);
}

/// Weights of candidates `4 * thread ..` of `many`, at a second temperature besides that of the filters.
fn candidate_weights(thread: u32, many: u32, most: f32, temperature: f32) -> vec4<f32> {
    var weights = vec4(0.0);
    for (var i = 0u; i < 4u; i += 1u) {
        let place = 4u * thread + i;
        if place < many {
            weights[i] = weight((logit_of(candidates[place].x) - most) / draw.cut_temperature / temperature);
        }
    }
    return weights;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    let first = largest_of_all(thread);
    let most = logit_of(first.x);
    if thread == 0u {
        answer = ABSENT;
        atomicStore(&count, 0u);
        bins_taken = BINS;
        kept = 0u;
    }
    for (var i = thread; i < BINS; i += THREADS) {
        atomicStore(&counts[i], 0u);
    }
    workgroupBarrier();
    if first.x >= BROKEN || first.x <= EXCLUDED {
        leave(thread);
        return;
    }

    // The histogram of distances, and the sum of all weights.
    var mass = 0.0;
    for (var token = thread; token < params.vocab; token += THREADS) {
        let logit = logits[token];
        if counts_at_all(logit, most) {
            atomicAdd(&counts[bin_of(logit, most)], 1u);
            mass += weight((logit - most) / draw.cut_temperature);
        }
    }
    accumulate(mass, thread);
    let mass_of_all = totals[THREADS - 1u];

    // Take as many bins as `top_k` needs, else as many as fit. Integers up to 2^24 are exact.
    var four = vec4(0.0);
    for (var i = 0u; i < 4u; i += 1u) {
        four[i] = f32(atomicLoad(&counts[4u * thread + i]));
    }
    accumulate(sum4(four), thread);
    let found = totals[THREADS - 1u];
    let by_rank = draw.top_k > 0u;
    let limit = select(f32(ROOM), f32(draw.top_k) - 0.5, by_rank);
    let start = total_before(thread);
    if start <= limit && totals[thread] > limit {
        var sum = start;
        for (var i = 0u; i < 4u; i += 1u) {
            sum += four[i];
            if sum > limit {
                bins_taken = 4u * thread + i + select(0u, 1u, by_rank);
                break;
            }
        }
    }
    workgroupBarrier();
    let bound = bins_taken;
    for (var token = thread; token < params.vocab; token += THREADS) {
        let logit = logits[token];
        if counts_at_all(logit, most) && bin_of(logit, most) < bound {
            let place = atomicAdd(&count, 1u);
            if place < ROOM {
                candidates[place] = vec2(key_of(logit), token);
            }
        }
    }
    workgroupBarrier();
    if thread == 0u {
        taken = atomicLoad(&count);
    }
    let many = workgroupUniformLoad(&taken);
    if many == 0u || many > ROOM {
        leave(thread);
        return;
    }

    // Bitonic sort (Batcher, 1968) of a power of two of them.
    var width = 4u;
    while width < many {
        width *= 2u;
    }
    for (var i = many + thread; i < width; i += THREADS) {
        candidates[i] = vec2(0u, ABSENT);
    }
    workgroupBarrier();
    for (var run = 2u; run <= width; run *= 2u) {
        for (var distance = run / 2u; distance > 0u; distance /= 2u) {
            for (var i = thread; i < width / 2u; i += THREADS) {
                let low = i / distance * distance * 2u + i % distance;
                let a = candidates[low];
                let b = candidates[low + distance];
                if before(b, a) == ((low & run) == 0u) {
                    candidates[low] = b;
                    candidates[low + distance] = a;
                }
            }
            workgroupBarrier();
        }
    }

    // The sampler's stages, each of which keeps the first candidates.
    let ranked = select(many, min(many, draw.top_k), by_rank);
    let weights = candidate_weights(thread, ranked, most, 1.0);
    accumulate(sum4(weights), thread);
    if thread == 0u {
        kept = ranked;
    }
    workgroupBarrier();
    var decided = true;
    if draw.top_p < 1.0 {
        let wanted = draw.top_p * select(mass_of_all, totals[THREADS - 1u], by_rank);
        let start = total_before(thread);
        if start < wanted && totals[thread] >= wanted {
            var sum = start;
            var last = 0u;
            for (var i = 0u; i < 4u; i += 1u) {
                if weights[i] > 0.0 {
                    sum += weights[i];
                    last = i;
                    if sum >= wanted {
                        break;
                    }
                }
            }
            kept = 4u * thread + last + 1u;
        }
        // Otherwise the missing ones are after the bound, unless the next stage takes none of them.
        let last = weight((logit_of(candidates[many - 1u].x) - most) / draw.cut_temperature);
        let enough = totals[THREADS - 1u] >= wanted || last < draw.min_p;
        decided = enough || by_rank || f32(many) == found;
    }
    let nucleus = workgroupUniformLoad(&kept);
    for (var i = 0u; i < 4u; i += 1u) {
        let place = 4u * thread + i;
        if place + 1u < nucleus && weights[i] >= draw.min_p {
            let next = (logit_of(candidates[place + 1u].x) - most) / draw.cut_temperature;
            if weight(next) < draw.min_p {
                kept = place + 1u;
            }
        }
    }
    let final_weights = candidate_weights(thread, workgroupUniformLoad(&kept), most, draw.draw_temperature);
    accumulate(sum4(final_weights), thread);
    let place = draw.number * totals[THREADS - 1u];
    if decided && passes(place, thread) {
        answer = candidates[4u * thread + pick(final_weights, place, total_before(thread))].y;
    }
    workgroupBarrier();
    if thread == 0u {
        chosen[0] = answer;
    }
}
//# end

/// The first in order among all blocks' largest logits.
fn largest_of_all(thread: u32) -> vec2<u32> {
    let blocks = (params.vocab + BLOCK - 1u) / BLOCK;
    var own = vec2(0u, ABSENT);
    for (var i = thread; i < blocks; i += THREADS) {
        if before(largest[i], own) {
            own = largest[i];
        }
    }
    return first_of(own, thread);
}
