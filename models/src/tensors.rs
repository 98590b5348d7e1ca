//! Tensors that a [`ModelSpec`] names.

use std::collections::HashSet;

use crate::layer::{GatedDelta, Held, Mixer, Place};
use crate::spec::{Linear, Matrix, ModelSpec, Norm, Positions, TensorSpec};

/// What a checkpoint holds for two matrices that the config ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tie {
    /// Only the embedding, or both with equal values: they are one matrix.
    Same,
    /// Both, with different values: `transformers` keeps both, whatever the config says.
    Different,
    /// Only the head: it is used as the embedding too.
    HeadAlone,
}

/// How a tensor is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorKind {
    /// Multiplied, or looked up by row; may be quantized.
    Matrix,
    /// Taps of a convolution; always dense. `[channels, 1, kernel]` and `[channels, kernel, 1]`
    /// hold the same bytes.
    Conv,
    /// Norms, biases, decays and the like; always dense.
    Vector,
}

impl ModelSpec {
    /// Everything that names a tensor, in order of use. A tied head that a checkpoint may store
    /// separately is included too.
    pub(crate) fn places(&mut self) -> Vec<Place<'_>> {
        let mut all = vec![Place::Table(&mut self.embedding.table)];
        match &mut self.embedding.positions {
            Some(Positions::Learned(table)) => all.push(Place::Table(table)),
            Some(Positions::Sinusoidal) | None => {}
        }
        for block in &mut self.blocks {
            block.norm.iter_mut().for_each(|norm| norm_places(&mut all, norm));
            for branch in &mut block.branches {
                all.extend(branch.mixer.places().into_iter().map(|part| part.place));
            }
            block.post_norm.iter_mut().for_each(|norm| norm_places(&mut all, norm));
            block.stream_norm.iter_mut().for_each(|norm| norm_places(&mut all, norm));
        }
        norm_places(&mut all, &mut self.head.norm);
        let heads = [Some(&mut self.head.linear), self.head.untied.as_mut()];
        all.extend(heads.into_iter().flatten().map(Place::Linear));
        all
    }

    /// Every projection, and whether its computation can add a bias.
    pub fn linears_mut(&mut self) -> Vec<(&mut Linear, bool)> {
        let mut all = Vec::new();
        for branch in self.blocks.iter_mut().flat_map(|block| &mut block.branches) {
            for part in branch.mixer.places() {
                if let Place::Linear(linear) = part.place {
                    all.push((linear, part.module.adds_bias()));
                }
            }
        }
        all.push((&mut self.head.linear, true));
        all.extend(self.head.untied.as_mut().map(|linear| (linear, true)));
        all
    }

    /// Resolves the tie of head and embedding by what the checkpoint holds. Specs without a tie do
    /// not change.
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

    /// Takes over where a checkpoint cuts convolutions that lie side by side: together they have the channels that they must have, but
    /// `transformers` saves those of OLMo Hybrid in three equal parts, wherever queries and keys end. `shape` is that of a stored tensor.
    pub fn fit_convs<'a>(&mut self, shape: impl Fn(&str) -> Option<&'a [usize]>) {
        for branch in self.blocks.iter_mut().flat_map(|block| &mut block.branches) {
            let Mixer::GatedDelta(GatedDelta { convs, .. }) = &mut branch.mixer else { continue };
            let stored = convs.iter().map(|conv| {
                let channels = shape(&conv.weight.name)?.first().copied();
                channels.filter(|_| conv.bias.is_none())
            });
            let Some(stored) = stored.collect::<Option<Vec<_>>>() else { continue };
            let total: usize = convs.iter().map(|conv| conv.channels).sum();
            if stored.iter().fold(0usize, |sum, n| sum.saturating_add(*n)) != total {
                continue;
            }
            for (conv, channels) in convs.iter_mut().zip(stored) {
                conv.channels = channels;
                conv.weight.shape.iter_mut().take(1).for_each(|first| *first = channels);
            }
        }
    }

    /// Every tensor that the model needs, once, in order of first use.
    pub fn tensors(&self) -> Vec<&TensorSpec> {
        self.tensors_by_kind().into_iter().map(|(tensor, _)| tensor).collect()
    }

    /// Like [`tensors`](Self::tensors), with the kind of each.
    pub fn tensors_by_kind(&self) -> Vec<(&TensorSpec, TensorKind)> {
        let mut seen = HashSet::new();
        let all = self.walk().into_iter().map(Held::tensor);
        all.filter(|(tensor, _)| seen.insert(*tensor)).collect()
    }

    /// Every matrix in order of use, from the embedding's table to the head's. Matrices that are
    /// rows of one tensor are listed separately, and a tied table twice, so the matrices of two
    /// layouts can be zipped.
    pub fn matrices(&self) -> Vec<&Matrix> {
        self.walk().into_iter().filter_map(Held::matrix).collect()
    }

    fn walk(&self) -> Vec<Held<'_>> {
        let mut all = vec![Held::Matrix(&self.embedding.table)];
        let positions = self.embedding.positions.as_ref().and_then(Positions::table);
        all.extend(positions.map(Held::Matrix));
        for block in &self.blocks {
            block.norm.iter().for_each(|before| norm(&mut all, before));
            for branch in &block.branches {
                all.extend(branch.mixer.parts().into_iter().map(|part| part.held));
            }
            block.post_norm.iter().for_each(|after| norm(&mut all, after));
            block.stream_norm.iter().for_each(|after| norm(&mut all, after));
        }
        norm(&mut all, &self.head.norm);
        all.push(Held::Matrix(&self.head.linear.weight));
        all.extend(self.head.linear.bias.as_ref().map(Held::Vector));
        all
    }
}

fn norm<'a>(all: &mut Vec<Held<'a>>, norm: &'a Norm) {
    all.push(Held::Vector(&norm.weight));
    all.extend(norm.bias.as_ref().map(Held::Vector));
}

fn norm_places<'a>(all: &mut Vec<Place<'a>>, norm: &'a mut Norm) {
    all.push(Place::Vector(&mut norm.weight));
    all.extend(norm.bias.as_mut().map(Place::Vector));
}
