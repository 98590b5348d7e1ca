//! Splits a Jinja template into text and tags, and tags into tokens. It knows as much of the
//! language as the [guard](super::guard) needs.

use std::ops::Range;

use crate::text::TextError;

/// A part of a template.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Text, comments and raw blocks, unchanged.
    Verbatim(&'a str),
    /// `{{ ... }}` or `{% ... %}`.
    Tag(Tag<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TagKind {
    /// `{{ ... }}`
    Variable,
    /// `{% ... %}`
    Block,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tag<'a> {
    pub(super) kind: TagKind,
    /// `{{`, `{%-`, `{%+`, ...
    pub(super) open: &'a str,
    pub(super) inner: &'a str,
    /// `}}`, `-%}`, `+%}`, ...
    pub(super) close: &'a str,
    /// The line on which the tag begins, from 1.
    pub(super) line: usize,
}

/// The kind of a token in a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A name or a keyword.
    Name,
    /// A string or a number.
    Literal,
    /// Anything else: an operator or a bracket.
    Operator,
}

impl<'a> Tag<'a> {
    /// The first word of the tag, which names the block.
    pub(super) fn first_name(&self) -> Option<&'a str> {
        let (token, text) = self.tokens().next()?;
        (token == Token::Name).then_some(text)
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = (Token, &'a str)> {
        self.ranges().map(|(_, token, text)| (token, text))
    }

    /// The tokens with their ranges in [`Tag::inner`].
    pub(super) fn ranges(&self) -> impl Iterator<Item = (Range<usize>, Token, &'a str)> {
        let inner = self.inner;
        let mut at = 0;
        std::iter::from_fn(move || {
            let (start, end, token) = next_token(inner, at)?;
            at = end;
            Some((start..end, token, inner.get(start..end).unwrap_or_default()))
        })
    }
}

/// The next token at or after `at`: its start, end and kind.
fn next_token(text: &str, at: usize) -> Option<(usize, usize, Token)> {
    let rest = text.get(at..)?;
    let start = at + rest.len() - rest.trim_start().len();
    let rest = text.get(start..)?;
    let mut chars = rest.chars();
    let first = chars.next()?;
    if first == '"' || first == '\'' {
        let mut escaped = false;
        for (index, c) in rest.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == first => return Some((start, start + index + 1, Token::Literal)),
                _ => {}
            }
        }
        return Some((start, text.len(), Token::Literal));
    }
    let word = |c: char| c == '_' || c.is_alphanumeric();
    if word(first) {
        let length = rest.find(|c| !word(c)).unwrap_or(rest.len());
        let token = if first.is_ascii_digit() { Token::Literal } else { Token::Name };
        return Some((start, start + length, token));
    }
    let two = rest.get(..2).unwrap_or_default();
    let length = match two {
        "==" | "!=" | "<=" | ">=" | "//" | "**" => 2,
        _ => first.len_utf8(),
    };
    Some((start, start + length, Token::Operator))
}

/// Splits a template into its pieces.
pub(super) fn pieces(source: &str) -> Result<Vec<Piece<'_>>, TextError> {
    let mut pieces = Vec::new();
    let mut at = 0;
    let mut line = 1;
    while let Some((start, marker)) = next_marker(source, at) {
        let newlines = |from: usize, to: usize| {
            source.get(from..to).unwrap_or_default().bytes().filter(|&b| b == b'\n').count()
        };
        line += newlines(at, start);
        let unclosed = |what: &str| TextError::TemplateSyntax {
            line,
            problem: format!("{what} is not closed"),
        };
        let rest = source.get(start..).unwrap_or_default();
        let end = match marker {
            b'#' => {
                let length = rest.get(2..).and_then(|body| body.find("#}"));
                start + 4 + length.ok_or_else(|| unclosed("a comment"))?
            }
            _ => {
                let kind = if marker == b'{' { TagKind::Variable } else { TagKind::Block };
                let tag = tag(source, start, kind, line).ok_or_else(|| unclosed("a tag"))?;
                let end = start + tag.open.len() + tag.inner.len() + tag.close.len();
                if kind == TagKind::Block && tag.inner.trim() == "raw" {
                    end_of_raw(source, end).ok_or_else(|| unclosed("a raw block"))?
                } else {
                    pieces.push(Piece::Verbatim(source.get(at..start).unwrap_or_default()));
                    pieces.push(Piece::Tag(tag));
                    line += newlines(start, end);
                    at = end;
                    continue;
                }
            }
        };
        pieces.push(Piece::Verbatim(source.get(at..end).unwrap_or_default()));
        line += newlines(start, end);
        at = end;
    }
    pieces.push(Piece::Verbatim(source.get(at..).unwrap_or_default()));
    Ok(pieces)
}

/// The next `{{`, `{%` or `{#`: its position and its second byte.
fn next_marker(source: &str, from: usize) -> Option<(usize, u8)> {
    let bytes = source.as_bytes().get(from..)?;
    bytes.windows(2).enumerate().find_map(|(index, pair)| match pair {
        [b'{', second @ (b'{' | b'%' | b'#')] => Some((from + index, *second)),
        _ => None,
    })
}

/// The tag that begins at `start`; `None` if it is not closed.
fn tag(source: &str, start: usize, kind: TagKind, line: usize) -> Option<Tag<'_>> {
    let signed = matches!(source.as_bytes().get(start + 2), Some(b'-' | b'+'));
    let open_end = start + 2 + usize::from(signed);
    let end_mark = if kind == TagKind::Variable { "}}" } else { "%}" };
    let mut at = open_end;
    let mut depth = 0usize;
    loop {
        let rest = source.get(at..)?;
        let skipped = rest.len() - rest.trim_start().len();
        let rest = rest.get(skipped..)?;
        // Inside brackets `}}` closes two dictionaries, not the tag.
        if depth == 0 {
            let sign = usize::from(matches!(rest.as_bytes().first(), Some(b'-' | b'+')));
            if rest.get(sign..).is_some_and(|rest| rest.starts_with(end_mark)) {
                let inner_end = at + skipped;
                return Some(Tag {
                    kind,
                    open: source.get(start..open_end)?,
                    inner: source.get(open_end..inner_end)?,
                    close: source.get(inner_end..inner_end + sign + 2)?,
                    line,
                });
            }
        }
        let (token_start, token_end, token) = next_token(source, at)?;
        if token == Token::Operator {
            match source.as_bytes().get(token_start) {
                Some(b'(' | b'[' | b'{') => depth += 1,
                Some(b')' | b']' | b'}') => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        at = token_end;
    }
}

/// The position after the next `{% endraw %}`.
fn end_of_raw(source: &str, mut from: usize) -> Option<usize> {
    loop {
        let start = from + source.get(from..)?.find("{%")?;
        let rest = source.get(start + 2..)?;
        let name = rest.strip_prefix(['-', '+']).unwrap_or(rest).trim_start();
        if let Some(after) = name.strip_prefix("endraw") {
            let after = after.trim_start();
            let after = after.strip_prefix(['-', '+']).unwrap_or(after);
            if let Some(after) = after.strip_prefix("%}") {
                return Some(source.len() - after.len());
            }
        }
        from = start + 2;
    }
}
