//! The parts of a layer, each a tensor or a matrix.

use crate::spec::{Conv, Linear, Matrix, Norm, TensorSpec};
use crate::tensors::TensorKind;

use super::{Describe, Role};

/// A tensor of a layer, or some of its rows.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Role in the layer.
    pub role: Role,
    /// The tensor or rows in the checkpoint, with name and shape.
    pub held: Held<'a>,
    /// Component that its parameters count as.
    pub component: Component,
    /// Fraction of such parts that a token reads.
    pub share: Share,
}

/// The form of a part in the checkpoint.
#[derive(Clone, Copy, Debug)]
pub enum Held<'a> {
    /// Rows of a tensor, multiplied or looked up.
    Matrix(&'a Matrix),
    /// Taps of a convolution.
    Conv(&'a TensorSpec),
    /// Any other tensor.
    Vector(&'a TensorSpec),
}

impl<'a> Held<'a> {
    /// The tensor that contains it, and its kind.
    pub fn tensor(self) -> (&'a TensorSpec, TensorKind) {
        match self {
            Self::Matrix(matrix) => (&matrix.tensor, TensorKind::Matrix),
            Self::Conv(tensor) => (tensor, TensorKind::Conv),
            Self::Vector(tensor) => (tensor, TensorKind::Vector),
        }
    }

    /// The matrix, if it is one.
    pub fn matrix(self) -> Option<&'a Matrix> {
        match self {
            Self::Matrix(matrix) => Some(matrix),
            Self::Conv(_) | Self::Vector(_) => None,
        }
    }

    /// Number of elements, saturating.
    pub fn elements(self) -> usize {
        match self {
            Self::Matrix(matrix) => matrix.elements(),
            Self::Conv(tensor) | Self::Vector(tensor) => tensor.elements(),
        }
    }
}

/// A component for parameter counts, such as `attention` or `router`. Ordered as in tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Component {
    /// The kind of layer, then the index of the component within it.
    order: (usize, usize),
    /// Name in tables and JSON.
    pub name: &'static str,
}

/// `used` of `of` equal parts, such as the experts of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Share {
    /// Number of parts that a token reads.
    pub used: usize,
    /// Number of all parts.
    pub of: usize,
}

impl Share {
    /// Every token reads it.
    pub const ALL: Self = Self { used: 1, of: 1 };

    /// The fraction of tokens that read one of the parts, if they are spread evenly.
    pub fn fraction(self) -> f64 {
        self.used as f64 / self.of.max(1) as f64
    }
}

/// A kind of module that checkpoints name and stack in several ways (see `layout.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Module {
    /// Named as in its family's file, in every layout.
    Own,
    /// Queries, keys and values of attention, in this order.
    Attention,
    /// Gate, up and down of a feed-forward network.
    FeedForward,
    /// Gate, up and down of each expert.
    Experts,
    /// Gate, up and down of the expert that every token uses.
    SharedExpert,
    /// The router.
    Router,
}

impl Module {
    /// Whether its projections may have a bias. Experts have none.
    pub fn adds_bias(self) -> bool {
        match self {
            Self::Own | Self::Attention | Self::FeedForward | Self::Router => true,
            Self::Experts | Self::SharedExpert => false,
        }
    }
}

/// Attributes shared by several parts of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Index in [`Layer::components`](super::Layer::components).
    pub component: usize,
    /// Module in checkpoints.
    pub module: Module,
    /// Fraction of the parts that a token reads.
    pub share: Share,
}

impl Section {
    /// Parts that every token reads, counted as the first component.
    pub const fn of(module: Module) -> Self {
        Self { component: 0, module, share: Share::ALL }
    }
}

/// Collects the parts of a layer.
#[derive(Debug)]
pub struct Parts<'a> {
    rank: usize,
    components: &'static [&'static str],
    section: Section,
    all: Vec<Part<'a>>,
}

impl<'a> Parts<'a> {
    pub(super) fn new(rank: usize, components: &'static [&'static str], section: Section) -> Self {
        Self { rank, components, section, all: Vec::new() }
    }

    pub(super) fn into_vec(self) -> Vec<Part<'a>> {
        self.all
    }

    /// Assigns the following parts to `section`.
    pub fn section(&mut self, section: Section) {
        self.section = section;
    }

    /// Adds a projection and its bias.
    pub fn linear(&mut self, role: Role, linear: &'a Linear) {
        self.push(role, Held::Matrix(&linear.weight));
        self.bias(&linear.bias);
    }

    /// Adds a norm and its bias.
    pub fn norm(&mut self, norm: &'a Norm) {
        self.push(Role::Norm, Held::Vector(&norm.weight));
        self.bias(&norm.bias);
    }

    /// Adds a convolution and its bias.
    pub fn conv(&mut self, conv: &'a Conv) {
        self.push(Role::Conv, Held::Conv(&conv.weight));
        self.bias(&conv.bias);
    }

    /// Adds any other tensor.
    pub fn vector(&mut self, role: Role, tensor: &'a TensorSpec) {
        self.push(role, Held::Vector(tensor));
    }

    /// Adds the parts of another layer, in the current section.
    pub fn nested(&mut self, layer: &'a impl Describe) {
        layer.parts(self);
    }

    fn bias(&mut self, bias: &'a Option<TensorSpec>) {
        if let Some(bias) = bias {
            self.push(Role::Bias, Held::Vector(bias));
        }
    }

    fn push(&mut self, role: Role, held: Held<'a>) {
        let Section { component, share, .. } = self.section;
        let name = self.components.get(component).copied().unwrap_or_default();
        let component = Component { order: (self.rank, component), name };
        self.all.push(Part { role, held, component, share });
    }
}

/// A mutable part of a layer.
#[derive(Debug)]
pub(crate) struct PartMut<'a> {
    pub(crate) role: Role,
    pub(crate) module: Module,
    pub(crate) place: Place<'a>,
}

/// A mutable reference to something in a spec that names a tensor.
#[derive(Debug)]
pub(crate) enum Place<'a> {
    /// The embedding table.
    Table(&'a mut Matrix),
    /// A projection with its bias.
    Linear(&'a mut Linear),
    /// The taps of a convolution.
    Conv(&'a mut TensorSpec),
    /// Any other tensor.
    Vector(&'a mut TensorSpec),
}

/// Collects the mutable parts of a layer, with the methods of [`Parts`].
#[derive(Debug)]
pub struct PartsMut<'a> {
    section: Section,
    all: Vec<PartMut<'a>>,
}

impl<'a> PartsMut<'a> {
    pub(super) fn new(section: Section) -> Self {
        Self { section, all: Vec::new() }
    }

    pub(super) fn into_vec(self) -> Vec<PartMut<'a>> {
        self.all
    }

    /// Assigns the following parts to `section`.
    pub fn section(&mut self, section: Section) {
        self.section = section;
    }

    /// Adds a projection and its bias.
    pub fn linear(&mut self, role: Role, linear: &'a mut Linear) {
        self.push(role, Place::Linear(linear));
    }

    /// Adds a norm and its bias.
    pub fn norm(&mut self, norm: &'a mut Norm) {
        self.push(Role::Norm, Place::Vector(&mut norm.weight));
        self.bias(&mut norm.bias);
    }

    /// Adds a convolution and its bias.
    pub fn conv(&mut self, conv: &'a mut Conv) {
        self.push(Role::Conv, Place::Conv(&mut conv.weight));
        self.bias(&mut conv.bias);
    }

    /// Adds any other tensor.
    pub fn vector(&mut self, role: Role, tensor: &'a mut TensorSpec) {
        self.push(role, Place::Vector(tensor));
    }

    /// Adds the parts of another layer, in the current section.
    pub fn nested(&mut self, layer: &'a mut impl Describe) {
        layer.parts_mut(self);
    }

    fn bias(&mut self, bias: &'a mut Option<TensorSpec>) {
        if let Some(bias) = bias {
            self.push(Role::Bias, Place::Vector(bias));
        }
    }

    fn push(&mut self, role: Role, place: Place<'a>) {
        self.all.push(PartMut { role, module: self.section.module, place });
    }
}
