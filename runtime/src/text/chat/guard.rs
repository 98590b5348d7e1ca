//! Checks and rewrites a template's source before minijinja compiles it.
//!
//! A chat template comes with a model and is not trusted. minijinja bounds a template's *work*
//! (fuel), but not how deep expressions and values are nested. It walks both by recursion, and a
//! stack overflow can't be caught. So this pass
//!
//! - limits the size of the template, the operators in one tag and the `elif`s of one `if`, since
//!   each of the latter is a level of the syntax tree;
//! - sends each value that a template stores (by `set`, or as an argument of a macro, which may
//!   call itself) through a function that checks its depth and turns lazy sequences into lists, as
//!   Jinja has them. Otherwise a slice of a slice of a slice would stay a chain. The function that
//!   guards attributes of a namespace also refuses namespaces, so that none can contain itself;
//! - refuses recursive loops (`{% for ... recursive %}`), which chat templates don't use;
//! - writes `{% generation %}`, which marks answers for training, as `{% with %}`, which has the
//!   same scope;
//! - turns all line ends into `\n`, as Jinja does.

use super::lexer::{Piece, Tag, TagKind, Token, pieces};
use crate::text::TextError;

/// Largest template accepted, in bytes. The largest on the hub are below 100 kB.
pub(super) const MAX_BYTES: usize = 512 << 10;
/// Most operators in one tag. Each can be a level of the syntax tree; the longest tags on the hub
/// have about 30.
pub(super) const MAX_OPERATORS: usize = 160;
/// Most `elif`s of one `if`. Each is a level of the syntax tree.
const MAX_ELIFS: usize = 200;

/// The function that checks a value stored in a variable.
pub(super) const BOUNDED: &str = "__kinglet_bounded";
/// The function that checks a value stored in an attribute of a namespace.
pub(super) const STORED: &str = "__kinglet_stored";
/// Templates may not use names with this prefix.
const RESERVED: &str = "__kinglet";

/// Checks and rewrites a template as described above. Line numbers do not change.
pub(super) fn prepare(source: &str) -> Result<String, TextError> {
    if source.len() > MAX_BYTES {
        return Err(TextError::TemplateTooComplex {
            line: 0,
            problem: format!("it has {} bytes; the limit is {MAX_BYTES}", source.len()),
        });
    }
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len() + source.len() / 4);
    // The number of `elif`s of each open `if`.
    let mut elifs = Vec::new();
    for piece in pieces(&source)? {
        match piece {
            Piece::Verbatim(text) => out.push_str(text),
            Piece::Tag(tag) => {
                check(&tag)?;
                match tag.first_name() {
                    Some("if") if tag.kind == TagKind::Block => elifs.push(0),
                    Some("endif") => {
                        elifs.pop();
                    }
                    Some("elif") => {
                        let count = elifs.last_mut().map_or(0, |count: &mut usize| {
                            *count += 1;
                            *count
                        });
                        if count > MAX_ELIFS {
                            return Err(too_complex(
                                tag.line,
                                format!("more than {MAX_ELIFS} `elif`s of one `if`"),
                            ));
                        }
                    }
                    _ => {}
                }
                rewrite(&tag, &mut out)?;
            }
        }
    }
    Ok(out)
}

fn too_complex(line: usize, problem: String) -> TextError {
    TextError::TemplateTooComplex { line, problem }
}

/// Checks the limits of one tag.
fn check(tag: &Tag<'_>) -> Result<(), TextError> {
    let mut operators = 0;
    for (token, text) in tag.tokens() {
        match token {
            // Words can be operators (`not not x`, `a is b is c`, `x if y else z`).
            Token::Operator => operators += 1,
            Token::Name => {
                if matches!(text, "not" | "and" | "or" | "in" | "is" | "if" | "else") {
                    operators += 1;
                }
                if text.starts_with(RESERVED) {
                    return Err(TextError::TemplateSyntax {
                        line: tag.line,
                        problem: format!("the name {text} is reserved"),
                    });
                }
            }
            Token::Literal => {}
        }
    }
    if operators > MAX_OPERATORS {
        return Err(too_complex(
            tag.line,
            format!("{operators} operators in one tag; the limit is {MAX_OPERATORS}"),
        ));
    }
    if tag.first_name() == Some("for")
        && tag.tokens().last().is_some_and(|(_, text)| text == "recursive")
    {
        return Err(TextError::TemplateSyntax {
            line: tag.line,
            problem: "recursive loops are not supported".into(),
        });
    }
    Ok(())
}

fn rewrite(tag: &Tag<'_>, out: &mut String) -> Result<(), TextError> {
    if tag.kind == TagKind::Block {
        match tag.first_name() {
            Some(name @ ("generation" | "endgeneration")) if tag.tokens().count() == 1 => {
                out.push_str(tag.open);
                out.push_str(if name == "generation" { " with " } else { " endwith " });
                out.push_str(tag.close);
                return Ok(());
            }
            Some("set") => {
                if let Some((target, value)) = assignment(tag) {
                    let dotted = target.contains('.');
                    let function = if dotted { STORED } else { BOUNDED };
                    // Double parentheses: `a, b` is one argument, a tuple.
                    out.extend([tag.open, target, "=", function, "((", value, "))", tag.close]);
                    return Ok(());
                }
            }
            Some("macro") => {
                let names = parameters(tag);
                if names.is_empty() {
                    out.extend([tag.open, tag.inner, tag.close]);
                    return Ok(());
                }
                // The end of the original tag, with its `-`, goes to the last assignment.
                out.extend([tag.open, tag.inner, "%}"]);
                for (index, name) in names.iter().enumerate() {
                    let close = if index + 1 == names.len() { tag.close } else { "%}" };
                    out.extend(["{% set ", name, "=", BOUNDED, "(", name, ") ", close]);
                }
                return Ok(());
            }
            _ => {}
        }
    }
    out.extend([tag.open, tag.inner, tag.close]);
    Ok(())
}

/// Splits a `set` tag at its `=`. `None` for a block `set`, which stores text.
fn assignment<'a>(tag: &Tag<'a>) -> Option<(&'a str, &'a str)> {
    let mut depth = 0usize;
    for (range, token, text) in tag.ranges() {
        if token != Token::Operator {
            continue;
        }
        match text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            "=" if depth == 0 => {
                return Some((tag.inner.get(..range.start)?, tag.inner.get(range.end..)?));
            }
            "|" if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The parameters of a `macro` tag.
fn parameters<'a>(tag: &Tag<'a>) -> Vec<&'a str> {
    let mut names = Vec::new();
    let mut depth = 0usize;
    let mut expected = false;
    for (token, text) in tag.tokens() {
        match (token, text) {
            (Token::Operator, "(" | "[" | "{") => {
                depth += 1;
                expected = depth == 1;
            }
            (Token::Operator, ")" | "]" | "}") => depth = depth.saturating_sub(1),
            (Token::Operator, ",") => expected = depth == 1,
            (Token::Name, name) if expected => {
                names.push(name);
                expected = false;
            }
            _ => expected = false,
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(source: &str) -> String {
        prepare(source).expect("a template within the limits")
    }

    #[test]
    fn stored_values_are_guarded() {
        assert_eq!(
            prepared("{%- set x = a == b -%}"),
            "{%- set x =__kinglet_bounded(( a == b ))-%}"
        );
        assert_eq!(prepared("{% set n.x = 1 %}"), "{% set n.x =__kinglet_stored(( 1 ))%}");
        assert_eq!(
            prepared("{% set x, y = '=', f(k=1) %}"),
            "{% set x, y =__kinglet_bounded(( '=', f(k=1) ))%}"
        );
        assert_eq!(prepared("{% set x %}a = b{% endset %}"), "{% set x %}a = b{% endset %}");
        assert_eq!(
            prepared("{% set x | replace(a='b') %}{% endset %}"),
            "{% set x | replace(a='b') %}{% endset %}"
        );
        assert_eq!(
            prepared("{% macro f(a, b=g(c, d), e='x,y') -%}"),
            "{% macro f(a, b=g(c, d), e='x,y') %}{% set a=__kinglet_bounded(a) %}\
             {% set b=__kinglet_bounded(b) %}{% set e=__kinglet_bounded(e) -%}"
        );
        assert_eq!(prepared("{%+ macro f() -%}"), "{%+ macro f() -%}");
    }

    #[test]
    fn the_rest_stays_as_it_is() {
        for same in [
            "a {{ '}}' ~ {'b': {}} }} c {# {{ #} {%- if x %} { % }\n{%+ endif +%}",
            "{% raw %}{% set x = 1 %}{{{% endraw %}",
            "{%- raw -%} {% generation %} {%- endraw -%}",
            "{{ \"a\\\"%}\" }}",
            "no tags, { one brace",
        ] {
            assert_eq!(prepared(same), same);
        }
        assert_eq!(prepared("a\r\nb\rc\n"), "a\nb\nc\n");
        assert_eq!(
            prepared("{%- generation -%}x{% endgeneration %}"),
            "{%- with -%}x{% endwith %}"
        );
    }

    #[test]
    fn what_is_too_complex_is_refused() {
        let over = [
            format!("{{{{ 1{} }}}}", "+1".repeat(MAX_OPERATORS + 1)),
            format!("{{{{ x{} }}}}", ".a".repeat(MAX_OPERATORS + 1)),
            format!("{{{{ x{} }}}}", "|list".repeat(MAX_OPERATORS + 1)),
            format!("{{{{ {}x }}}}", "not ".repeat(MAX_OPERATORS + 1)),
            format!("\n\n{{% if a %}}{}{{% endif %}}", "{% elif b %}".repeat(MAX_ELIFS + 1)),
            "x".repeat(MAX_BYTES + 1),
        ];
        for source in over {
            assert!(matches!(prepare(&source), Err(TextError::TemplateTooComplex { .. })));
        }
        assert!(matches!(
            prepare("\n{% set __kinglet_bounded = 1 %}"),
            Err(TextError::TemplateSyntax { line: 2, .. })
        ));
        assert!(matches!(
            prepare("{% for a in b recursive %}"),
            Err(TextError::TemplateSyntax { line: 1, .. })
        ));
    }
}
