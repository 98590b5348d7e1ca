//! Kinglet in WebAssembly, called by the package's worker. Only plain values cross the boundary: JSON
//! for structured data, bytes for large data. Only `package/worker.ts` calls this, with few and coarse
//! calls.

mod answer;
mod engine;
mod error;
mod files;
mod measure;
mod sequence;
mod threads;

use wasm_bindgen::prelude::*;

/// Logs the message of a panic: the module ends with it, and the worker reports the last message.
#[wasm_bindgen(start)]
pub fn start() {
    std::panic::set_hook(Box::new(|panic| {
        let message = js_sys::JsString::from(panic.to_string());
        let name = JsValue::from_str("kingletPanic");
        // If even this fails, there is no way to report it.
        let _ = js_sys::Reflect::set(&js_sys::global(), &name, &message);
    }));
}

/// Runs a compute thread until its model is freed. Called once, by the worker that was started with
/// `address`.
#[wasm_bindgen(js_name = runThread)]
pub fn run_thread(address: usize) {
    threads::run(address);
}
