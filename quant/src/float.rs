//! The narrow floating-point types of the microscaling formats, decoded and encoded.
//!
//! Source: "OCP Microscaling Formats (MX) Specification" 1.0, 2023, section 5.3; E4M3 there is the variant without
//! infinities ("FP8 Formats for Deep Learning", Micikevicius et al., 2022, table 1).

/// The value of an E2M1 code: sign, two bits of exponent, one of mantissa. Higher bits are ignored.
pub const fn e2m1(code: u8) -> f32 {
    const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let magnitude = MAGNITUDES[(code & 7) as usize];
    if code & 8 == 0 { magnitude } else { -magnitude }
}

/// The value of an E4M3 code: sign, four bits of exponent with a bias of 7, three of mantissa; `0x7f` and `0xff` are NaN.
pub const fn e4m3(code: u8) -> f32 {
    let sign = (code as u32 & 0x80) << 24;
    let magnitude = (code & 0x7f) as u32;
    if magnitude == 0x7f {
        return f32::NAN;
    }
    if magnitude < 8 {
        // Subnormal: multiples of 2^-9.
        let value = magnitude as f32 / 512.0;
        return if sign == 0 { value } else { -value };
    }
    // The shift puts exponent and mantissa in place; the biases differ by 127 - 7.
    f32::from_bits(sign | ((magnitude << 20) + (120 << 23)))
}

/// The value of an E8M0 code, `2^(code - 127)`. Code 255 is NaN in the specification; MLX decodes
/// it as infinity, and so does this. No valid file contains it as a scale.
pub const fn e8m0(code: u8) -> f32 {
    match code {
        // 2^-127 is subnormal.
        0 => f32::from_bits(1 << 22),
        _ => f32::from_bits((code as u32) << 23),
    }
}

/// The E2M1 code nearest to `value`. Ties go to the smaller magnitude, as in MLX, and values
/// nearest to zero become +0. Values beyond 6 become 6, NaN becomes 0.
#[inline]
pub fn to_e2m1(value: f32) -> u8 {
    let magnitude = value.abs();
    // Counts the midpoints below the value. This has no branch, so loops over weights are
    // vectorised.
    let code = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
        .into_iter()
        .fold(0u8, |code, midpoint| code + u8::from(magnitude > midpoint));
    let sign = (value.to_bits() >> 28) as u8 & 8;
    if code == 0 { 0 } else { code | sign }
}

/// The E4M3 code nearest to `value`: ties go to the even code; 448 and above, and NaN, become 448.
/// The sign is kept, also of zero.
#[inline]
pub fn to_e4m3(value: f32) -> u8 {
    let sign = (value.to_bits() >> 24) as u8 & 0x80;
    let magnitude = value.abs();
    let bits = magnitude.to_bits();
    let code = if magnitude < 1.0 / 64.0 {
        // Subnormal: multiples of 2^-9, which is the spacing of f32 between 2^14 and 2^15.
        (magnitude + 16_384.0).to_bits() as u8
    } else if magnitude < 448.0 {
        let half = 0x7_ffff + (bits >> 20 & 1);
        (((bits + half) >> 20) - (120 << 3)) as u8
    } else {
        0x7e
    };
    code | sign
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_code_is_found() {
        // Every midpoint of neighbouring codes, and values slightly to both sides.
        let magnitudes: Vec<f32> = (0..0x7f).map(e4m3).collect();
        for (code, pair) in (0u8..).zip(magnitudes.windows(2)) {
            let (low, high) = (pair[0], pair[1]);
            let middle = (low + high) / 2.0;
            let even = code + code % 2;
            for (value, expected) in [
                (low, code),
                (middle.next_down(), code),
                (middle, even),
                (middle.next_up(), code + 1),
                (high, code + 1),
            ] {
                assert_eq!(to_e4m3(value), expected, "{value}");
                assert_eq!(to_e4m3(-value), expected | 0x80, "-{value}");
            }
        }
        assert_eq!(to_e4m3(1e30), 0x7e);
        assert_eq!(to_e4m3(f32::NEG_INFINITY), 0xfe);
        for code in 0..7u8 {
            let (low, high) = (e2m1(code), e2m1(code + 1));
            let middle = (low + high) / 2.0;
            for (value, expected) in
                [(low, code), (middle, code), (middle.next_up(), code + 1), (high, code + 1)]
            {
                assert_eq!(to_e2m1(value), expected, "{value}");
                let negative = if expected == 0 { 0 } else { expected | 8 };
                assert_eq!(to_e2m1(-value), negative, "-{value}");
            }
        }
        assert_eq!(to_e2m1(f32::INFINITY), 7);
        assert_eq!(to_e2m1(-1e30), 15);
        assert_eq!(to_e2m1(f32::NAN), 0);
    }

    #[test]
    fn every_code_has_the_value_of_its_fields() {
        for code in 0..=255u8 {
            let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
            let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7) / 8.0);
            let expected = match exponent {
                0 => sign * mantissa * 2f64.powi(-6),
                _ => sign * (1.0 + mantissa) * 2f64.powi(exponent - 7),
            };
            if code & 0x7f == 0x7f {
                assert!(e4m3(code).is_nan());
            } else {
                assert_eq!(f64::from(e4m3(code)), expected, "e4m3 {code:#04x}");
            }
            if code < 255 {
                assert_eq!(f64::from(e8m0(code)), 2f64.powi(i32::from(code) - 127));
            }
            let (exponent, mantissa) = (i32::from(code >> 1 & 3), f64::from(code & 1) / 2.0);
            let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
            let expected = match exponent {
                0 => sign * mantissa,
                _ => sign * (1.0 + mantissa) * 2f64.powi(exponent - 1),
            };
            assert_eq!(f64::from(e2m1(code)), expected, "e2m1 {code:#04x}");
        }
    }
}
