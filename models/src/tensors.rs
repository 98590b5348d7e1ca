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

/// What names a tensor in a spec, to be changed.
pub(crate) enum Place<'a> {
    /// The table of embeddings.
    Table(&'a mut Matrix),
    /// A projection, and whether what computes it adds a bias.
    Linear(&'a mut Linear, bool),
    /// The taps of a convolution.
    Conv(&'a mut TensorSpec),
    /// Any other tensor.
    Vector(&'a mut TensorSpec),
}

impl ModelSpec {
    /// Every place that names a tensor, in order of use; the head comes twice where a checkpoint may hold one of its own.
    pub(crate) fn places(&mut self) -> Vec<Place<'_>> {
        let mut all = vec![Place::Table(&mut self.embedding.table)];
        for block in &mut self.blocks {
            norm_places(&mut all, &mut block.norm);
            for branch in &mut block.branches {
                mixer_places(&mut all, &mut branch.mixer);
            }
        }
        norm_places(&mut all, &mut self.head.norm);
        let heads = [Some(&mut self.head.linear), self.head.untied.as_mut()];
        all.extend(heads.into_iter().flatten().map(|linear| Place::Linear(linear, true)));
        all
    }

    /// Every projection, and whether what computes it adds a bias.
    pub fn linears_mut(&mut self) -> Vec<(&mut Linear, bool)> {
        let all = self.places().into_iter();
        all.filter_map(|place| match place {
            Place::Linear(linear, adds_bias) => Some((linear, adds_bias)),
            _ => None,
        })
        .collect()
    }

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

fn norm_places<'a>(all: &mut Vec<Place<'a>>, norm: &'a mut Norm) {
    all.push(Place::Vector(&mut norm.weight));
    all.extend(norm.bias.as_mut().map(Place::Vector));
}

fn conv_places<'a>(all: &mut Vec<Place<'a>>, conv: &'a mut Conv) {
    all.push(Place::Conv(&mut conv.weight));
    all.extend(conv.bias.as_mut().map(Place::Vector));
}

fn mixer_places<'a>(all: &mut Vec<Place<'a>>, mixer: &'a mut Mixer) {
    match mixer {
        Mixer::Attention(a) => {
            all.extend([&mut a.q, &mut a.k, &mut a.v, &mut a.o].map(|l| Place::Linear(l, true)));
            if let Some(qk) = &mut a.qk_norm {
                norm_places(all, &mut qk.q);
                norm_places(all, &mut qk.k);
            }
        }
        Mixer::Mamba(m) => {
            all.push(Place::Linear(&mut m.in_proj, true));
            conv_places(all, &mut m.conv);
            let linears = [&mut m.x_proj, &mut m.dt_proj, &mut m.out_proj];
            all.extend(linears.map(|l| Place::Linear(l, true)));
            all.extend([&mut m.a_log, &mut m.d].map(Place::Vector));
        }
        Mixer::Mamba2(m) => {
            all.extend([&mut m.in_proj, &mut m.out_proj].map(|l| Place::Linear(l, true)));
            conv_places(all, &mut m.conv);
            all.extend([&mut m.a_log, &mut m.d, &mut m.dt_bias].map(Place::Vector));
            if let Mamba2Gate::NormAfter { norm, .. } = &mut m.gate {
                norm_places(all, norm);
            }
        }
        Mixer::MLstm(m) => {
            let linears = [&mut m.q, &mut m.k, &mut m.v, &mut m.ogate];
            all.extend(linears.map(|l| Place::Linear(l, true)));
            let linears = [&mut m.igate, &mut m.fgate, &mut m.out_proj];
            all.extend(linears.map(|l| Place::Linear(l, true)));
            norm_places(all, &mut m.head_norm);
        }
        Mixer::Dense(d) => all.extend(d.linears_mut().into_iter().map(|l| Place::Linear(l, true))),
        Mixer::Moe(m) => {
            all.push(Place::Linear(&mut m.router, true));
            // Experts are multiplied without biases.
            let networks = m.experts.iter_mut().chain(&mut m.shared);
            let linears = networks.flat_map(|dense| dense.linears_mut());
            all.extend(linears.map(|l| Place::Linear(l, false)));
        }
    }
}

impl Dense {
    /// Gate, up and down.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        vec![&mut self.gate, &mut self.up, &mut self.down]
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
