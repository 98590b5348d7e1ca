//! Compares with what `mlx.core` quantizes and dequantizes, bit for bit: `vectors/mlx.safetensors`,
//! made by `tests/reference/mlx_vectors.py`.

use kinglet_quant::{Blocks, DType, Encoder, Format, Mode, Quantized, decode};
use safetensors::SafeTensors;

const COLUMNS: usize = 128;

/// All formats, with their names in the file.
fn formats() -> Vec<(String, Format)> {
    let mut formats = Vec::new();
    for bits in Format::AFFINE_BITS {
        for group in Format::AFFINE_GROUPS {
            formats.push((format!("affine.{bits}.{group}"), Format::affine(bits, group).unwrap()));
        }
    }
    for format in [Format::MXFP4, Format::MXFP8, Format::NVFP4] {
        formats.push((format.mode().to_string(), format));
    }
    formats.push(("nvfp4.global".to_owned(), Format::NVFP4));
    formats
}

fn floats(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / dtype.size()];
    decode(dtype, bytes, &mut values).unwrap();
    values
}

#[test]
fn encode_and_decode_agree_with_mlx() {
    let file = include_bytes!("vectors/mlx.safetensors");
    let file = SafeTensors::deserialize(file).unwrap();
    let bytes = |name: &str| file.tensor(name).unwrap().data();
    let mut compared = 0;
    for float in [DType::F32, DType::F16, DType::BF16] {
        let weights = floats(float, bytes(&format!("weights.{float}")));
        let global = floats(DType::F32, bytes(&format!("global.{float}")))[0];
        let rows = weights.len() / COLUMNS;
        for (name, format) in formats() {
            let name = format!("{name}.{float}");
            let scaled = name.contains("global");
            let mut encoder = Encoder::new(format, float);
            if scaled {
                encoder = encoder.with_global_scale(global);
            }
            let mut matrix = Quantized::zeroed(format, float, [rows, COLUMNS]).unwrap();
            for (weights, mut row) in weights.chunks(COLUMNS).zip(matrix.rows_mut()) {
                encoder.encode_row(weights, &mut row).unwrap();
            }
            let part = |part: &str| bytes(&format!("{name}.{part}"));
            let (codes, scales) = (part("codes"), part("scales"));
            let biases = if format.mode() == Mode::Affine { part("biases") } else { &[] };
            let found = matrix.into_parts();
            for row in 0..rows {
                let same = |part: &str, found: &[u8], expected: &[u8]| {
                    let size = expected.len() / rows;
                    let range = row * size..(row + 1) * size;
                    assert_eq!(found[range.clone()], expected[range], "{name}, row {row}: {part}");
                };
                same("scales", &found.1, scales);
                same("biases", &found.2, biases);
                same("codes", &found.0, codes);
            }

            let blocks = Blocks::new(format, float, [rows, COLUMNS], codes, scales, biases);
            let blocks = blocks.unwrap().with_factor(encoder.factor());
            // With a global scale MLX computes in f32, whatever type is requested.
            let decoded_type = if scaled { DType::F32 } else { float };
            let expected = floats(decoded_type, part("decoded"));
            let mut decoded = vec![0.0; COLUMNS];
            for (row, expected) in expected.chunks(COLUMNS).enumerate() {
                blocks.decode_row_rounded(row, float, &mut decoded).unwrap();
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&decoded), bits(expected), "{name}, row {row}: decoded");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 3 * 22 * 15);
}
