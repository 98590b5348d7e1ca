//! The quantized layouts, bit by bit, and how to compute a dot product from codes.
//!
//! This module has no code: it documents what [`crate::Blocks`] reads, what [`crate::Encoder`]
//! writes, and what a kernel must compute.
//!
//! # Bit layout
//!
//! A matrix is `[rows, cols]`: a row per output, with `cols` inputs side by side. A *group* is `G`
//! neighbouring weights of a row. A row's codes are a stream of bits in little-endian words of 32
//! bits, without padding: code `i` is bits `i*B .. (i+1)*B`, counted from the lowest bit of the
//! first byte:
//!
//! | bits | in bytes | smallest whole pack |
//! | --- | --- | --- |
//! | 2 | code `i` is bits `2*(i%4)` of byte `i/4` | 4 codes in 1 byte |
//! | 3 | straddles bytes and words | 8 codes in 3 bytes |
//! | 4 | low nibble first | 2 codes in 1 byte |
//! | 5 | straddles bytes and words | 8 codes in 5 bytes |
//! | 6 | straddles bytes and words | 4 codes in 3 bytes |
//! | 8 | code `i` is byte `i` | 1 code in 1 byte |
//!
//! Every group is a multiple of 16 codes and, except for NVFP4, of 32, so a group always starts at
//! a byte, and a group of 32 or more at a word. Scales (and biases) are `[rows, cols / G]`.
//!
//! | mode | bits | group | code | scale | weight | bits per weight |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | affine | 2, 3, 4, 5, 6, 8 | 32, 64, 128 | unsigned integer | f32, f16 or bf16, any sign | `scale * q + bias` | `B + 32/G` (half types) |
//! | mxfp4 | 4 | 32 | E2M1 | E8M0 | `2^(s-127) * e2m1(q)` | 4.25 |
//! | mxfp8 | 8 | 32 | E4M3 | E8M0 | `2^(s-127) * e4m3(q)` | 8.25 |
//! | nvfp4 | 4 | 16 | E2M1 | E4M3 | `e4m3(s) * e2m1(q)`, times `global / 2688` | 4.5 |
//!
//! **Affine.** The bias has the scale's type. MLX stores the edge of larger magnitude as bias (code
//! 0) and a scale whose sign leads to the other edge, so about half of all scales are negative.
//! Assume nothing about signs or the order of a group's values.
//!
//! **E2M1** is `s ee m`: `0, 0.5, 1, 1.5, 2, 3, 4, 6` for codes 0 to 7, negative with bit 3. **E4M3** is `s eeee mmm`, bias 7, largest 448, no
//! infinity, NaN at `0x7f` and `0xff`. **E8M0** is a power of two, `2^-127` to `2^127`; 255 is not used.
//!
//! # The dot product
//!
//! With the inputs `x`, `y = sum_i w_i x_i`. A kernel's result must be a rounding of these sums, in
//! any order.
//!
//! **Affine:** `y = sum_g (scale_g * sum_{i in g} q_i x_i + bias_g * sum_{i in g} x_i)`. The sums
//! of `x` do not depend on the row, so they are computed once per input vector: `cols / G` values.
//! The two terms cancel, since `bias_g` is an edge of the group while its weights are around zero:
//! their magnitudes are up to `|bias_g| * sum |x|`, and that times 2^-24 is about the rounding
//! error in f32. A kernel for exact activations can decode `scale * q + bias` instead, with one
//! more operation per weight and without the cancellation.
//!
//! **Int8 activations:** `x_i ~ a_g * z_i`, with `z_i` an integer in -127..=127 and `a_g = max|x| /
//! 127` over the group (or over a piece that consists of whole groups, or divides a group). Then
//! `sum q_i z_i` is an exact integer sum, and `y ~ sum_g a_g * (scale_g * sum q_i z_i + bias_g *
//! sum z_i)`. *The bias must be multiplied by the sum of `z`, not of `x`*: then the result is
//! exactly that of the weights times `a_g z`, and its only error is `sum_i w_i (x_i - a_g z_i)`, at
//! most `sum_g (a_g / 2) * sum_{i in g} |w_i|`, or with independent roundings about `sqrt(sum_g
//! a_g^2 * sum_{i in g} w_i^2 / 12)`. With the sum of `x`, the error is multiplied by `scale * q =
//! w - bias`, which is larger than `w`.
//!
//! Bounds of the integers, by bits, for `|z| <= 127`:
//!
//! | bits | largest code | `q z` of two neighbours (u8 x i8 to i16) | such sums that an i16 holds | `sum q z` of 128 |
//! | --- | --- | --- | --- | --- |
//! | 2 | 3 | 762 | 43 | 48 768 |
//! | 3 | 7 | 1 778 | 18 | 113 792 |
//! | 4 | 15 | 3 810 | 8 | 243 840 |
//! | 5 | 31 | 7 874 | 4 | 503 936 |
//! | 6 | 63 | 16 002 | 2 | 1 024 128 |
//! | 8 | 255 | 64 770: **overflows** | none | 4 145 280 |
//!
//! So 8-bit codes need products of 32 bits (VNNI), or `q - 128` as i8 with `128 * sum z` added to
//! the sum. `|sum z|` of 128 is at most 16 256, and `z` must not be -128 where `|z|` is taken. All
//! sums of a group are below 2^24: exact in f32.
//!
//! **MXFP4 and NVFP4 with int8 activations:** twice an E2M1 value is an integer: 0, 1, 2, 3, 4, 6,
//! 8, 12 and their negatives. So a table of 16 bytes gives an i8, and `y ~ sum_g a_g * (scale_g /
//! 2) * sum_{i in g} t_i z_i` with exact integer sums: at most 1 524 for a product, 3 048 for two
//! (ten such sums fit an i16), 48 768 for a group of 32. There is no bias and no cancellation.
//!
//! **MXFP8:** E4M3 values are not on a small integer grid (512 times an E4M3 value is an integer of
//! 18 bits), so products are computed in floats. Every E4M3 value is exact in f16 and in bf16, and
//! so is its product with the power of two in bf16 (in f16 only within the exponent's range); with
//! bf16 activations the products are exact in f32, and only the sums are rounded.
//!
//! NVFP4's global scale multiplies the final sum, or each scale.

#[cfg(test)]
mod tests {
    use crate::{Format, e2m1, e4m3};

    #[test]
    fn the_bounds_of_the_table_hold() {
        for (bits, pair, pairs, group) in [
            (2usize, 762, 43, 48_768),
            (3, 1_778, 18, 113_792),
            (4, 3_810, 8, 243_840),
            (5, 7_874, 4, 503_936),
            (6, 16_002, 2, 1_024_128),
            (8, 64_770, 0, 4_145_280),
        ] {
            assert!(Format::AFFINE_BITS.contains(&bits));
            let largest = (1i32 << bits) - 1;
            assert_eq!(2 * largest * 127, pair);
            assert_eq!(i32::from(i16::MAX) / pair, pairs);
            assert_eq!(128 * largest * 127, group);
            assert!(group < 1 << 24);
        }
    }

    #[test]
    fn twice_an_e2m1_value_and_512_times_an_e4m3_value_are_integers() {
        for code in 0..16 {
            let twice = 2.0 * e2m1(code);
            assert!(twice.fract() == 0.0 && twice.abs() <= 12.0);
        }
        for code in (0..=255).filter(|code| code & 0x7f != 0x7f) {
            let integer = 512.0 * e4m3(code);
            assert!(integer.fract() == 0.0 && integer.abs() < (1 << 18) as f32);
            assert_eq!(half::bf16::from_f32(e4m3(code)).to_f32(), e4m3(code));
            assert_eq!(half::f16::from_f32(e4m3(code)).to_f32(), e4m3(code));
        }
    }

    #[test]
    fn affine_rows_times_integers_equal_two_sums() {
        // All values are small multiples of 2^-4, so f32 is exact and both ways must agree bit for
        // bit.
        let (scales, biases) = ([0.25f32, -0.5], [-1.5f32, 3.0]);
        let codes: Vec<i32> = (0..64).map(|i| i * 7 % 16).collect();
        let z: Vec<i32> = (0..64).map(|i| i * 29 % 255 - 127).collect();
        let decoded: f32 = (0..64)
            .map(|i| (scales[i / 32] * codes[i] as f32 + biases[i / 32]) * z[i] as f32)
            .sum();
        let by_groups: f32 = (0..2)
            .map(|g| {
                let range = 32 * g..32 * (g + 1);
                let products: i32 = range.clone().map(|i| codes[i] * z[i]).sum();
                let sum: i32 = z[range].iter().sum();
                scales[g] * products as f32 + biases[g] * sum as f32
            })
            .sum();
        assert_eq!(decoded, by_groups);
    }
}
