//! The few loops in which nearly all time goes, generic over the vector unit.

pub(crate) mod decay;
pub(crate) mod delta;
pub(crate) mod dot;
pub(crate) mod elementwise;
pub(crate) mod gemm;
pub(crate) mod memory_step;
pub(crate) mod packed;
