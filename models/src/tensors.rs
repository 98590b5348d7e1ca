//! The tensors that a [`ModelSpec`] names.

use std::collections::HashSet;

use crate::spec::{Conv, Dense, Linear, Mamba2Gate, Mixer, ModelSpec, Norm, TensorSpec};

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
        let mut all = Vec::new();
        all.push(&self.embedding.table.tensor);
        for block in &self.blocks {
            norm(&mut all, &block.norm);
            for branch in &block.branches {
                mixer(&mut all, &branch.mixer);
            }
        }
        norm(&mut all, &self.head.norm);
        linear(&mut all, &self.head.linear);
        let mut seen = HashSet::new();
        all.retain(|tensor| seen.insert(*tensor));
        all
    }
}

fn linear<'a>(all: &mut Vec<&'a TensorSpec>, linear: &'a Linear) {
    all.push(&linear.weight.tensor);
    all.extend(&linear.bias);
}

fn norm<'a>(all: &mut Vec<&'a TensorSpec>, norm: &'a Norm) {
    all.push(&norm.weight);
    all.extend(&norm.bias);
}

fn conv<'a>(all: &mut Vec<&'a TensorSpec>, conv: &'a Conv) {
    all.push(&conv.weight);
    all.extend(&conv.bias);
}

fn dense<'a>(all: &mut Vec<&'a TensorSpec>, dense: &'a Dense) {
    [&dense.gate, &dense.up, &dense.down].into_iter().for_each(|l| linear(all, l));
}

fn mixer<'a>(all: &mut Vec<&'a TensorSpec>, mixer: &'a Mixer) {
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
            all.extend([&m.a_log, &m.d]);
            linear(all, &m.out_proj);
        }
        Mixer::Mamba2(m) => {
            linear(all, &m.in_proj);
            conv(all, &m.conv);
            all.extend([&m.a_log, &m.d, &m.dt_bias]);
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
