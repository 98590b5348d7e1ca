//! CPU threads: workers of the page that share the module's memory. The standard library can't start
//! threads in a browser, so the page starts a worker, which enters the module at
//! [`run_thread`](crate::run_thread).

// The page passes each address to the thread it belongs to.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::io;

use js_sys::Function;
use kinglet::{Spawn, TeamThread};
use wasm_bindgen::prelude::*;

use crate::error::message;

thread_local! {
    /// `(address)`, which starts a worker that calls [`run_thread`](crate::run_thread) with it.
    static START: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// Starts threads through `start`, on the calling thread.
pub(crate) fn spawn(start: Function) -> Spawn {
    START.set(Some(start));
    Spawn::new(|thread| {
        let address = Box::into_raw(Box::new(thread)) as usize;
        let started = START.with_borrow(|start| match start {
            Some(start) => start.call1(&JsValue::NULL, &address.into()).map_err(|e| message(&e)),
            None => Err("only the thread that opened the model can start threads".into()),
        });
        started.map(drop).map_err(|error| {
            // SAFETY: the address is the box that was just made, and was not passed on.
            drop(unsafe { Box::from_raw(address as *mut TeamThread) });
            io::Error::other(error)
        })
    })
}

/// Implements [`run_thread`](crate::run_thread).
pub(crate) fn run(address: usize) {
    // SAFETY: `spawn` made a box for this address and gave it to this worker.
    let thread = unsafe { Box::from_raw(address as *mut TeamThread) };
    thread.run();
}
