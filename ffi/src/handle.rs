//! Handles: numbers in the form of pointers, looked up in a table and never followed.
//!
//! A number is given out once in the life of a process, so that a handle that was deleted stays invalid: what is deleted twice or used after
//! it was deleted gets a status. An object that is deleted while another thread's call works on it lives until that call is over.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::status::{Failure, kinglet_status};

/// An object that C programs hold by a handle of type [`Object::Handle`].
pub(crate) trait Object: Any + Send + Sync {
    /// The opaque type of the header.
    type Handle;
    /// What messages call it.
    const NAME: &'static str;
}

struct Entry {
    name: &'static str,
    object: Arc<dyn Any + Send + Sync>,
}

struct Table {
    entries: Option<HashMap<usize, Entry>>,
    last: usize,
}

static TABLE: RwLock<Table> = RwLock::new(Table { entries: None, last: 0 });

/// Numbers are this far apart, so that one that is a little off is none.
const STEP: usize = 16;

fn invalid(message: String) -> Failure {
    Failure::new(kinglet_status::KINGLET_INVALID_HANDLE, message)
}

/// Gives the object a handle.
pub(crate) fn insert<T: Object>(object: Arc<T>) -> Result<*mut T::Handle, Failure> {
    // Nothing that can panic is done under the lock.
    let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
    let number = table.last.checked_add(STEP).ok_or_else(|| {
        Failure::new(kinglet_status::KINGLET_OUT_OF_MEMORY, "no handles are left in this process")
    })?;
    table.last = number;
    let entry = Entry { name: T::NAME, object };
    table.entries.get_or_insert_default().insert(number, entry);
    Ok(std::ptr::without_provenance_mut(number))
}

fn missing(table: &Table, number: usize, name: &str) -> Failure {
    if number == 0 {
        Failure::argument(format!("the {name} is null"))
    } else if number <= table.last && number.is_multiple_of(STEP) {
        invalid(format!("the {name} has been deleted"))
    } else {
        invalid(format!("{number:#x} is no {name}"))
    }
}

/// The object of a handle.
pub(crate) fn get<T: Object>(handle: *const T::Handle) -> Result<Arc<T>, Failure> {
    let number = handle.addr();
    let table = TABLE.read().unwrap_or_else(PoisonError::into_inner);
    let found = table.entries.as_ref().and_then(|entries| entries.get(&number));
    let Some(entry) = found else { return Err(missing(&table, number, T::NAME)) };
    let other = entry.name;
    Arc::downcast(entry.object.clone())
        .map_err(|_| invalid(format!("a {} is needed, not a {other}", T::NAME)))
}

/// The object of a handle that may be null.
pub(crate) fn get_optional<T: Object>(handle: *const T::Handle) -> Result<Option<Arc<T>>, Failure> {
    if handle.is_null() { Ok(None) } else { get(handle).map(Some) }
}

/// Takes a handle back; null is none, and fine.
pub(crate) fn delete<T: Object>(handle: *mut T::Handle) -> Result<(), Failure> {
    let number = handle.addr();
    if number == 0 {
        return Ok(());
    }
    // Another kind's handle stays.
    get::<T>(handle)?;
    let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
    let entry = table.entries.as_mut().and_then(|entries| entries.remove(&number));
    let result = if entry.is_some() { Ok(()) } else { Err(missing(&table, number, T::NAME)) };
    drop(table);
    // To drop a model joins threads and may take time: not under the lock.
    drop(entry);
    result
}
