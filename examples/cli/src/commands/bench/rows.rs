//! Results as table rows and as JSON.

use serde_json::{Value, json};

use super::memory::last_level_cache;
use super::{Test, median};
use crate::table::{bytes, title};

/// The results of a test.
pub(super) struct Measured<'a> {
    pub(super) test: &'a Test,
    /// Tokens per second of each round.
    pub(super) rates: Vec<f64>,
    /// Memory bandwidth around each round, in bytes per second.
    pub(super) bandwidths: Vec<f64>,
    /// Whether it is the host's memory.
    pub(super) on_host: bool,
}

impl Measured<'_> {
    fn rate(&self) -> f64 {
        median(&self.rates)
    }

    fn least(&self) -> f64 {
        self.rates.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn most(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    /// Memory bandwidth, in GB/s.
    fn bandwidth(&self) -> f64 {
        median(&self.bandwidths) / 1e9
    }

    /// Data that the tokens moved, in GB/s.
    fn moved(&self) -> Option<f64> {
        self.test.bytes_per_token.map(|bytes| bytes as f64 * self.rate() / 1e9)
    }

    /// [`Self::moved`] divided by [`Self::bandwidth`].
    fn share(&self) -> Option<f64> {
        let share = |moved: f64| (self.bandwidth() > 0.0).then(|| moved / self.bandwidth());
        self.moved().and_then(share)
    }

    /// Explains a share above 100 %.
    fn note(&self) -> Option<String> {
        self.share().filter(|&share| share > 1.0)?;
        let moved = self.test.bytes_per_token.unwrap_or(0);
        let cache = self.on_host.then(last_level_cache).flatten();
        Some(match cache {
            // Even a working set a few times larger than the cache partly stays in it.
            Some(cache) if moved < cache.saturating_mul(4) => format!(
                "above 100 %: much of the {} that a token moves stays in the CPU's caches ({})",
                bytes(moved),
                bytes(cache)
            ),
            Some(_) => "above 100 %: something else used bandwidth during the memory measurement; \
                        measure again on an idle machine"
                .into(),
            None => "above 100 %: weights stay in a cache, or something else used bandwidth during the memory measurement"
                .into(),
        })
    }

    /// One JSON object.
    pub(super) fn json(&self, on_device: bool, peak_rss: Option<u64>) -> Value {
        json!({
            "test": self.test.name,
            "tokens": self.test.tokens,
            "depth": self.test.depth,
            "sessions": self.test.sessions,
            "tokens_per_second": self.rate(),
            "tokens_per_second_min": self.least(),
            "tokens_per_second_max": self.most(),
            "rounds": self.rates.len(),
            "chosen_on_device": self.test.name == "decode" && on_device,
            "bytes_per_token": self.test.bytes_per_token,
            "kernels_per_step": self.test.kernels,
            "gb_per_second": self.moved(),
            "bandwidth_gb_per_second": self.bandwidth(),
            "bandwidth_fraction": self.share(),
            "note": self.note(),
            "peak_rss_bytes": peak_rss,
        })
    }
}

/// A column: name, width, the minimum terminal width that shows it, and its cells.
type Column = (&'static str, usize, usize, fn(&Measured<'_>) -> String);

const COLUMNS: [Column; 8] = [
    ("test", 13, 0, |row| row.test.title()),
    ("depth", 8, 50, |row| row.test.depth.to_string()),
    ("tokens/s", 10, 0, |row| number(Some(row.rate()))),
    ("min .. max", 20, 80, |row| {
        format!("{} .. {}", number(Some(row.least())), number(Some(row.most())))
    }),
    ("MB/token", 10, 62, |row| number(row.test.bytes_per_token.map(|bytes| bytes as f64 / 1e6))),
    ("GB/s", 6, 40, |row| number(row.moved())),
    ("of", 6, 40, |row| number(row.moved().map(|_| row.bandwidth()))),
    ("share", 7, 0, |row| row.share().map_or("-".into(), percent)),
];

fn line(width: usize, cell: impl Fn(&Column) -> String) -> String {
    let shown = COLUMNS.iter().filter(|column| column.2 <= width);
    let cells = shown.enumerate().map(|(index, column)| {
        let (cell, width) = (cell(column), column.1);
        // The name of the test is left-aligned.
        if index == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
    });
    cells.collect::<String>().trim_end().to_string()
}

/// The header of the table.
pub(super) fn header(width: usize) -> String {
    title(&line(width, |column| column.0.to_string()))
}

/// A row under [`header`], with its note.
pub(super) fn row(measured: &Measured<'_>, width: usize) -> String {
    let row = line(width, |column| column.3(measured)) + "\n";
    match measured.note() {
        Some(note) => row + &crate::table::wrapped(&format!("  {note}"), "  ", width),
        None => row,
    }
}

/// Formats three digits, or all digits before the point.
fn number(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value < 9.995 => format!("{value:.2}"),
        Some(value) if value < 9999.95 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

fn percent(share: f64) -> String {
    match 100.0 * share {
        // With a note about a share above 100 %, never print `100 %`.
        percent if percent < 9.95 || (100.0..101.0).contains(&percent) => format!("{percent:.1} %"),
        percent => format!("{percent:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(test: &Test, rates: &[f64], bandwidth: f64) -> Vec<String> {
        let bandwidths = vec![bandwidth; rates.len()];
        let row = Measured { test, rates: rates.to_vec(), bandwidths, on_host: false };
        let json = row.json(false, None);
        let number = |name: &str| json[name].as_f64().unwrap();
        let share = number("gb_per_second") / number("bandwidth_gb_per_second");
        assert!((number("bandwidth_fraction") - share).abs() < 1e-12, "{json}");
        assert_eq!(share > 1.0, json["note"].is_string(), "{json}");
        [20, 45, 60, 80, 120].map(|width| super::row(&row, width)).to_vec()
    }

    #[test]
    fn rows_fit_and_shares_above_one_have_a_note() {
        let mut test = Test::new("decode", 128, 131_072, Some(2_500_000_000));
        test.sessions = 16;
        for (rates, bandwidth, noted) in [
            (&[12_345.6, 11_000.1, 98_765.4][..], 40e12, false),
            (&[17.04, 16.0, 16.5][..], 41.3e9, false),
            (&[16.61][..], 41.3e9, true),
        ] {
            for (row, width) in measured(&test, rates, bandwidth).iter().zip([20, 45, 60, 80, 120])
            {
                assert_eq!(row.contains("above 100 %"), noted, "{row}");
                for line in row.lines().filter(|_| width >= 40) {
                    assert!(line.chars().count() <= width, "{width}: {line:?}");
                }
            }
        }
        assert_eq!(
            (percent(1.004), percent(0.999), percent(1.2)),
            ("100.4 %".into(), "100 %".into(), "120 %".into())
        );
        let header = anstream::adapter::strip_str(&header(80)).to_string();
        assert!(header.contains("min .. max") && header.len() <= 80, "{header}");
    }
}
