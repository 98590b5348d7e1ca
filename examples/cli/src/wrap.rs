//! Line wrapping between words; a terminal would break lines anywhere.

use unicode_linebreak::linebreaks;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns from one tab stop to the next.
const TAB: usize = 8;

/// Wraps text that arrives in pieces. A word is held back until its end is known.
#[derive(Default)]
pub(crate) struct Wrapper {
    /// Column of the cursor.
    column: usize,
    /// Width of the terminal at the last call.
    width: usize,
    /// Blanks before the next word on the same line.
    blank: String,
    /// Text that may continue.
    word: String,
    /// Whether the beginning of the word was written already, because it is longer than a line.
    inside: bool,
}

impl Wrapper {
    /// Adds `text` and returns the text that can be written to a terminal of `width` columns.
    pub(crate) fn push(&mut self, text: &str, width: usize) -> String {
        self.resize(width);
        self.word.push_str(text);
        let mut out = String::new();
        let word = std::mem::take(&mut self.word);
        let mut begin = 0;
        for (at, _) in linebreaks(&word) {
            // The end of the text is always a break opportunity, but more text may follow.
            let certain = at < word.len() || word.ends_with('\n');
            if certain && may_break(&word, at) {
                self.write(&word[begin..at], &mut out);
                begin = at;
            }
        }
        // A word that is longer than a line, or continues one, need not wait.
        let rest = &word[begin..];
        if self.inside || rest.trim_end_matches(is_blank).width() > width {
            self.write(rest, &mut out);
            self.inside = !rest.ends_with(is_blank);
            begin = word.len();
        }
        self.word = word[begin..].into();
        out
    }

    /// Returns the rest of the text, without a final line break.
    pub(crate) fn finish(&mut self, width: usize) -> String {
        self.resize(width);
        let mut out = String::new();
        let word = std::mem::take(&mut self.word);
        self.write(&word, &mut out);
        self.inside = false;
        self.blank.clear();
        out
    }

    /// A terminal that shrinks moves what no longer fits to the next line.
    fn resize(&mut self, width: usize) {
        if width < self.width && self.column > width {
            self.column = (self.column - 1) % width + 1;
        }
        self.width = width;
    }

    /// Writes a word and the blanks after it, or a line break.
    fn write(&mut self, text: &str, out: &mut String) {
        let word = text.trim_end_matches(is_blank);
        if !word.is_empty() {
            let gap = self.advance(&self.blank);
            let fits = self.column + gap + word.width() <= self.width;
            if !self.inside {
                if fits || (self.column == 0 && gap < self.width) {
                    out.push_str(&self.blank);
                    self.column += gap;
                } else if self.column > 0 {
                    out.push('\n');
                    self.column = 0;
                }
            }
            self.blank.clear();
            out.push_str(word);
            if self.column + word.width() <= self.width {
                self.column += word.width();
            } else {
                // The terminal breaks words that are longer than a line.
                for columns in word.chars().map(|c| c.width().unwrap_or(0)) {
                    self.column = if self.column + columns > self.width { 0 } else { self.column };
                    self.column += columns;
                }
            }
            self.inside = false;
        }
        for c in text[word.len()..].chars() {
            if c == '\n' {
                out.push('\n');
                self.column = 0;
                self.blank.clear();
                self.inside = false;
            } else {
                self.blank.push(c);
                self.inside = false;
            }
        }
    }

    /// Columns that blanks take from the cursor.
    fn advance(&self, blanks: &str) -> usize {
        let step = |column: usize, c: char| match c {
            '\t' => (column / TAB + 1) * TAB,
            c => column + c.width().unwrap_or(0),
        };
        blanks.chars().fold(self.column, step) - self.column
    }
}

/// Wraps `text` at `width` columns, as far as words allow.
pub(crate) fn fold(text: &str, width: usize) -> String {
    let mut wrapper = Wrapper::default();
    let mut out = wrapper.push(text, width);
    out.push_str(&wrapper.finish(width));
    out
}

/// Whether a line may end at `at`, a break opportunity by Unicode's rules. Only blanks and the
/// borders of double-width characters, as in Chinese, count; hyphens, slashes and Korean syllables
/// do not.
fn may_break(text: &str, at: usize) -> bool {
    let (before, after) = (text[..at].chars().next_back(), text[at..].chars().next());
    let wide = |c: Option<char>| c.is_some_and(|c| c.width() == Some(2) && !is_hangul(c));
    before.is_some_and(|c| is_blank(c) || c == '\u{200b}') || wide(before) || wide(after)
}

fn is_hangul(c: char) -> bool {
    matches!(c, '\u{1100}'..='\u{11ff}' | '\u{3130}'..='\u{318f}' | '\u{a960}'..='\u{a97f}' | '\u{ac00}'..='\u{d7ff}')
}

/// White space at which a line may end, without the non-breaking spaces.
fn is_blank(c: char) -> bool {
    c.is_whitespace() && !matches!(c, '\u{a0}' | '\u{2007}' | '\u{202f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that the same text in pieces of any length gives the same lines.
    #[track_caller]
    fn check(text: &str, width: usize, expected: &str) {
        assert_eq!(fold(text, width), expected, "in one piece");
        let chars: Vec<char> = text.chars().collect();
        for length in 1..=chars.len().min(7) {
            let mut wrapper = Wrapper::default();
            let mut out = String::new();
            for piece in chars.chunks(length) {
                out.push_str(&wrapper.push(&piece.iter().collect::<String>(), width));
            }
            out.push_str(&wrapper.finish(width));
            assert_eq!(out, expected, "in pieces of {length}");
        }
    }

    #[test]
    fn lines_end_between_words() {
        check("one two three four", 9, "one two\nthree\nfour");
        check("one two three four", 8, "one two\nthree\nfour");
        check("one two", 7, "one two");
        check("one two ", 7, "one two");
        check("one  two", 7, "one\ntwo");
        check("", 7, "");
        check("\n\none\n two\n", 7, "\n\none\n two\n");
        check("well-known and/or it's", 10, "well-known\nand/or\nit's");
    }

    #[test]
    fn spaces_at_the_beginning_of_a_line_stay() {
        check("a\n    let x = 1;\n", 20, "a\n    let x = 1;\n");
        check("    let x = 1;", 10, "    let x\n= 1;");
        check("\tab cd", 12, "\tab\ncd");
        check("          ab", 4, "ab");
    }

    #[test]
    fn a_word_longer_than_a_line_begins_one_and_is_broken_by_the_terminal() {
        check("see abcdefghijkl now", 5, "see\nabcdefghijkl\nnow");
        check("abcdefghijkl now", 5, "abcdefghijkl\nnow");
        // The rest of the word on its last line counts towards the width.
        check("abcdefghi i now", 5, "abcdefghi\ni now");
        check("abcdefgh i now", 5, "abcdefgh i\nnow");
        check("abcdef i now", 5, "abcdef i\nnow");
    }

    #[test]
    fn wide_characters_take_two_columns_and_break_where_their_writing_does() {
        check("一二三四五。六", 10, "一二三四\n五。六");
        check("ab 一二三", 7, "ab 一二\n三");
        check("café 日本", 9, "café 日本");
        check("한국어 한국어", 11, "한국어\n한국어");
        check("a\u{a0}b c\u{a0}d", 5, "a\u{a0}b\nc\u{a0}d");
        check("👩\u{200d}🔬 👩\u{200d}🔬", 5, "👩\u{200d}🔬 👩\u{200d}🔬");
    }

    #[test]
    fn a_terminal_that_shrinks_has_moved_what_does_not_fit() {
        let mut wrapper = Wrapper::default();
        assert_eq!(wrapper.push("one two three ", 20) + &wrapper.push("four", 20), "one two three");
        // The thirteen columns are now a line of ten and a line of three.
        assert_eq!(wrapper.push(" five ", 10), " four");
        assert_eq!(wrapper.finish(10), "\nfive");
    }
}
