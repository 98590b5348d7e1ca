//! Charts in HTML and SVG. Text is HTML, so that it keeps its size in any window; only lines and areas scale.

use std::fmt::Write as _;

/// One row of a bar chart.
pub(super) struct BarRow {
    pub(super) label: String,
    /// Side by side.
    pub(super) bars: Vec<Bar>,
    /// Shown beside the bars.
    pub(super) value: String,
}

/// A part of a bar.
pub(super) struct Bar {
    /// Index of its color and its name.
    pub(super) series: usize,
    pub(super) size: f64,
}

/// A line chart with logarithmic axes.
pub(super) struct Lines {
    /// Title of the x axis, with its unit.
    pub(super) x: &'static str,
    /// Title of the y axis, with its unit.
    pub(super) y: &'static str,
    /// Text of a y value.
    pub(super) unit: fn(u64) -> String,
    pub(super) series: Vec<Series>,
}

/// One line.
pub(super) struct Series {
    pub(super) name: &'static str,
    /// Index of its color.
    pub(super) class: usize,
    /// Points by rising x. Those that are not positive are left out.
    pub(super) points: Vec<(f64, f64)>,
}

/// A row of stripes along an axis.
pub(super) struct StripeRow {
    pub(super) label: String,
    /// One above the other.
    pub(super) tracks: Vec<Vec<Stripe>>,
    pub(super) value: String,
}

/// A stripe from the end of the one before to `to`.
pub(super) struct Stripe {
    /// Index of its color.
    pub(super) class: usize,
    pub(super) to: f64,
}

/// Text in which nothing is markup.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A legend of colors with their names. Empty names are left out.
fn legend<'a>(names: impl IntoIterator<Item = (usize, &'a str)>) -> String {
    let mut html = String::from("<ul class=\"legend\">\n");
    for (class, name) in names.into_iter().filter(|(_, name)| !name.is_empty()) {
        let _ = writeln!(html, "<li><i class=\"c{class}\"></i>{}</li>", escape(name));
    }
    html + "</ul>\n"
}

/// Horizontal bars; all rows have one scale. `names` are those of the series; a series that no row has is left out.
pub(super) fn bars(rows: &[BarRow], names: &[&str]) -> String {
    let sum = |row: &BarRow| row.bars.iter().map(|bar| bar.size).sum::<f64>();
    let most = rows.iter().map(sum).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let mut html = String::from("<figure>\n<div class=\"bars\">\n");
    for row in rows {
        let _ = write!(
            html,
            "<div class=\"row\"><span class=\"label\">{}</span><span class=\"track\">",
            escape(&row.label)
        );
        for bar in row.bars.iter().filter(|bar| bar.size > 0.0) {
            let _ = write!(
                html,
                "<i class=\"c{}\" style=\"width:{:.3}%\"></i>",
                bar.series,
                100.0 * bar.size / most
            );
        }
        let _ = writeln!(html, "</span><span class=\"value\">{}</span></div>", escape(&row.value));
    }
    html += "</div>\n";
    let used = |series: usize| {
        rows.iter().flat_map(|row| &row.bars).any(|bar| bar.series == series && bar.size > 0.0)
    };
    html += &legend(names.iter().copied().enumerate().filter(|(series, _)| used(*series)));
    html + "</figure>\n"
}

/// A place on a logarithmic axis, in percent.
fn place(value: f64, (least, most): (f64, f64)) -> f64 {
    100.0 * (value / least).ln() / (most / least).ln()
}

/// A power of two as text: `4K`.
fn power_of_two(value: f64) -> String {
    match value {
        value if value >= 1_048_576.0 => format!("{}M", value / 1_048_576.0),
        value if value >= 1024.0 => format!("{}K", value / 1024.0),
        value => value.to_string(),
    }
}

/// Labels along the x axis, at every second power of two.
fn x_axis((least, most): (f64, f64), title: &str) -> String {
    let mut html = String::from("<div class=\"x\">");
    let mut at = least;
    while at <= most * 1.001 {
        let place = place(at, (least, most));
        let _ = write!(html, "<span style=\"left:{place:.3}%\">{}</span>", power_of_two(at));
        at *= 4.0;
    }
    let _ = writeln!(html, "</div>\n<p class=\"axis\">{}</p>", escape(title));
    html
}

/// Lines over two logarithmic axes.
pub(super) fn lines(chart: &Lines) -> String {
    let points = || chart.series.iter().flat_map(|series| &series.points).filter(|(_, y)| *y > 0.0);
    let (mut x, mut y) = ((f64::MAX, 0f64), (f64::MAX, 0f64));
    for (px, py) in points() {
        x = (x.0.min(*px), x.1.max(*px));
        y = (y.0.min(*py), y.1.max(*py));
    }
    if x.0 >= x.1 {
        return String::new();
    }
    // Whole decades.
    let (first, last) = (y.0.log10().floor() as i32, (y.1 * 1.0001).log10().ceil() as i32);
    let last = last.max(first + 1);
    let range = (10f64.powi(first), 10f64.powi(last));
    let step = ((last - first) as usize).div_ceil(6);
    let mut html = String::from("<figure>\n");
    let _ = writeln!(
        html,
        "<p class=\"axis y-title\">{}</p>\n<div class=\"plot\">\n<div class=\"y\">",
        escape(chart.y)
    );
    let mut grid = String::new();
    for power in (first..=last).step_by(step) {
        let value = 10f64.powi(power);
        let at = place(value, range);
        let text = if value < 1.0 { format!("{value}") } else { (chart.unit)(value as u64) };
        let _ = write!(html, "<span style=\"bottom:{at:.3}%\">{}</span>", escape(&text));
        let _ = write!(grid, "<path class=\"grid\" d=\"M0 {0:.3}H100\"/>", 100.0 - at);
    }
    html += "</div>\n<svg viewBox=\"0 0 100 100\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"";
    html += &escape(chart.y);
    html += "\">\n";
    html += &grid;
    for series in &chart.series {
        let points = series.points.iter().filter(|(_, y)| *y > 0.0);
        let mut path = String::new();
        for (index, (px, py)) in points.enumerate() {
            let (px, py) = (place(*px, x), 100.0 - place(*py, range));
            let _ = write!(path, "{}{px:.3} {py:.3}", if index == 0 { "M" } else { "L" });
        }
        let _ = writeln!(html, "\n<path class=\"line c{}\" d=\"{path}\"/>", series.class);
    }
    html += "</svg>\n";
    html += &x_axis(x, chart.x);
    html += "</div>\n";
    let drawn = chart.series.iter().filter(|series| series.points.iter().any(|(_, y)| *y > 0.0));
    let names: Vec<(usize, String)> = drawn
        .map(|series| {
            let ends = [series.points.first(), series.points.last()]
                .map(|end| end.map_or(0.0, |end| end.1));
            let [first, last] = ends.map(|value| (chart.unit)(value.round() as u64));
            let range = if first == last { first } else { format!("{first} to {last}") };
            (series.class, format!("{}: {range}", series.name))
        })
        .collect();
    html += &legend(names.iter().map(|(class, name)| (*class, name.as_str())));
    html + "</figure>\n"
}

/// Stripes along a logarithmic axis.
pub(super) fn stripes(
    rows: &[StripeRow],
    x: (f64, f64),
    title: &str,
    names: &[(usize, &str)],
) -> String {
    let mut html = String::from("<figure>\n<div class=\"bars stripes\">\n");
    for row in rows {
        let _ = write!(
            html,
            "<div class=\"row\"><span class=\"label\">{}</span><span class=\"tracks\">",
            escape(&row.label)
        );
        for track in &row.tracks {
            html += "<span class=\"track\">";
            let mut from = 0.0;
            for stripe in track {
                let to = place(stripe.to, x).clamp(0.0, 100.0);
                if to > from {
                    let _ = write!(
                        html,
                        "<i class=\"c{}\" style=\"width:{:.3}%\"></i>",
                        stripe.class,
                        to - from
                    );
                }
                from = to;
            }
            html += "</span>";
        }
        let _ = writeln!(html, "</span><span class=\"value\">{}</span></div>", escape(&row.value));
    }
    html += "<div class=\"row\"><span class=\"label\"></span><div class=\"scale\">";
    html += &x_axis(x, title);
    html += "</div><span class=\"value\"></span></div>\n</div>\n";
    let used = |class: usize| {
        rows.iter().flat_map(|row| row.tracks.iter().flatten()).any(|stripe| stripe.class == class)
    };
    html += &legend(names.iter().copied().filter(|(class, _)| used(*class)));
    html + "</figure>\n"
}
