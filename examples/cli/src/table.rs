//! Tables and text that fit the terminal.

use std::io::{self, IsTerminal};

use anstyle::Style;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, TableComponent, presets};
use terminal_size::{Width, terminal_size_of};

use crate::output::escape;

/// Columns if neither the terminal nor `COLUMNS` tells.
const COLUMNS: usize = 80;
/// Minimum number of columns for a layout.
const LEAST: usize = 20;
/// Minimum width of a wrapped column; below it each row becomes a paragraph.
const LEAST_WRAPPED: usize = 12;

const TITLE: Style = Style::new().bold();

/// Number of columns of standard output: the terminal's, else `COLUMNS`, else 80.
pub(crate) fn width() -> usize {
    let stdout = io::stdout();
    let terminal = stdout.is_terminal().then(|| terminal_size_of(&stdout)).flatten();
    let variable = || std::env::var("COLUMNS").ok()?.trim().parse::<usize>().ok();
    let columns = terminal.map(|(Width(columns), _)| usize::from(columns)).or_else(variable);
    columns.filter(|&columns| columns > 0).map_or(COLUMNS, |columns| columns.max(LEAST))
}

/// A line in bold.
pub(crate) fn title(text: &str) -> String {
    format!("{TITLE}{text}{TITLE:#}")
}

/// Wraps text at words. All lines but the first begin with `indent`; the last ends with a line
/// break.
pub(crate) fn wrapped(text: &str, indent: &str, width: usize) -> String {
    let options = textwrap::Options::new(width).subsequent_indent(indent);
    let options = options.word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::fill(&escape(text), options) + "\n"
}

/// Rows under a header. If they are too wide, one column is wrapped; if that would be too narrow,
/// rows become paragraphs.
pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    right: Vec<usize>,
    /// The column to wrap, and the character to wrap at.
    wraps: (usize, char),
}

impl Table {
    /// Creates a table without rows. By default its first column is wrapped at spaces.
    pub(crate) fn new(header: &[&str]) -> Self {
        let header = header.iter().map(|&name| escape(name).into_owned()).collect();
        Self { header, rows: Vec::new(), right: Vec::new(), wraps: (0, ' ') }
    }

    /// Aligns columns to the right.
    pub(crate) fn right(mut self, columns: &[usize]) -> Self {
        self.right = columns.to_vec();
        self
    }

    /// Sets the column to wrap, and the character to wrap at.
    pub(crate) fn wraps(mut self, column: usize, at: char) -> Self {
        self.wraps = (column, at);
        self
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| escape(cell).into_owned()).collect());
    }

    /// Renders the table with styles, at most `width` columns wide, with a final line break.
    pub(crate) fn render(&self, width: usize) -> String {
        let (column, at) = self.wraps;
        let mut table = comfy_table::Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(&self.header);
        // Lines around the table and below its header, but not between rows.
        table.remove_style(TableComponent::HorizontalLines);
        table.remove_style(TableComponent::MiddleIntersections);
        table.add_rows(&self.rows);
        let natural: Vec<usize> =
            table.column_max_content_widths().into_iter().map(usize::from).collect();
        // Each cell has a space on both sides, and a column separates cells.
        let others: usize =
            natural.iter().enumerate().filter(|(i, _)| *i != column).map(|(_, w)| w + 3).sum();
        let own = natural.get(column).copied().unwrap_or(0);
        let room = width.saturating_sub(others + 2);
        if room < own.min(LEAST_WRAPPED) {
            return self.paragraphs(width);
        }
        for (index, shown) in table.column_iter_mut().enumerate() {
            if self.right.contains(&index) {
                shown.set_cell_alignment(CellAlignment::Right);
            }
            if index == column {
                let most = u16::try_from(room.min(own) + 2).unwrap_or(u16::MAX);
                shown.set_delimiter(at);
                shown.set_constraint(ColumnConstraint::Absolute(comfy_table::Width::Fixed(most)));
            } else {
                shown.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
        let (mut text, mut borders) = (String::new(), 0);
        for line in table.to_string().lines() {
            let line = line.trim_end();
            borders += usize::from(line.starts_with(['─', '═']));
            // The header is between the first and the second border.
            let is_header = borders == 1 && !line.starts_with('─');
            text += &if is_header { title(line) } else { line.to_string() };
            text.push('\n');
        }
        text
    }

    /// Renders each row as lines `name: value`, for narrow terminals.
    fn paragraphs(&self, width: usize) -> String {
        let mut text = match self.header.first().filter(|name| !name.is_empty()) {
            Some(name) => title(name) + "\n",
            None => String::new(),
        };
        for row in &self.rows {
            for (index, (name, cell)) in self.header.iter().zip(row).enumerate() {
                let line = match (index, name.as_str()) {
                    (_, _) if cell.is_empty() => continue,
                    (0, _) => cell.clone(),
                    (_, "") => format!("  {cell}"),
                    (_, name) => format!("  {name}: {cell}"),
                };
                text += &wrapped(&line, "    ", width);
            }
        }
        text
    }
}

/// Shortens `4-bit affine, groups of 64` to `4-bit g64`.
pub(crate) fn brief_format(format: &str) -> String {
    match format.split_once("-bit affine, groups of ") {
        Some((bits, group)) => format!("{bits}-bit g{group}"),
        None => format.to_string(),
    }
}

/// Formats `1234567` as `1,234,567`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a number with three digits and a unit.
fn scaled(count: u64, units: &[&str]) -> String {
    let mut value = count as f64;
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for next in units {
        // 999.5 would round to 1000.
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    let digits = match value {
        _ if count < 1000 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}").trim_end().to_string()
}

/// Formats `1234567` as `1.23 MB`.
pub(crate) fn bytes(count: u64) -> String {
    scaled(count, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// Formats `1234567890` as `1.23 B`.
pub(crate) fn short(count: u64) -> String {
    scaled(count, &["", "K", "M", "B", "T", "P", "E"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(styled: &str) -> String {
        anstream::adapter::strip_str(styled).to_string()
    }

    #[test]
    fn tables_fit_any_width() {
        let mut table = Table::new(&["module", "format", "bytes"]).right(&[2]).wraps(0, '.');
        table.row([
            "model.layers.12.block_sparse_moe.experts.7.down_proj".into(),
            "4-bit affine".into(),
            "1,234,567".into(),
        ]);
        table.row(["head\u{1b}[2J".into(), "BF16".into(), "7".into()]);
        for width in [20, 30, 40, 50, 60, 80, 200] {
            let text = plain(&table.render(width));
            for line in text.lines() {
                assert!(line.chars().count() <= width, "{width}: {line:?}");
            }
            assert!(!text.contains('\u{1b}'), "{text}");
            let squeezed: String = text.split_whitespace().collect();
            assert!(squeezed.contains("1,234,567") && squeezed.contains("BF16"), "{text}");
        }
        // Names stay whole if they fit: 73 columns of text, a space on each side of three cells,
        // one between cells.
        let wide = plain(&table.render(81));
        assert!(wide.contains("block_sparse_moe.experts.7.down_proj"), "{wide}");
        let header = table.render(80).lines().nth(1).unwrap().to_string();
        assert!(header.starts_with('\u{1b}') && header.contains("module"), "{header:?}");
        assert_eq!(table.render(80).matches(&TITLE.to_string()).count(), 1);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1000), "1.00 kB");
        assert_eq!(bytes(999_499), "999 kB");
        assert_eq!(bytes(999_999), "1.00 MB");
        assert_eq!(bytes(12_345_678_901), "12.3 GB");
        assert_eq!(short(46_702_792_704), "46.7 B");
        assert_eq!(bytes(u64::MAX), "18.4 EB");
    }
}
