// Quantized keys and values: each 32 elements of a head are a word with scale and bias in half precision, and BITS
// words of codes, the first element in the lowest bits. A position's codes depend on that position only.

/// Words per 32 elements.
const GROUP_WORDS: u32 = BITS + 1u;
/// The largest code.
const MOST: u32 = (1u << BITS) - 1u;
const LARGEST_HALF: f32 = 65504.0;

/// Number of words of `elements` elements of a head.
fn words_of(elements: u32) -> u32 {
    return (elements + 31u) / 32u * GROUP_WORDS;
}

/// Index of the first word of a head's key at a place.
fn at_of(place: u32, kv: u32) -> u32 {
    return (place * params.kv_heads + kv) * words_of(params.head_dim);
}

/// The same of its value, among the keys if they are latents.
fn value_at_of(place: u32, kv: u32) -> u32 {
    return (place * params.kv_heads + kv) * words_of(select(params.value_dim, params.head_dim, params.latent != 0u));
}

/// The number of positions that the cache has room for.
fn capacity_of_cache() -> u32 {
    return arrayLength(&keys) / (params.kv_heads * words_of(params.head_dim));
}

/// Offset of the word with codes `4 * quad ..` from its group's first word.
fn word_of(quad: u32) -> u32 {
    return 1u + quad % 8u * BITS / 8u;
}

/// Decodes four elements from their word and their group's first word.
fn decoded(first: u32, word: u32, quad: u32) -> vec4<f32> {
    let own = word >> (quad % (8u / BITS) * 16u);
    let codes = (vec4(own) >> vec4(0u, BITS, 2u * BITS, 3u * BITS)) & vec4(MOST);
    let s = unpack2x16float(first);
    return s.x * vec4<f32>(codes) + s.y;
}

//# when attend_packed pieces_packed
/// Elements `4 * quad ..` of the key at `at`; arbitrary values after its end.
fn load_key(at: u32, quad: u32) -> vec4<f32> {
    let group = at + quad / 8u * GROUP_WORDS;
    return decoded(keys[group], keys[group + word_of(quad)], quad);
}

/// Elements `4 * quad ..` of the value at `at`; arbitrary values after its end.
fn load_value_quad(at: u32, quad: u32) -> vec4<f32> {
    if params.latent != 0u {
        return load_key(at, quad);
    }
    let group = at + quad / 8u * GROUP_WORDS;
    return decoded(values[group], values[group + word_of(quad)], quad);
}

//# when prepare_packed pieces_packed
/// A key or value to store.
var<workgroup> staged: array<f32, 1024>;

/// Prepares a head of `width` elements for storing, with all threads. A barrier must follow before the next call.
fn stage(head: Head, width: u32, ids: Ids) {
    for (var i = thread_of(ids); i < width; i += THREADS) {
        staged[i] = ready(head, i);
    }
    workgroupBarrier();
}

/// The bits of the binary16 nearest to a number within its range, ties to even. `pack2x16float` may round either way,
/// but codes must be the same on every device.
fn half_bits(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let size = bits & 0x7fffffffu;
    // Numbers below 2^-14 are multiples of 2^-24.
    let small = u32(round(min(bitcast<f32>(size), 1.0) * 16777216.0));
    let rounded = (size + 0xfffu + ((size >> 13u) & 1u) - 0x38000000u) >> 13u;
    return sign | select(rounded, small, size < 0x38800000u);
}

/// Word `word` of the staged head of `width` elements.
fn encoded(word: u32, width: u32) -> u32 {
    let first = word / GROUP_WORDS * 32u;
    let end = min(first + 32u, width);
    var low = staged[first];
    var high = low;
    for (var i = first + 1u; i < end; i += 1u) {
        low = min(low, staged[i]);
        high = max(high, staged[i]);
    }
    let bias_bits = half_bits(clamp(low, -LARGEST_HALF, LARGEST_HALF));
    let bias = unpack2x16float(bias_bits).x;
    let scale = min(max(high - bias, 0.0) / f32(MOST), LARGEST_HALF);
    let stored = half_bits(scale) | (bias_bits << 16u);
    let own = word % GROUP_WORDS;
    if own == 0u {
        return stored;
    }
    let s = unpack2x16float(stored);
    let inverse = select(0.0, 1.0 / s.x, s.x > 0.0);
    let start = first + (own - 1u) * (32u / BITS);
    var codes = 0u;
    for (var c = 0u; c < 32u / BITS; c += 1u) {
        if start + c < end {
            let code = clamp(floor((staged[start + c] - s.y) * inverse + 0.5), 0.0, f32(MOST));
            codes |= u32(code) << (c * BITS);
        }
    }
    return codes;
}

/// Stores the staged head as a key, by all threads.
fn store_staged_key(at: u32, ids: Ids) {
    for (var word = thread_of(ids); word < words_of(params.head_dim); word += THREADS) {
        keys[at + word] = encoded(word, params.head_dim);
    }
}

/// Stores the staged head as a value, by all threads.
fn store_staged_value(at: u32, ids: Ids) {
    for (var word = thread_of(ids); word < words_of(params.value_dim); word += THREADS) {
        values[at + word] = encoded(word, params.value_dim);
    }
}
//# end
