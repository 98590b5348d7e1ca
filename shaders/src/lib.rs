//! WGSL shaders of the Kinglet inference engine.
//!
//! No shader is here yet: today every op runs on the CPU. An op's shader will be `src/NAME.wgsl`, under the
//! name that the op has in `runtime/src/op/`.
