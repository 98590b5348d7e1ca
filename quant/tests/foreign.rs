//! Layers of GPTQ, AWQ and FP8 checkpoints: `vectors/foreign.safetensors`, made by
//! `tests/reference/foreign_vectors.py`.

use kinglet_quant::foreign::{Awq, Converted, ForeignError, Fp8, Gptq, awq, fp8, gptq};
use kinglet_quant::{DType, EncodeError, ErrorMeasure, Format, Mode, Quantized, decode};
use safetensors::SafeTensors;

struct Layer<'a> {
    file: &'a SafeTensors<'a>,
    name: &'a str,
    shape: Vec<usize>,
}

impl<'a> Layer<'a> {
    fn new(file: &'a SafeTensors<'a>, name: &'a str) -> Self {
        let bytes = file.tensor(&format!("{name}.shape")).unwrap().data();
        let shape = bytes.chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()) as usize);
        Self { file, name, shape: shape.collect() }
    }

    fn part(&self, part: &str) -> Option<&'a [u8]> {
        self.file.tensor(&format!("{}.{part}", self.name)).ok().map(|tensor| tensor.data())
    }

    fn float(&self) -> DType {
        [DType::F32, DType::F16, DType::BF16][self.shape[6]]
    }

    fn gptq(&self) -> Gptq<'a> {
        Gptq {
            shape: [self.shape[0], self.shape[1]],
            bits: self.shape[2],
            group: self.shape[3],
            qweight: self.part("qweight").unwrap(),
            qzeros: self.part("qzeros").unwrap(),
            scales: self.part("scales").unwrap(),
            float: self.float(),
            g_idx: self.part("g_idx"),
            v2: self.shape[5] == 2,
        }
    }

    fn awq(&self) -> Awq<'a> {
        let Gptq { shape, group, qweight, qzeros, scales, float, .. } = self.gptq();
        Awq { shape, group, qweight, qzeros, scales, float }
    }

    fn fp8(&self) -> Fp8<'a> {
        Fp8 {
            shape: [self.shape[0], self.shape[1]],
            codes: self.part("codes").unwrap(),
            scales: self.part("scales").unwrap(),
            float: self.float(),
            block: [self.shape[3], self.shape[4]],
            factor: false,
        }
    }

    fn convert(&self) -> Result<Converted, ForeignError> {
        match self.name.split('.').next().unwrap() {
            "gptq" => gptq(&self.gptq()),
            "awq" => awq(&self.awq()),
            _ => fp8(&self.fp8()),
        }
    }

    fn weights(&self) -> Vec<f32> {
        let mut weights = vec![0.0; self.shape[0] * self.shape[1]];
        decode(DType::F32, self.part("weights").unwrap(), &mut weights).unwrap();
        weights
    }
}

fn decoded(matrix: &Quantized) -> Vec<f32> {
    let mut all = vec![0.0; matrix.rows() * matrix.cols()];
    for (row, out) in all.chunks_mut(matrix.cols()).enumerate() {
        matrix.blocks().unwrap().decode_row(row, out).unwrap();
    }
    all
}

fn with_file(test: impl FnOnce(&SafeTensors<'_>)) {
    test(&SafeTensors::deserialize(include_bytes!("vectors/foreign.safetensors")).unwrap());
}

#[test]
fn weights_are_those_of_the_source() {
    with_file(|file| {
        let mut names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
        names.retain_mut(|name| {
            name.strip_suffix(".shape").map(str::to_owned).is_some_and(|layer| {
                *name = layer;
                true
            })
        });
        assert_eq!(names.len(), 18);
        for name in names {
            let layer = Layer::new(file, &name);
            let Converted { matrix, exact } = layer.convert().unwrap();
            assert_eq!(exact, layer.shape[7] == 1, "{name}");
            let (weights, found) = (layer.weights(), decoded(&matrix));
            if exact {
                assert!(weights.iter().zip(&found).all(|(w, f)| w == f), "{name}");
                continue;
            }
            let mut measure = ErrorMeasure::new();
            measure.add(&weights, &found);
            if name == "gptq.narrow" {
                // Taken over unchanged, but products with scales of 24 bits are rounded.
                assert_eq!(matrix.format().bits(), 4);
                assert!(measure.relative_rms() < 1e-6, "{name}: {measure}");
                continue;
            }
            // Encoded again at 8 bits: half a step is 1/510 of a group's range, plus the rounding
            // to a scale that makes zero exact.
            assert_eq!(matrix.format(), Format::affine(8, 32).unwrap());
            assert!(measure.relative_rms() < 0.01, "{name}: {measure}");
        }
    });
}

#[test]
fn scales_keep_their_type_where_biases_fit_it() {
    with_file(|file| {
        for (name, bits, group, float) in [
            // 13 times an 11-bit scale does not fit f16; 8 times does.
            ("gptq.plain", 4, 32, DType::F32),
            ("gptq.symmetric", 4, 64, DType::F16),
            ("gptq.v2", 4, 128, DType::F32),
            // Groups of the whole column are repeated for our largest group that divides 96.
            ("gptq.column", 4, 32, DType::F32),
            ("gptq.runs", 4, 64, DType::F32),
            ("gptq.narrow", 4, 32, DType::F32),
            ("gptq.3bits", 3, 32, DType::F32),
            ("awq.128", 4, 128, DType::F32),
        ] {
            let matrix = Layer::new(file, name).convert().unwrap().matrix;
            let format = Format::affine(bits, group).unwrap();
            assert_eq!((matrix.format(), matrix.float()), (format, float), "{name}");
        }
    });
}

#[test]
fn single_scales_are_exact_as_factors() {
    with_file(|file| {
        let layer = Layer::new(file, "fp8.tensor");
        let converted = fp8(&Fp8 { factor: true, ..layer.fp8() }).unwrap();
        assert!(converted.exact);
        assert_eq!(converted.matrix.format().mode(), Mode::MxFp8);
        assert!((1.0..2.0).contains(&converted.matrix.factor()));
        assert_eq!(decoded(&converted.matrix), layer.weights());
        // Different scales have no common factor.
        let layer = Layer::new(file, "fp8.rows");
        assert!(!fp8(&Fp8 { factor: true, ..layer.fp8() }).unwrap().exact);
    });
}

#[test]
fn inconsistent_parts_are_refused() {
    with_file(|file| {
        let layer = Layer::new(file, "gptq.shuffled");
        let good = layer.gptq();
        assert!(gptq(&good).is_ok());
        let cut = |bytes: &'static str| layer.part(bytes).map(|b| &b[..b.len() - 4]).unwrap();
        for bad in [
            Gptq { qweight: cut("qweight"), ..good },
            Gptq { qzeros: cut("qzeros"), ..good },
            Gptq { scales: cut("scales"), ..good },
            Gptq { g_idx: Some(cut("g_idx")), ..good },
            Gptq { shape: [usize::MAX - 31, 128], ..good },
            Gptq { shape: [32, usize::MAX - 127], ..good },
            Gptq { shape: [0, 128], ..good },
            Gptq { shape: [31, 128], ..good },
            Gptq { shape: [32, 120], ..good },
            Gptq { bits: 5, ..good },
            Gptq { bits: 8, ..good },
            Gptq { group: 0, ..good },
            Gptq { group: 16, ..good },
        ] {
            assert!(gptq(&bad).is_err(), "{:?} {} {}", bad.shape, bad.bits, bad.group);
        }
        for group in [-1i32, 4, i32::MAX] {
            let mut g_idx = good.g_idx.unwrap().to_vec();
            g_idx[20..24].copy_from_slice(&group.to_le_bytes());
            let error = gptq(&Gptq { g_idx: Some(&g_idx), ..good }).unwrap_err();
            assert_eq!(error, ForeignError::Group { column: 5, group, groups: 4 });
        }
        let mut scales = good.scales.to_vec();
        scales[2..4].copy_from_slice(&0x7c00u16.to_le_bytes());
        let error = gptq(&Gptq { scales: &scales, ..good }).unwrap_err();
        assert_eq!(error, ForeignError::Scale { index: 1, value: f32::INFINITY });

        let layer = Layer::new(file, "awq.32");
        let good = layer.awq();
        assert!(awq(&Awq { qweight: &good.qweight[1..], ..good }).is_err());
        assert!(awq(&Awq { qzeros: &good.qzeros[1..], ..good }).is_err());
        assert!(awq(&Awq { shape: [60, 96], ..good }).is_err());
        assert!(awq(&Awq { shape: [usize::MAX & !7, 96], ..good }).is_err());

        let layer = Layer::new(file, "fp8.blocks");
        let good = layer.fp8();
        assert!(fp8(&Fp8 { block: [0, 64], ..good }).is_err());
        assert!(fp8(&Fp8 { block: [64, 64], ..good }).is_err());
        assert!(fp8(&Fp8 { shape: [40, 90], ..good }).is_err());
        assert!(fp8(&Fp8 { shape: [usize::MAX, 96], ..good }).is_err());
        let mut codes = good.codes.to_vec();
        codes[97] = 0xff;
        let error = fp8(&Fp8 { codes: &codes, ..good }).unwrap_err();
        let not_finite = |error: &ForeignError| {
            matches!(error, ForeignError::Encode(EncodeError::NotFinite { column: 1, .. }))
        };
        assert!(not_finite(&error), "{error}");
    });
}
