//! Inference engine for recurrent and hybrid language models.

mod cpu;
pub mod op;
pub mod plan;
