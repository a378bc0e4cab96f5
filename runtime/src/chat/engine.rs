//! The template engine as Transformers sets it up: whitespace rules, filters, globals and bounds. (CT-02 to CT-06)

use std::cell::Cell;
use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};
use minijinja_contrib::globals::{cycler, joiner};

use super::{Clock, json, methods, print, tags};

/// What a template said with `raise_exception`.
#[derive(Debug)]
pub(super) struct Raised(pub String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

thread_local! {
    /// The characters that mark where a generation block starts and ends, while somebody wants to know.
    static MARKS: Cell<Option<(char, char)>> = const { Cell::new(None) };
}

/// Calls `f` with these marks around generation blocks.
pub(super) fn with_marks<T>(marks: Option<(char, char)>, f: impl FnOnce() -> T) -> T {
    let outer = MARKS.replace(marks);
    let result = f();
    MARKS.set(outer);
    result
}

/// An environment for one template.
pub(super) fn environment(clock: Clock) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_formatter(print_value);
    env.set_unknown_method_callback(methods::call);
    env.add_filter("tojson", json::tojson);
    env.add_filter("join", print::join);
    env.add_filter("string", |state: &State<'_, '_>, value: &Value| print::text(state, value));
    // What is not Jinja's, and multiplies values or tells of the engine.
    for filter in ["zip", "chain", "urlencode", "pprint"] {
        env.remove_filter(filter);
    }
    env.remove_global("debug");
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
    });
    env.add_function("strftime_now", move |format: &str| {
        clock.format(format).map_err(|problem| Error::new(ErrorKind::InvalidOperation, problem))
    });
    env.add_function("namespace", namespace);
    env.add_function("cycler", |items: Rest<Value>| cycler(items.0));
    env.add_function("joiner", joiner);
    env.add_function(tags::FUNCTION, generation);
    Ok(env)
}

/// Runs the body of a generation block.
fn generation(state: &mut State<'_, '_>, kwargs: Kwargs) -> Result<Value, Error> {
    let body: Value = kwargs.get("caller")?;
    let text = body.call(state, &[])?;
    Ok(match MARKS.get() {
        Some((start, end)) => Value::from(format!("{start}{text}{end}")),
        None => text,
    })
}

/// `namespace(...)`, whose attributes may not begin with an underscore, as upstream.
fn namespace(attributes: Option<ValueOrKwargs>) -> Result<Value, Error> {
    let names = attributes.iter().filter(|given| given.kind() == ValueKind::Map);
    for name in names.map(|given| given.try_iter()).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        if name.as_str().is_some_and(|name| name.starts_with('_')) {
            let problem = format!("a namespace may not have the attribute {name}, which begins with an underscore");
            return Err(Error::new(ErrorKind::InvalidOperation, problem));
        }
    }
    minijinja::functions::namespace(attributes)
}

/// Prints a value.
fn print_value(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&print::text(state, value)?),
    }
    .map_err(Error::from)
}
