//! Handles: integers in the form of pointers, looked up in a table and never dereferenced.
//!
//! A process never reuses a number, so a deleted handle stays invalid, and using or deleting it
//! again returns a status. An object that is deleted during another thread's call lives until that
//! call returns.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::status::{Failure, kinglet_status};

/// An object that C programs hold through a handle of type [`Object::Handle`].
pub(crate) trait Object: Any + Send + Sync {
    /// Opaque type in the header.
    type Handle;
    /// Name in messages.
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

/// Distance between handles, so that a pointer that is slightly wrong is not a valid handle.
const STEP: usize = 16;

fn invalid(message: String) -> Failure {
    Failure::new(kinglet_status::KINGLET_INVALID_HANDLE, message)
}

/// Inserts an object and returns its handle.
pub(crate) fn insert<T: Object>(object: Arc<T>) -> Result<*mut T::Handle, Failure> {
    // Nothing under the lock can panic.
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
        invalid(format!("{number:#x} is not a {name}"))
    }
}

/// Looks up the object of a handle.
pub(crate) fn get<T: Object>(handle: *const T::Handle) -> Result<Arc<T>, Failure> {
    let number = handle.addr();
    let table = TABLE.read().unwrap_or_else(PoisonError::into_inner);
    let found = table.entries.as_ref().and_then(|entries| entries.get(&number));
    let Some(entry) = found else { return Err(missing(&table, number, T::NAME)) };
    let other = entry.name;
    Arc::downcast(entry.object.clone())
        .map_err(|_| invalid(format!("expected a {}, got a {other}", T::NAME)))
}

/// Looks up the object of a handle that may be null.
pub(crate) fn get_optional<T: Object>(handle: *const T::Handle) -> Result<Option<Arc<T>>, Failure> {
    if handle.is_null() { Ok(None) } else { get(handle).map(Some) }
}

/// Removes a handle. Null is allowed.
pub(crate) fn delete<T: Object>(handle: *mut T::Handle) -> Result<(), Failure> {
    let number = handle.addr();
    if number == 0 {
        return Ok(());
    }
    // Checks the type: a handle of another kind stays valid.
    get::<T>(handle)?;
    let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
    let entry = table.entries.as_mut().and_then(|entries| entries.remove(&number));
    let result = if entry.is_some() { Ok(()) } else { Err(missing(&table, number, T::NAME)) };
    drop(table);
    // Dropping a model joins threads and may take time, so do it without the lock.
    drop(entry);
    result
}
