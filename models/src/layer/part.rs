//! The parts that a layer consists of, one tensor or matrix each.

use crate::spec::{Conv, Linear, Matrix, Norm, TensorSpec};
use crate::tensors::TensorKind;

use super::{Describe, Role};

/// One tensor of a layer, or the rows of one.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// What it does.
    pub role: Role,
    /// Where it is in the checkpoint, with its name and shape.
    pub held: Held<'a>,
    /// What its parameters are counted as.
    pub component: Component,
    /// How much of such parts a token reads.
    pub share: Share,
}

/// Where a part is in the checkpoint.
#[derive(Clone, Copy, Debug)]
pub enum Held<'a> {
    /// Rows of a tensor, multiplied with or looked up.
    Matrix(&'a Matrix),
    /// The taps of a convolution.
    Conv(&'a TensorSpec),
    /// Any other tensor.
    Vector(&'a TensorSpec),
}

impl<'a> Held<'a> {
    /// The tensor that holds it, and how that may be stored.
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

/// What parameters are counted as: `attention`, `router`. Ordered as tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Component {
    /// The kind of layer, then the component's place within it.
    order: (usize, usize),
    /// For tables and JSON.
    pub name: &'static str,
}

/// `used` of `of` equal parts: those of a token's experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Share {
    /// Parts that a token reads.
    pub used: usize,
    /// All of them.
    pub of: usize,
}

impl Share {
    /// Every token reads it.
    pub const ALL: Self = Self { used: 1, of: 1 };

    /// The share of all tokens that read one of the parts, if they are spread evenly.
    pub fn fraction(self) -> f64 {
        self.used as f64 / self.of.max(1) as f64
    }
}

/// A kind of module that checkpoints name and stack in several ways: see `layout.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Module {
    /// As its family names it, everywhere.
    Own,
    /// Queries, keys and values of attention, in this order.
    Attention,
    /// Gate, up and down of a feed-forward network.
    FeedForward,
    /// Gate, up and down of each expert.
    Experts,
    /// The same of the expert that sees every token.
    SharedExpert,
    /// What chooses the experts.
    Router,
}

impl Module {
    /// Whether its projections may add a bias. Experts are multiplied without.
    pub fn adds_bias(self) -> bool {
        match self {
            Self::Own | Self::Attention | Self::FeedForward | Self::Router => true,
            Self::Experts | Self::SharedExpert => false,
        }
    }
}

/// Parts of a layer that are counted, stored and used alike.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Index in [`Layer::components`](super::Layer::components).
    pub component: usize,
    /// How checkpoints name them.
    pub module: Module,
    /// How much of them a token reads.
    pub share: Share,
}

impl Section {
    /// Parts that every token reads, counted as the first component.
    pub const fn of(module: Module) -> Self {
        Self { component: 0, module, share: Share::ALL }
    }
}

/// Gathers the parts of a layer.
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

    /// What follows belongs to `section`.
    pub fn section(&mut self, section: Section) {
        self.section = section;
    }

    /// A projection and its bias.
    pub fn linear(&mut self, role: Role, linear: &'a Linear) {
        self.push(role, Held::Matrix(&linear.weight));
        self.bias(&linear.bias);
    }

    /// A norm and its bias.
    pub fn norm(&mut self, norm: &'a Norm) {
        self.push(Role::Norm, Held::Vector(&norm.weight));
        self.bias(&norm.bias);
    }

    /// A convolution and its bias.
    pub fn conv(&mut self, conv: &'a Conv) {
        self.push(Role::Conv, Held::Conv(&conv.weight));
        self.bias(&conv.bias);
    }

    /// Any other tensor.
    pub fn vector(&mut self, role: Role, tensor: &'a TensorSpec) {
        self.push(role, Held::Vector(tensor));
    }

    /// The parts of another layer, in the section that is at hand.
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

/// A part of a layer, to be changed.
#[derive(Debug)]
pub(crate) struct PartMut<'a> {
    pub(crate) role: Role,
    pub(crate) module: Module,
    pub(crate) place: Place<'a>,
}

/// What names a tensor in a spec, to be changed.
#[derive(Debug)]
pub(crate) enum Place<'a> {
    /// The table of embeddings.
    Table(&'a mut Matrix),
    /// A projection with its bias.
    Linear(&'a mut Linear),
    /// The taps of a convolution.
    Conv(&'a mut TensorSpec),
    /// Any other tensor.
    Vector(&'a mut TensorSpec),
}

/// Gathers the parts of a layer that is changed: the methods are those of [`Parts`].
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

    /// What follows belongs to `section`.
    pub fn section(&mut self, section: Section) {
        self.section = section;
    }

    /// A projection and its bias.
    pub fn linear(&mut self, role: Role, linear: &'a mut Linear) {
        self.push(role, Place::Linear(linear));
    }

    /// A norm and its bias.
    pub fn norm(&mut self, norm: &'a mut Norm) {
        self.push(Role::Norm, Place::Vector(&mut norm.weight));
        self.bias(&mut norm.bias);
    }

    /// A convolution and its bias.
    pub fn conv(&mut self, conv: &'a mut Conv) {
        self.push(Role::Conv, Place::Conv(&mut conv.weight));
        self.bias(&mut conv.bias);
    }

    /// Any other tensor.
    pub fn vector(&mut self, role: Role, tensor: &'a mut TensorSpec) {
        self.push(role, Place::Vector(tensor));
    }

    /// The parts of another layer, in the section that is at hand.
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
