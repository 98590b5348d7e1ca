// Sums of the log decays of a chunk's tokens, all of which are at most 0. Every sum adds terms of one sign; none is a
// difference of long sums, so none loses accuracy, whatever order a compiler chooses.

/// Tokens per chunk.
const CHUNK: u32 = 64u;
/// Tokens per block of a chunk.
const BLOCK: u32 = 4u;
const BLOCKS: u32 = 16u;

/// [CHUNK]: by token; 0 after the last.
var<workgroup> log_decays: array<f32, CHUNK>;
/// [CHUNK]: from the start of a token's block to the token, inclusive.
var<workgroup> block_until: array<f32, CHUNK>;
/// [CHUNK]: from after a token to the end of its block.
var<workgroup> block_after: array<f32, CHUNK>;
/// [BLOCKS, BLOCKS]: from after the first block to before the second.
var<workgroup> blocks_between: array<f32, 256>;

/// Computes the sums with 256 threads; each of the first 64 contributes a token.
fn sum_decays(own: f32, thread: u32) {
    if thread < CHUNK {
        log_decays[thread] = own;
    }
    workgroupBarrier();
    if thread < CHUNK {
        let first = thread / BLOCK * BLOCK;
        var until = 0.0;
        var after = 0.0;
        for (var k = 0u; k < BLOCK; k += 1u) {
            let value = log_decays[first + k];
            until += select(0.0, value, first + k <= thread);
            after += select(0.0, value, first + k > thread);
        }
        block_until[thread] = until;
        block_after[thread] = after;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var block = thread / BLOCKS + 1u; block < thread % BLOCKS; block += 1u) {
        sum += block_until[block * BLOCK + BLOCK - 1u];
    }
    blocks_between[thread] = sum;
    workgroupBarrier();
}

/// From after token `j` to token `i`, inclusive, with `i >= j`.
fn decay_between(j: u32, i: u32) -> f32 {
    let first = j / BLOCK;
    let last = i / BLOCK;
    if first < last {
        return block_after[j] + blocks_between[first * BLOCKS + last] + block_until[i];
    }
    var sum = 0.0;
    for (var k = j + 1u; k <= i; k += 1u) {
        sum += log_decays[k];
    }
    return sum;
}

/// From the chunk's start to token `i`, inclusive.
fn decay_until(i: u32) -> f32 {
    if i < BLOCK {
        return block_until[i];
    }
    return block_until[BLOCK - 1u] + blocks_between[i / BLOCK] + block_until[i];
}

/// From after token `j` to the chunk's end.
fn decay_after(j: u32) -> f32 {
    return decay_between(j, CHUNK - 1u);
}
