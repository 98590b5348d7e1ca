// w = scale * q + bias, by groups.
//# use quantized

/// Scale and bias are f16, in one word.
const SCALES_F16: u32 = 0u;
/// Scale and bias are bf16, in one word.
const SCALES_BF16: u32 = 1u;
/// Scale and bias are f32, a word each.
const SCALES_F32: u32 = 2u;

/// Scale and bias of a unit.
fn scale_and_bias(m: Matrix, row: u32, unit: u32) -> vec2<f32> {
    let group = unit / m.units;
    let first = m.scales + row * m.scale_stride;
    switch m.kind {
        case SCALES_F16: {
            return unpack2x16float(word(first + group));
        }
        case SCALES_BF16: {
            let pair = word(first + group);
            return bitcast<vec2<f32>>(vec2(pair << 16u, pair & 0xffff0000u));
        }
        default: {
            return bitcast<vec2<f32>>(vec2(word(first + 2u * group), word(first + 2u * group + 1u)));
        }
    }
}

//# when int8
/// Packed scale and bias of a unit; the second word counts only for f32. There is no branch, so that the loads of
/// several rows overlap.
fn load_scale(m: Matrix, row: u32, unit: u32) -> vec2<u32> {
    let words = select(1u, 2u, m.kind == SCALES_F32);
    let at = m.scales + row * m.scale_stride + unit / m.units * words;
    return vec2(word(at), word(at + words - 1u));
}

/// Scale and bias from the result of `load_scale`.
fn scale_of(m: Matrix, raw: vec2<u32>) -> vec2<f32> {
    let halves = vec2(raw.x << 16u, raw.x & 0xffff0000u);
    let wide = bitcast<vec2<f32>>(select(raw, halves, m.kind == SCALES_BF16));
    return select(wide, unpack2x16float(raw.x), m.kind == SCALES_F16);
}
//# end
