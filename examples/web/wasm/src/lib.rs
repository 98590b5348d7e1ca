//! Kinglet in WebAssembly: what the worker of the package calls. Plain values cross the border: JSON for what has structure, bytes for
//! what is large. Nothing here is meant to be called but by `package/worker.ts`, which is why it keeps to few and coarse calls.

mod answer;
mod engine;
mod error;
mod files;
mod measure;
mod sequence;
mod threads;

use wasm_bindgen::prelude::*;

/// Lets a panic say what it was: the module ends with it, and the worker reports the last message.
#[wasm_bindgen(start)]
pub fn start() {
    std::panic::set_hook(Box::new(|panic| {
        let message = js_sys::JsString::from(panic.to_string());
        let name = JsValue::from_str("kingletPanic");
        // Where even this fails there is nobody left to tell.
        let _ = js_sys::Reflect::set(&js_sys::global(), &name, &message);
    }));
}

/// Computes with the others until their model is freed. For the worker that was started with `address`, once.
#[wasm_bindgen(js_name = runThread)]
pub fn run_thread(address: usize) {
    threads::run(address);
}
