//! Made-up tensors, stored as those of a checkpoint are.

use kinglet_models::{Linear, Matrix, Norm, TensorSpec};
use kinglet_quant::{DType, Encoder, Mode, Quantized, ScaleType, encode};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::Error;
use crate::sampling::Rng;
use crate::weights::{Encoding, Source, Weights};

/// What all made-up numbers are drawn with.
const SEED: u64 = 0x6b69_6e67_6c65_7421;

/// Tensors in the making. Each gets a name of its own; what it is stood for is only asked how it is stored.
pub(super) struct Tensors<'a> {
    real: &'a Weights,
    random: Rng,
    made: Vec<Made>,
    /// How matrices are stored, for the probe's key.
    pub encodings: Vec<String>,
}

struct Made {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// How a matrix is stored, with the type of affine scales.
fn stored(matrix: &crate::weights::MatrixData) -> (Encoding, DType) {
    let float = match (matrix.encoding(), matrix.scaling()) {
        (Encoding::Dense(dtype), _) => dtype,
        (_, Some((ScaleType::Float(dtype), _))) => dtype,
        _ => DType::F32,
    };
    (matrix.encoding(), float)
}

fn dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
    }
}

impl<'a> Tensors<'a> {
    pub(super) fn new(real: &'a Weights) -> Self {
        Self { real, random: Rng::new(SEED), made: Vec::new(), encodings: Vec::new() }
    }

    /// About normal, of mean 0 and variance 1: the sum of uniform numbers (Irwin-Hall).
    fn normal(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| self.random.next_f64()).sum();
        (sum - 6.0) as f32
    }

    fn name(&self, suffix: &str) -> String {
        format!("probe.{}.{suffix}", self.made.len())
    }

    /// A matrix of `rows` by `cols`, stored as `real` is, that keeps the size of what it is multiplied with.
    ///
    /// # Errors
    /// When `real` can't be read, or rows of `cols` can't be stored so.
    pub(super) fn matrix(
        &mut self,
        real: &Matrix,
        rows: usize,
        cols: usize,
    ) -> Result<Matrix, Error> {
        let (encoding, float) = stored(&self.real.matrix(real)?);
        self.encodings.push(format!("{encoding} {float}"));
        let size = (cols.max(1) as f32).powf(-0.5);
        let name = self.name("weight");
        let matrix = Matrix::whole(name.clone(), rows, cols);
        let mut row = vec![0.0f32; cols];
        match encoding {
            Encoding::Dense(dense) => {
                let mut bytes = vec![0; rows * cols * dense.size()];
                for bytes in bytes.chunks_exact_mut((cols * dense.size()).max(1)) {
                    row.iter_mut().for_each(|x| *x = size * self.normal());
                    encode(dense, &row, bytes).map_err(unfit)?;
                }
                let shape = vec![rows, cols];
                self.made.push(Made { name, dtype: dtype(dense), shape, bytes });
            }
            Encoding::Quantized(format) => {
                let encoder = Encoder::new(format, float);
                let mut made = Quantized::zeroed(format, float, [rows, cols]).map_err(unfit)?;
                for mut out in made.rows_mut() {
                    row.iter_mut().for_each(|x| *x = size * self.normal());
                    encoder.encode_row(&row, &mut out).map_err(unfit)?;
                }
                let (codes, scales, biases) = made.into_parts();
                let beside = |what: &str| name.replace(".weight", what);
                let words = vec![rows, format.row_bytes(cols) / 4];
                let groups = vec![rows, format.groups(cols)];
                let affine = format.mode() == Mode::Affine;
                let kind = if affine { dtype(float) } else { Dtype::U8 };
                let companions = [(".scales", scales), (".biases", biases)];
                for (what, bytes) in companions.into_iter().take(1 + usize::from(affine)) {
                    let (name, shape) = (beside(what), groups.clone());
                    self.made.push(Made { name, dtype: kind, shape, bytes });
                }
                self.made.push(Made { name, dtype: Dtype::U32, shape: words, bytes: codes });
            }
        }
        Ok(matrix)
    }

    /// A small tensor around `mean`.
    pub(super) fn vector(&mut self, shape: &[usize], mean: f32) -> TensorSpec {
        let name = self.name("vector");
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| mean + 0.3 * self.normal()).collect();
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.made.push(Made {
            name: name.clone(),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes,
        });
        TensorSpec::new(name, shape)
    }

    /// A projection like `real`.
    pub(super) fn linear(
        &mut self,
        real: &Linear,
        rows: usize,
        cols: usize,
    ) -> Result<Linear, Error> {
        let weight = self.matrix(&real.weight, rows, cols)?;
        let bias = real.bias.as_ref().map(|_| self.vector(&[rows], 0.0));
        Ok(Linear { weight, bias })
    }

    /// A norm like `real`.
    pub(super) fn norm(&mut self, real: &Norm, width: usize) -> Norm {
        Norm {
            weight: self.vector(&[width], 1.0),
            bias: real.bias.as_ref().map(|_| self.vector(&[width], 0.0)),
            eps: real.eps,
        }
    }

    /// All of them, as a file.
    ///
    /// # Errors
    /// When they are no safetensors file, which would be a fault of ours.
    pub(super) fn weights(self) -> Result<Weights, Error> {
        let views = self.made.iter().map(|made| {
            let view = TensorView::new(made.dtype, made.shape.clone(), &made.bytes);
            view.map(|view| (made.name.as_str(), view)).map_err(unfit)
        });
        let views = views.collect::<Result<Vec<_>, Error>>()?;
        let bytes = safetensors::serialize(views, None).map_err(unfit)?;
        Ok(Weights::from_sources(vec![Source::bytes("self-test", bytes)])?)
    }
}

/// A layer that can't be made smaller: then it is not tested.
fn unfit(error: impl std::fmt::Display) -> Error {
    log::debug!("self-test: {error}");
    Error::Unsupported { what: "testing a layer in small" }
}
