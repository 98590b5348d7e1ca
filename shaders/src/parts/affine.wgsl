// w = scale * q + bias, by groups.
//# use quantized

/// Scale and bias are f16, one word together.
const SCALES_F16: u32 = 0u;
/// The same in bf16.
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
