//! The few loops that take nearly all of the time, generic over the vector unit.

pub(crate) mod compensated;
pub(crate) mod decay;
pub(crate) mod delta;
pub(crate) mod dot;
pub(crate) mod elementwise;
pub(crate) mod gemm;
pub(crate) mod memory_step;
pub(crate) mod packed;
