//! A convolution over a few tokens between two gates.

use crate::spec::{Conv, Linear};

use super::{Layer, Mixer, Module, Role, Rope, Section, Small};

/// Gated short convolution (Liquid AI, "LFM2 Technical Report", arXiv:2511.23404, 2025).
///
/// With `[B | C | x] = in_proj(u)`: `y = out_proj(C * conv(B * x))`. There is no activation.
#[derive(Clone, Debug, PartialEq)]
pub struct ShortConv {
    /// `[3 * channels, hidden]`: B, C, x.
    pub in_proj: Linear,
    /// Over `channels`.
    pub conv: Conv,
    /// `[hidden, channels]`.
    pub out_proj: Linear,
}

describe!(ShortConv, |parts| ShortConv { in_proj, conv, out_proj } => {
    parts.linear(Role::In, in_proj);
    parts.conv(conv);
    parts.linear(Role::Out, out_proj);
});

impl Layer for ShortConv {
    fn kind(&self) -> &'static str {
        "short conv"
    }

    fn title(&self) -> &'static str {
        "short convolution"
    }

    fn components(&self) -> &'static [&'static str] {
        &["short conv"]
    }

    fn section(&self) -> Section {
        Section::of(Module::Own)
    }

    fn sizes(&self) -> String {
        let channels = super::plural(self.conv.channels, "channel");
        format!("{channels}, conv {}", self.conv.kernel)
    }

    fn rope(&self) -> Option<&Rope> {
        None
    }

    fn small(&self, to: &Small) -> Mixer {
        let channels = self.conv.channels.min(to.width);
        Mixer::ShortConv(Self {
            in_proj: self.in_proj.sized(3 * channels, to.hidden),
            conv: self.conv.sized(channels),
            out_proj: self.out_proj.sized(to.hidden, channels),
        })
    }
}
