//! The Jinja environment that chat templates expect, as `transformers` sets it up.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Object, Rest, Tuple, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::{DateTime, guard, json, methods};

/// Deepest nesting of containers in a value that a template stores.
const MAX_DEPTH: usize = 200;
/// Deepest nesting of loops and macro calls, as minijinja counts it.
const RECURSION_LIMIT: usize = 250;
/// The variable that passes in the time of a rendering.
pub(super) const NOW: &str = "__kinglet_now";

/// The source of an error that a template raised with `raise_exception`.
#[derive(Debug)]
pub(super) struct Refused(pub(super) String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// Makes the time opaque: a template can reach it only through `strftime_now`.
impl Object for DateTime {}

/// The environment, without any template.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    // Errors then name the expression; by default only debug builds do.
    env.set_debug(true);
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    // A macro may call itself some hundred times. More would need a larger stack.
    env.set_recursion_limit(RECURSION_LIMIT);
    env.set_unknown_method_callback(methods::call);
    env.set_formatter(|out, _state, value| {
        if value.is_undefined() {
            return Ok(());
        }
        out.write_str(&json::python_str(value)).map_err(Error::from)
    });
    env.remove_global("debug");
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", strftime_now);
    env.add_function("joiner", minijinja_contrib::globals::joiner);
    env.add_function("cycler", |items: Rest<Value>| {
        minijinja_contrib::globals::cycler(items.to_vec())
    });
    env.add_function(guard::BOUNDED, bounded);
    env.add_function(guard::STORED, stored);
    env.add_filter("tojson", json::tojson);
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_filter("string", |value: Value| {
        if value.kind() == ValueKind::String { value } else { json::python_str(&value).into() }
    });
    env.add_filter("indent", methods::indent);
    env.add_test("sequence", is_sequence);
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_test("callable", is_callable);
    Ok(env)
}

fn raise_exception(message: Value) -> Result<Value, Error> {
    let message = message.to_string();
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Refused(message)))
}

fn strftime_now(state: &State<'_, '_>, format: &str) -> Result<String, Error> {
    let error = |problem: String| Error::new(ErrorKind::InvalidOperation, problem);
    let now = state
        .lookup(NOW)
        .and_then(|now| now.downcast_object_ref::<DateTime>().copied())
        .ok_or_else(|| {
            error("strftime_now: there is no clock; pass the time as an option".into())
        })?;
    now.format(format)
        .map_err(|directive| error(format!("strftime_now: unknown directive {directive}")))
}

/// The filter `default`: replaces undefined values, and with `boolean` all false ones.
fn default(
    value: Value,
    other: Option<Value>,
    boolean: Option<bool>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let other = other.or(kwargs.get("default_value")?).unwrap_or_else(|| "".into());
    let boolean = boolean.or(kwargs.get("boolean")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let missing = value.is_undefined() || boolean && !value.is_true();
    Ok(if missing { other } else { value })
}

/// The filter `int`. Values that are not numbers fall back to the default.
fn int(value: Value, default: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = default.or(kwargs.get("default")?).unwrap_or_else(|| 0.into());
    kwargs.assert_all_used()?;
    Ok(match to_number(&value) {
        Some(number) if number.is_integer() => number,
        // `as` saturates; Python has integers of any size.
        Some(number) => match f64::try_from(number) {
            Ok(float) if float.is_finite() => Value::from(float.trunc() as i128),
            _ => default,
        },
        None => default,
    })
}

/// The filter `float`. Values that are not numbers fall back to the default.
fn float(value: Value, default: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = default.or(kwargs.get("default")?).unwrap_or_else(|| Value::from(0.0));
    kwargs.assert_all_used()?;
    let number = to_number(&value).and_then(|number| f64::try_from(number).ok());
    Ok(number.map_or(default, Value::from))
}

/// Converts a number, or a string that spells one.
fn to_number(value: &Value) -> Option<Value> {
    match value.kind() {
        ValueKind::Number => Some(value.clone()),
        ValueKind::Bool => Some(Value::from(i64::from(value.is_true()))),
        ValueKind::String => {
            let text = value.as_str()?.trim().replace('_', "");
            let integer = text.parse::<i128>().ok().map(Value::from);
            integer.or_else(|| text.parse::<f64>().ok().map(Value::from))
        }
        _ => None,
    }
}

/// In Jinja everything with a length and an index is a sequence, including strings and mappings.
fn is_sequence(value: &Value) -> bool {
    value.is_undefined()
        || matches!(
            value.kind(),
            ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
        )
}

fn is_callable(value: &Value) -> bool {
    value.kind() == ValueKind::Plain
}

/// Checks a value that a template stores in a variable; see [`guard`].
fn bounded(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    Ok(settle(state, &value, 0, true)?.unwrap_or(value))
}

/// Checks a value that a template stores in a namespace; see [`guard`].
fn stored(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    Ok(settle(state, &value, 0, false)?.unwrap_or(value))
}

/// Checks the depth of a value and turns lazy sequences in it into lists. `None` if nothing
/// changes.
fn settle(
    state: &State<'_, '_>,
    value: &Value,
    depth: usize,
    namespaces: bool,
) -> Result<Option<Value>, Error> {
    let kind = value.kind();
    if !matches!(kind, ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
        return Ok(None);
    }
    let error = |problem: String| Err(Error::new(ErrorKind::InvalidOperation, problem));
    if depth > MAX_DEPTH {
        return error(format!("a stored value is nested more than {MAX_DEPTH} deep"));
    }
    if kind == ValueKind::Map {
        let namespace = is_namespace(value);
        if namespace && !namespaces {
            return error("a namespace cannot be stored in a namespace".into());
        }
        let mut pairs = Vec::new();
        let mut changed = false;
        for key in value.try_iter()? {
            state.consume_fuel(1)?;
            let item = value.get_item(&key)?;
            let settled = settle(state, &item, depth + 1, namespaces)?;
            changed |= settled.is_some();
            pairs.push((key, settled.unwrap_or(item)));
        }
        // Namespaces are stored by reference, and their contents were checked when they were
        // stored.
        return Ok((changed && !namespace).then(|| Value::from_pairs(pairs)));
    }
    let mut items = Vec::new();
    let mut changed = kind == ValueKind::Iterable;
    for item in value.try_iter()? {
        state.consume_fuel(1)?;
        let settled = settle(state, &item, depth + 1, namespaces)?;
        changed |= settled.is_some();
        items.push(settled.unwrap_or(item));
    }
    Ok(changed.then(|| {
        if value.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) }
    }))
}

fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}
