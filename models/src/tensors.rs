//! The tensors that a [`ModelSpec`] names.

use std::collections::HashSet;

use crate::spec::{Conv, Dense, Linear, Mamba2Gate, Matrix, Mixer, ModelSpec, Norm, TensorSpec};

/// What a checkpoint holds of the two matrices that a config ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tie {
    /// Only the embedding, or both with equal values: they are one.
    Same,
    /// Both, with different values: `transformers` keeps both, whatever the config says.
    Different,
    /// Only the head: it serves as embedding too.
    HeadAlone,
}

/// How a tensor is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorKind {
    /// Multiplied with, or looked up by row: may be quantized.
    Matrix,
    /// The taps of a convolution: always dense. `[channels, 1, kernel]` and `[channels, kernel, 1]` hold the same bytes.
    Conv,
    /// Norms, biases, decays and the like: always dense.
    Vector,
}

/// What a walk over a spec comes by.
enum Found<'a> {
    Matrix(&'a Matrix),
    Conv(&'a TensorSpec),
    Vector(&'a TensorSpec),
}

impl<'a> Found<'a> {
    fn tensor(&self) -> (&'a TensorSpec, TensorKind) {
        match self {
            Self::Matrix(matrix) => (&matrix.tensor, TensorKind::Matrix),
            Self::Conv(tensor) => (tensor, TensorKind::Conv),
            Self::Vector(tensor) => (tensor, TensorKind::Vector),
        }
    }
}

impl ModelSpec {
    /// Fits a spec whose config ties head and embedding to what the checkpoint holds. Nothing happens to others.
    pub fn settle_tie(&mut self, tie: Tie) {
        let Some(untied) = self.head.untied.take() else { return };
        match tie {
            Tie::Same => {}
            Tie::Different => self.head.linear = untied,
            Tie::HeadAlone => {
                self.embedding.table = untied.weight.clone();
                self.head.linear = untied;
            }
        }
    }

    /// Every tensor that the model needs, in order of first use, each once.
    pub fn tensors(&self) -> Vec<&TensorSpec> {
        self.tensors_by_kind().into_iter().map(|(tensor, _)| tensor).collect()
    }

    /// As [`tensors`](Self::tensors), with how each is used.
    pub fn tensors_by_kind(&self) -> Vec<(&TensorSpec, TensorKind)> {
        let mut seen = HashSet::new();
        let all = self.walk().into_iter().map(|found| found.tensor());
        all.filter(|(tensor, _)| seen.insert(*tensor)).collect()
    }

    /// Every matrix, in order of use: the embedding's table first, the head's last. Matrices that are rows of one tensor are
    /// one by one, and a tied table comes twice, so that the matrices of two layouts can be zipped.
    pub fn matrices(&self) -> Vec<&Matrix> {
        let all = self.walk().into_iter();
        all.filter_map(|found| if let Found::Matrix(matrix) = found { Some(matrix) } else { None })
            .collect()
    }

    fn walk(&self) -> Vec<Found<'_>> {
        let mut all = vec![Found::Matrix(&self.embedding.table)];
        for block in &self.blocks {
            norm(&mut all, &block.norm);
            for branch in &block.branches {
                mixer(&mut all, &branch.mixer);
            }
        }
        norm(&mut all, &self.head.norm);
        linear(&mut all, &self.head.linear);
        all
    }
}

fn linear<'a>(all: &mut Vec<Found<'a>>, linear: &'a Linear) {
    all.push(Found::Matrix(&linear.weight));
    all.extend(linear.bias.as_ref().map(Found::Vector));
}

fn norm<'a>(all: &mut Vec<Found<'a>>, norm: &'a Norm) {
    all.push(Found::Vector(&norm.weight));
    all.extend(norm.bias.as_ref().map(Found::Vector));
}

fn conv<'a>(all: &mut Vec<Found<'a>>, conv: &'a Conv) {
    all.push(Found::Conv(&conv.weight));
    all.extend(conv.bias.as_ref().map(Found::Vector));
}

fn dense<'a>(all: &mut Vec<Found<'a>>, dense: &'a Dense) {
    [&dense.gate, &dense.up, &dense.down].into_iter().for_each(|l| linear(all, l));
}

fn mixer<'a>(all: &mut Vec<Found<'a>>, mixer: &'a Mixer) {
    match mixer {
        Mixer::Attention(a) => {
            [&a.q, &a.k, &a.v, &a.o].into_iter().for_each(|l| linear(all, l));
            if let Some(qk) = &a.qk_norm {
                norm(all, &qk.q);
                norm(all, &qk.k);
            }
        }
        Mixer::Mamba(m) => {
            linear(all, &m.in_proj);
            conv(all, &m.conv);
            [&m.x_proj, &m.dt_proj].into_iter().for_each(|l| linear(all, l));
            all.extend([&m.a_log, &m.d].map(Found::Vector));
            linear(all, &m.out_proj);
        }
        Mixer::Mamba2(m) => {
            linear(all, &m.in_proj);
            conv(all, &m.conv);
            all.extend([&m.a_log, &m.d, &m.dt_bias].map(Found::Vector));
            if let Mamba2Gate::NormAfter { norm: n, .. } = &m.gate {
                norm(all, n);
            }
            linear(all, &m.out_proj);
        }
        Mixer::MLstm(m) => {
            [&m.q, &m.k, &m.v, &m.ogate, &m.igate, &m.fgate, &m.out_proj]
                .into_iter()
                .for_each(|l| linear(all, l));
            norm(all, &m.head_norm);
        }
        Mixer::Dense(d) => dense(all, d),
        Mixer::Moe(m) => {
            linear(all, &m.router);
            m.experts.iter().chain(&m.shared).for_each(|d| dense(all, d));
        }
    }
}
