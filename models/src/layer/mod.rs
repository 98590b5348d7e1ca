//! The kinds of layer: one file each, with the equation, the struct and one description of its
//! parts.
//!
//! Everything that walks a layer's tensors uses that description: checking a checkpoint, names and
//! stacks of other layouts, quantizing, counting parameters, the self-test on a device. A new kind
//! of layer is a new file here and a line in [`Mixer`]; its lowering into ops is
//! `runtime/src/plan/lower/NAME.rs`.

#![deny(clippy::wildcard_enum_match_arm)]

mod part;
mod role;
mod small;

/// Describes the parts of a layer once, for shared and for mutable access: the pattern binds
/// references of either kind. It names every field, so a new field can't be forgotten.
macro_rules! describe {
    ($layer:ident, |$parts:ident| $fields:pat => $body:block) => {
        impl $crate::layer::Describe for $layer {
            fn parts<'a>(&'a self, $parts: &mut $crate::layer::Parts<'a>) {
                let $fields = self;
                $body
            }

            fn parts_mut<'a>(&'a mut self, $parts: &mut $crate::layer::PartsMut<'a>) {
                let $fields = self;
                $body
            }
        }
    };
}

mod attention;
mod dense;
mod gated_delta;
mod hybrid_attention;
mod kernel_attention;
mod latent_attention;
mod linear_attention;
mod mamba;
mod mamba2;
mod mlstm;
mod moe;
mod multi_level_attention;
mod router;
mod short_conv;
mod slstm;

#[cfg(test)]
mod tests;

pub use attention::{Attention, DynamicRope, QkNorm, QkvAdapters, Rope};
pub use dense::{Activation, Dense};
pub use gated_delta::{
    DeltaInputs, DeltaProjection, DeltaProjections, GateActivation, GatedDelta, KeyHeadProjections,
};
pub use hybrid_attention::{HybridAttention, Tiers};
pub use kernel_attention::KernelAttention;
pub use latent_attention::{LatentAttention, LatentQueries};
pub use linear_attention::LinearAttention;
pub use mamba::{BcdtNorm, BcdtWeights, Mamba};
pub use mamba2::{Mamba2, Mamba2Gate};
pub use mlstm::{MLstm, MLstmInner, MLstmSizes};
pub use moe::{Latent, Moe};
pub use multi_level_attention::MultiLevelAttention;
pub use part::{Component, Held, Module, Part, Parts, PartsMut, Section, Share};
pub(crate) use part::{PartMut, Place};
pub use role::{Precision, Role};
pub use router::{ExpertGroups, GroupRank, Router, Score};
pub use short_conv::ShortConv;
pub use slstm::{CellGating, ForgetGate, SLstm};
pub use small::{Small, SmallPart};

/// The interface of a kind of layer. No method has a default, so a new kind must implement all of
/// them.
pub trait Layer: Describe {
    /// Name in tables and JSON.
    fn kind(&self) -> &'static str;

    /// Name in a sentence.
    fn title(&self) -> &'static str;

    /// Names under which its parameters are counted, in the order of tables; a [`Section`] refers
    /// to them by index.
    fn components(&self) -> &'static [&'static str];

    /// The section of parts that the description assigns to no other.
    fn section(&self) -> Section;

    /// Sizes and switches, as text.
    fn sizes(&self) -> String;

    /// The position encoding, if the layer has one.
    fn rope(&self) -> Option<&Rope>;

    /// A small version of the layer: the same kernels, fewer heads, channels and experts.
    fn small(&self, to: &Small) -> Mixer;
}

/// The parts of a layer, in order of use; see the macro `describe`.
pub trait Describe {
    /// Visits every part.
    fn parts<'a>(&'a self, parts: &mut Parts<'a>);

    /// Visits every part, mutably.
    fn parts_mut<'a>(&'a mut self, parts: &mut PartsMut<'a>);
}

impl<T: Describe> Describe for Box<T> {
    fn parts<'a>(&'a self, parts: &mut Parts<'a>) {
        (**self).parts(parts);
    }

    fn parts_mut<'a>(&'a mut self, parts: &mut PartsMut<'a>) {
        (**self).parts_mut(parts);
    }
}

macro_rules! mixers {
    ($($(#[$doc:meta])* $kind:ident,)*) => {
        /// What a branch computes from the normed residual stream.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Mixer {
            $($(#[$doc])* $kind($kind),)*
        }

        impl Mixer {
            /// The layer's description.
            pub fn layer(&self) -> &dyn Layer {
                match self {
                    $(Self::$kind(layer) => layer,)*
                }
            }

            fn layer_mut(&mut self) -> &mut dyn Layer {
                match self {
                    $(Self::$kind(layer) => layer,)*
                }
            }

            /// Index of its kind in the order of declaration, which tables use.
            fn rank(&self) -> usize {
                enum Rank { $($kind,)* }
                match self {
                    $(Self::$kind(_) => Rank::$kind as usize,)*
                }
            }
        }
    };
}

mixers! {
    /// Multi-head attention with grouped key/value heads.
    Attention,
    /// Attention over latents, from which keys and values of all heads follow (DeepSeek-V2).
    LatentAttention,
    /// Selective state space with a state per channel (Mamba).
    Mamba,
    /// Selective state space with a scalar decay per head (Mamba-2).
    Mamba2,
    /// Matrix-memory LSTM (xLSTM).
    MLstm,
    /// Linear attention by the gated delta rule.
    GatedDelta,
    /// Gated short convolution (LFM2).
    ShortConv,
    /// Linear attention with a fixed decay for each head (MiniMax).
    LinearAttention,
    /// Linear attention that is normalised by the sum of its weights.
    KernelAttention,
    /// LSTM with a memory for each channel (xLSTM).
    SLstm,
    /// Attention whose reach changes with the position.
    HybridAttention,
    /// Attention to means of blocks, at several levels.
    MultiLevelAttention,
    /// Gated feed-forward network.
    Dense,
    /// Mixture of experts.
    Moe,
}

impl Mixer {
    /// Its parts, in order of use.
    pub fn parts(&self) -> Vec<Part<'_>> {
        let layer = self.layer();
        let mut parts = Parts::new(self.rank(), layer.components(), layer.section());
        layer.parts(&mut parts);
        parts.into_vec()
    }

    /// The same parts in the same order, mutable.
    pub(crate) fn places(&mut self) -> Vec<PartMut<'_>> {
        let layer = self.layer_mut();
        let mut parts = PartsMut::new(layer.section());
        layer.parts_mut(&mut parts);
        parts.into_vec()
    }
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Heads and their width, in words.
fn grouped_heads(heads: usize, kv_heads: usize, head_dim: usize) -> String {
    let text = format!("{} of {head_dim}", plural(heads, "head"));
    if kv_heads == heads { text } else { format!("{text}, {kv_heads} for keys and values") }
}
