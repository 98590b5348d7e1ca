//! The narrow floating-point types of the microscaling formats, decoded.
//!
//! Source: "OCP Microscaling Formats (MX) Specification" 1.0, 2023, section 5.3; E4M3 there is the variant without
//! infinities ("FP8 Formats for Deep Learning", Micikevicius et al., 2022, table 1).

/// The value of an E2M1 code: sign, two bits of exponent, one of mantissa. Bits above the fourth are not looked at.
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
    // Exponent and mantissa are in place after the shift; the biases differ by 127 - 7.
    f32::from_bits(sign | ((magnitude << 20) + (120 << 23)))
}

/// The value of an E8M0 code, `2^(code - 127)`. Code 255 is NaN in the specification; MLX decodes it as infinity, and so
/// does this: either way it is no scale that a sound file holds.
pub const fn e8m0(code: u8) -> f32 {
    match code {
        // 2^-127 is subnormal.
        0 => f32::from_bits(1 << 22),
        _ => f32::from_bits((code as u32) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
