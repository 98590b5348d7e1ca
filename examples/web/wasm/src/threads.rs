//! Threads of the processor: workers of the page that share the module's memory. The standard library can start none in a browser, so the
//! page is asked for one, and lets it enter the module at [`run_thread`](crate::run_thread).

// An address takes the way through the page to the thread that it is for.
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

/// Starts threads by `start`, on the thread that calls this.
pub(crate) fn spawn(start: Function) -> Spawn {
    START.set(Some(start));
    Spawn::new(|thread| {
        let address = Box::into_raw(Box::new(thread)) as usize;
        let started = START.with_borrow(|start| match start {
            Some(start) => start.call1(&JsValue::NULL, &address.into()).map_err(|e| message(&e)),
            None => Err("another thread's to start".into()),
        });
        started.map(drop).map_err(|error| {
            // SAFETY: nobody has taken the address: it is the box that was just made.
            drop(unsafe { Box::from_raw(address as *mut TeamThread) });
            io::Error::other(error)
        })
    })
}

/// What [`run_thread`](crate::run_thread) does.
pub(crate) fn run(address: usize) {
    // SAFETY: the worker was given the address by `spawn`, which made a box of it and left it to the worker.
    let thread = unsafe { Box::from_raw(address as *mut TeamThread) };
    thread.run();
}
