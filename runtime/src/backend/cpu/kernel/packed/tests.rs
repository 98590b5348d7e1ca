//! Every format, unit and kind of product against plain f64 arithmetic on codes that the test packs
//! itself.

use half::{bf16, f16};
use kinglet_quant::{Blocks, DType, Format, Mode, e2m1, e4m3, e8m0};

use super::activations::{Layout, Quantize};
use super::decode::Decode;
use super::exact::Exact;
use super::prefill::Prefill;
use super::{Int8, has_whole_codes};
use crate::backend::cpu::kernel::dot::Vectors;
use crate::backend::cpu::simd::Isa;
use crate::backend::cpu::test_util::Random;

/// A packed matrix at odd addresses, and its values.
struct Case {
    format: Format,
    float: DType,
    rows: usize,
    cols: usize,
    codes: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
    values: Vec<f64>,
}

fn float_bytes(float: DType, value: f32, out: &mut Vec<u8>) -> f64 {
    match float {
        DType::F32 => {
            out.extend(value.to_le_bytes());
            f64::from(value)
        }
        DType::F16 => {
            out.extend(f16::from_f32(value).to_le_bytes());
            f16::from_f32(value).to_f64()
        }
        DType::BF16 => {
            out.extend(bf16::from_f32(value).to_le_bytes());
            bf16::from_f32(value).to_f64()
        }
    }
}

impl Case {
    fn new(random: &mut Random, format: Format, float: DType, rows: usize, cols: usize) -> Self {
        let (bits, group) = (format.bits(), format.group());
        let row_bytes = cols * bits / 8;
        // One extra byte in front, so that nothing is aligned.
        let mut codes = vec![0u8; 1 + rows * row_bytes];
        let (mut scales, mut biases, mut values) = (vec![0u8], vec![0u8], Vec::new());
        for row in 0..rows {
            let (mut scale, mut bias) = (0.0, 0.0);
            for col in 0..cols {
                if col % group == 0 {
                    let wanted = random.normal(2);
                    match format.mode() {
                        Mode::Affine => {
                            scale = float_bytes(float, 0.1 * wanted[0], &mut scales);
                            bias = float_bytes(float, wanted[1], &mut biases);
                        }
                        Mode::MxFp4 | Mode::MxFp8 => {
                            let code = 122 + (random.next() % 8) as u8;
                            scales.push(code);
                            scale = f64::from(e8m0(code));
                        }
                        Mode::NvFp4 => {
                            // All codes but the two NaNs.
                            let code = (random.next() % 127) as u8 | (random.next() as u8 & 0x80);
                            scales.push(code);
                            scale = f64::from(e4m3(code));
                        }
                    }
                }
                let mut code = (random.next() % (1 << bits)) as u8;
                if format.mode() == Mode::MxFp8 && code & 0x7f == 0x7f {
                    code = 5;
                }
                for bit in 0..bits {
                    let at = (row * row_bytes) * 8 + col * bits + bit;
                    codes[1 + at / 8] |= (code >> bit & 1) << (at % 8);
                }
                values.push(match format.mode() {
                    Mode::Affine => scale * f64::from(code) + bias,
                    Mode::MxFp8 => scale * f64::from(e4m3(code)),
                    Mode::MxFp4 | Mode::NvFp4 => scale * f64::from(e2m1(code)),
                });
            }
        }
        Self { format, float, rows, cols, codes, scales, biases, values }
    }

    fn blocks(&self) -> Blocks<'_> {
        let shape = [self.rows, self.cols];
        let parts = (&self.codes[1..], &self.scales[1..], &self.biases[1..]);
        Blocks::new(self.format, self.float, shape, parts.0, parts.1, parts.2).unwrap()
    }

    /// `W x` for each token, with the sum of the magnitudes of its terms.
    fn product(&self, x: &[f64]) -> Vec<(f64, f64)> {
        let tokens = x.chunks(self.cols);
        tokens
            .flat_map(|x| {
                self.values.chunks(self.cols).map(move |w| {
                    let terms = w.iter().zip(x).map(|(w, x)| w * x);
                    terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
                })
            })
            .collect()
    }
}

fn formats() -> Vec<Format> {
    let affine = Format::AFFINE_BITS.into_iter().flat_map(|bits| {
        Format::AFFINE_GROUPS.map(move |group| Format::affine(bits, group).unwrap())
    });
    affine.chain([Format::MXFP4, Format::MXFP8, Format::NVFP4]).collect()
}

/// Rows, groups per row, tokens.
const SHAPES: [[usize; 3]; 7] =
    [[1, 1, 1], [7, 3, 1], [5, 10, 2], [19, 5, 9], [16, 9, 13], [3, 33, 5], [33, 2, 8]];

fn each(mut f: impl FnMut(Isa, &Case, &[f32], usize)) {
    let mut random = Random::new(7);
    for format in formats() {
        for ([rows, groups, tokens], float) in
            SHAPES.into_iter().zip([DType::BF16, DType::F16, DType::F32].into_iter().cycle())
        {
            // As many groups of 16 as some of 128 have, so that chunks of columns have ends.
            let cols = groups * format.group() * (128 / format.group()).min(5);
            let case = Case::new(&mut random, format, float, rows, cols);
            let x = random.normal(tokens * cols);
            Isa::available().into_iter().for_each(|isa| f(isa, &case, &x, tokens));
        }
    }
}

fn check(name: &str, isa: Isa, case: &Case, x: &[f64], out: &[f32], stride: usize, bound: f64) {
    for (i, (expected, size)) in case.product(x).into_iter().enumerate() {
        let (token, row) = (i / case.rows, i % case.rows);
        let got = f64::from(out[token * stride + row]);
        assert!(
            (got - expected).abs() <= bound * size + 1e-30,
            "{name}, {}, {} {}, {}x{}, token {token}, row {row}: {got}, not {expected} of {size}",
            isa.name(),
            case.format,
            case.float,
            case.rows,
            case.cols,
        );
    }
}

#[test]
fn exact_activations_give_the_product_of_the_decoded_rows() {
    each(|isa, case, x, tokens| {
        let (first_row, stride) = (case.rows / 3, case.rows + 2);
        let mut out = vec![f32::NAN; tokens * stride];
        isa.dispatch(Exact {
            weight: case.blocks(),
            first_row,
            rows: case.rows - first_row,
            x: Vectors { x, stride: case.cols, tokens },
            out: &mut out[first_row..],
            out_stride: stride,
        });
        isa.dispatch(Exact {
            weight: case.blocks(),
            first_row: 0,
            rows: first_row,
            x: Vectors { x, stride: case.cols, tokens },
            out: &mut out,
            out_stride: stride,
        });
        let x: Vec<f64> = x.iter().copied().map(f64::from).collect();
        check("exact", isa, case, &x, &out, stride, 1e-6);
    });
}

#[test]
fn eight_bits_give_the_product_with_the_rounded_activations() {
    each(|isa, case, x, tokens| {
        if !has_whole_codes(&case.blocks()) {
            return;
        }
        let layout = Layout::new(case.cols);
        let mut records = vec![f32::NAN; tokens * layout.len()];
        for (x, record) in x.chunks(case.cols).zip(records.chunks_mut(layout.len())) {
            isa.dispatch(Quantize { x, layout, record });
        }
        let int8 = Int8::new(&records, layout, tokens);
        let mut rounded = Vec::new();
        for (t, x) in x.chunks(case.cols).enumerate() {
            let (codes, scales) = (int8.token(t).codes(), int8.token(t).scales());
            for (i, block) in x.chunks(32).enumerate() {
                let scale = block.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
                assert_eq!(scales[i], scale);
                for (&x, &code) in block.iter().zip(&codes[32 * i..]) {
                    // Half a step, and the rounding of the quotient.
                    assert!((x - scale * f32::from(code)).abs() <= scale * 0.5001 && code != -128);
                    rounded.push(f64::from(scale) * f64::from(code));
                }
            }
            assert!(codes[case.cols..].iter().all(|&code| code == 0));
        }
        let stride = case.rows + 1;
        let first_row = case.rows / 2;
        for form in ["decode", "prefill"] {
            let mut out = vec![f32::NAN; tokens * stride];
            for (first_row, rows) in [(0, first_row), (first_row, case.rows - first_row)] {
                let (weight, x, out) = (case.blocks(), int8, &mut out[first_row..]);
                if form == "decode" {
                    let out_stride = stride;
                    isa.dispatch(Decode { weight, first_row, rows, x, out, out_stride });
                } else {
                    let out_stride = stride;
                    isa.dispatch(Prefill { weight, first_row, rows, x, out, out_stride });
                }
            }
            check(form, isa, case, &rounded, &out, stride, 2e-6);
        }
    });
}

#[test]
fn a_matrix_factor_scales_every_product() {
    let mut random = Random::new(3);
    let case = Case::new(&mut random, Format::NVFP4, DType::F32, 9, 96);
    let x = random.normal(10 * 96);
    for isa in Isa::available() {
        let layout = Layout::new(96);
        let mut records = vec![0.0; 10 * layout.len()];
        for (x, record) in x.chunks(96).zip(records.chunks_mut(layout.len())) {
            isa.dispatch(Quantize { x, layout, record });
        }
        let run = |factor: f32| {
            let weight = case.blocks().with_factor(factor);
            let mut all = vec![0.0; 3 * 90];
            let (exact, rest) = all.split_at_mut(90);
            let (decode, prefill) = rest.split_at_mut(90);
            let (first_row, rows, out_stride) = (0, 9, 9);
            let int8 = Int8::new(&records, layout, 10);
            let floats = Vectors { x: &x, stride: 96, tokens: 10 };
            isa.dispatch(Exact { weight, first_row, rows, x: floats, out: exact, out_stride });
            isa.dispatch(Decode { weight, first_row, rows, x: int8, out: decode, out_stride });
            isa.dispatch(Prefill { weight, first_row, rows, x: int8, out: prefill, out_stride });
            all
        };
        let (once, thrice) = (run(1.0), run(4.0));
        assert!(once.iter().zip(&thrice).all(|(one, four)| four == &(4.0 * one)), "{}", isa.name());
    }
}

#[test]
fn what_is_not_finite_comes_out_so() {
    let mut random = Random::new(5);
    let case = Case::new(&mut random, Format::affine(4, 32).unwrap(), DType::F32, 3, 64);
    for isa in Isa::available() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = random.normal(64);
            x[40] = bad;
            let layout = Layout::new(64);
            let mut record = vec![0.0; layout.len()];
            isa.dispatch(Quantize { x: &x, layout, record: &mut record });
            let mut out = [0.0; 3];
            isa.dispatch(Decode {
                weight: case.blocks(),
                first_row: 0,
                rows: 3,
                x: Int8::new(&record, layout, 1),
                out: &mut out,
                out_stride: 3,
            });
            assert!(out.iter().all(|x| x.is_nan()), "{} {bad}: {out:?}", isa.name());
        }
    }
}
