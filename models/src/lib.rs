//! Model families of the Kinglet inference engine: `config.json` becomes a [`ModelSpec`].

mod spec;

pub use spec::*;
