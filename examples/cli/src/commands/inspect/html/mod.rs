//! The report as one page: no scripts, nothing loaded from elsewhere.

use std::fmt::Write as _;

use kinglet::analysis::{PrecisionSize, StateMemory, WeightPrecision, sights};
use kinglet::quant::{DType, Format};
use kinglet::weights::{Encoding, Weights};

use super::Report;
use crate::table::{bytes, grouped, short};
use chart::{Bar, BarRow, Lines, Series, Stripe, StripeRow, bars, escape, lines, stripes};

mod chart;

const STYLE: &str = include_str!("style.css");
/// Shortest and longest context of the plots, as exponents of two.
const EXPONENTS: std::ops::RangeInclusive<u32> = 10..=20;
/// Affine bits that are shown.
const BITS: [usize; 5] = [8, 6, 4, 3, 2];
/// Bytes in a gigabyte.
const GB: f64 = 1e9;

/// The page. Speeds are those that a memory bandwidth of `bandwidth` GB/s allows.
pub(super) fn page(report: &Report, weights: Option<&Weights>, bandwidth: f64) -> String {
    let sections = [
        parameters(report),
        work(report),
        precision(report, weights),
        memory(report),
        traffic(report, bandwidth),
        sight(report),
    ];
    let title = escape(&report.spec.model_type);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
    );
    html += &heading(report);
    html.extend(sections);
    html + "</main>\n</body>\n</html>\n"
}

fn heading(report: &Report) -> String {
    let spec = &report.spec;
    let layers: usize = report.layers.iter().map(super::LayerRun::layers).sum();
    let positions = spec.max_positions.map_or("any number".into(), |n| grouped(n as u64));
    let name = report.folder.file_name().map(|name| name.to_string_lossy().into_owned());
    let facts = [
        ("parameters", short(report.parameters.total())),
        ("active for a token", short(report.parameters.active())),
        ("layers", layers.to_string()),
        ("width", grouped(spec.hidden as u64)),
        ("vocabulary", grouped(spec.vocab as u64)),
        ("trained context, tokens", positions),
    ];
    let mut html = format!("<header>\n<h1>{}</h1>\n", escape(&spec.model_type));
    if let Some(name) = name {
        let _ = writeln!(html, "<p class=\"folder\">{}</p>", escape(&name));
    }
    html += "<dl>\n";
    for (what, value) in facts {
        let _ = writeln!(html, "<div><dt>{what}</dt><dd>{}</dd></div>", escape(&value));
    }
    html + "</dl>\n</header>\n"
}

/// A section with a heading, a sentence and a figure.
fn section(title: &str, about: &str, figure: &str) -> String {
    format!("<section>\n<h2>{}</h2>\n<p>{}</p>\n{figure}</section>\n", escape(title), escape(about))
}

fn percent(part: u64, all: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / all.max(1) as f64)
}

fn parameters(report: &Report) -> String {
    let parameters = &report.parameters;
    let total = parameters.total();
    let rows = parameters.components.iter().map(|(component, count)| {
        let tied = parameters.tied && component.name() == "embedding";
        BarRow {
            label: if tied { "embedding, and head".into() } else { component.name().into() },
            bars: vec![
                Bar { series: 0, size: count.active as f64 },
                Bar { series: 1, size: (count.total - count.active) as f64 },
            ],
            value: format!("{} ({})", short(count.total), percent(count.total, total)),
        }
    });
    let figure = bars(&rows.collect::<Vec<_>>(), &["used by a token", "idle for a token"]);
    let about =
        "Weights, biases and norms of each component. A token uses only some of the experts.";
    section("Parameters by component", about, &figure)
}

fn work(report: &Report) -> String {
    let work = &report.work;
    let rows = work.components.iter().map(|(component, counted)| BarRow {
        label: component.name().into(),
        bars: vec![
            Bar { series: 0, size: counted.projections as f64 },
            Bar { series: 2, size: counted.scans as f64 },
            Bar { series: 3, size: counted.attention as f64 },
        ],
        value: format!("{} ({})", short(counted.total()), percent(counted.total(), work.total())),
    });
    let names =
        ["products with weights", "", "scans and convolutions", "products with keys and values"];
    let figure = bars(&rows.collect::<Vec<_>>(), &names);
    let about = format!(
        "Floating-point operations of the last of {} tokens, {} in all. A multiply-add is two.",
        grouped(work.context as u64),
        short(work.total())
    );
    section("Work per token", &about, &figure)
}

/// The group of the model's own format, if it is quantized.
fn own_group(report: &Report, weights: Option<&Weights>) -> Option<usize> {
    let stored = weights?.stored(&report.spec.head.linear.weight.tensor).ok()?;
    match stored.encoding {
        Encoding::Quantized(format) => Some(format.group()),
        Encoding::Dense(_) => None,
    }
}

fn precision(report: &Report, weights: Option<&Weights>) -> String {
    let group = own_group(report, weights).unwrap_or(64);
    let dense = [("f32", DType::F32), ("bf16", DType::BF16)];
    let dense = dense.map(|(name, dtype)| (name.to_string(), WeightPrecision::Dense(dtype)));
    let affine = BITS.into_iter().filter_map(|bits| {
        let format = Format::affine(bits, group).or_else(|_| Format::affine(bits, 64)).ok()?;
        Some((format!("{bits} bits"), WeightPrecision::Quantized(format)))
    });
    let rows = dense.into_iter().chain(affine).map(|(label, precision)| {
        let size = PrecisionSize::of(&report.spec, weights, precision);
        let bars = vec![
            Bar { series: 0, size: size.matrices as f64 },
            Bar { series: 1, size: size.kept as f64 },
        ];
        BarRow { label, bars, value: bytes(size.total()) }
    });
    let names =
        ["matrices that can be quantized", "norms, gates, and rows that are not whole groups"];
    let figure = bars(&rows.collect::<Vec<_>>(), &names);
    let about = format!(
        "Size of the weights as kinglet quantize would write them, with scales and biases, in groups of {group}."
    );
    section("Weights by precision", &about, &figure)
}

/// Contexts of the plots.
fn contexts() -> impl Iterator<Item = usize> {
    EXPONENTS.map(|exponent| 1usize << exponent)
}

/// Bytes of the weights; without a checkpoint those of bf16.
fn weight_bytes(report: &Report) -> u64 {
    report.memory.weights.unwrap_or_else(|| {
        PrecisionSize::of(&report.spec, None, WeightPrecision::Dense(DType::BF16)).total()
    })
}

fn memory(report: &Report) -> String {
    let weights = weight_bytes(report);
    let states: Vec<StateMemory> = contexts().map(|c| StateMemory::of(&report.plan, c)).collect();
    let series = |name, class, of: &dyn Fn(&StateMemory) -> u64| Series {
        name,
        class,
        points: states.iter().map(|state| (state.context as f64, of(state) as f64)).collect(),
    };
    let figure = lines(&Lines {
        x: "context, tokens",
        y: "bytes",
        unit: bytes,
        series: vec![
            series("all", 4, &|state| weights.saturating_add(state.total())),
            series("weights", 0, &|_| weights),
            series("recurrent state", 2, &|state| state.recurrent),
            series("keys and values", 3, &|state| state.key_value),
        ],
    });
    let from = if report.stored.is_some() { "as stored" } else { "in bf16" };
    let about =
        format!("Weights {from} and the state of one session, in f32. Both axes are logarithmic.");
    section("Memory against the context", &about, &figure)
}

fn traffic(report: &Report, bandwidth: f64) -> String {
    let weights = report
        .stored
        .as_ref()
        .map_or_else(|| 2 * report.parameters.active(), |stored| stored.traffic.weights);
    let moved: Vec<StateMemory> = contexts().map(|c| StateMemory::of(&report.plan, c)).collect();
    let all = |state: &StateMemory| {
        let recurrent = state.recurrent.saturating_mul(2);
        weights.saturating_add(recurrent).saturating_add(state.key_value)
    };
    let series = |name, class, of: &dyn Fn(&StateMemory) -> u64| Series {
        name,
        class,
        points: moved.iter().map(|state| (state.context as f64, of(state) as f64)).collect(),
    };
    let figure = lines(&Lines {
        x: "context, tokens",
        y: "bytes per token",
        unit: bytes,
        series: vec![
            series("all", 4, &all),
            series("weights", 0, &|_| weights),
            series("recurrent state, read and written", 2, &|state| {
                state.recurrent.saturating_mul(2)
            }),
            series("keys and values", 3, &|state| state.key_value),
        ],
    });
    let speed = |state: &StateMemory| bandwidth * GB / all(state).max(1) as f64;
    let speeds = lines(&Lines {
        x: "context, tokens",
        y: "tokens per second",
        unit: short,
        series: vec![Series {
            name: "at most",
            class: 4,
            points: moved.iter().map(|state| (state.context as f64, speed(state))).collect(),
        }],
    });
    let mut html = section(
        "Moved per token against the context",
        "What decoding one token of one session reads and writes at least, each byte once.",
        &figure,
    );
    html += &section(
        "Decode speed against the context",
        &format!("What {bandwidth} GB/s allow, if memory is the limit."),
        &speeds,
    );
    html
}

fn sight(report: &Report) -> String {
    let mut runs: Vec<(usize, usize, kinglet::analysis::Sight)> = Vec::new();
    for (layer, sight) in sights(&report.plan) {
        match runs.last_mut() {
            Some((_, last, known)) if *known == sight && *last + 1 == layer => *last = layer,
            _ => runs.push((layer, layer, sight)),
        }
    }
    let (least, most) = (1u64 << EXPONENTS.start(), 1u64 << EXPONENTS.end());
    let rows = runs.into_iter().map(|(first, last, sight)| {
        let label = if first == last {
            format!("layer {first}")
        } else {
            format!("layers {first} to {last}")
        };
        let mut tracks = Vec::new();
        let mut said = Vec::new();
        if let Some(attention) = sight.attention {
            let full = |to: f64| Stripe { class: 3, to };
            match attention.window {
                None => {
                    tracks.push(vec![full(most as f64)]);
                    said.push("everything".to_string());
                }
                Some(window) => {
                    let window = window.saturating_add(attention.sinks);
                    let end = (window as f64).clamp(least as f64, most as f64);
                    tracks.push(vec![full(end), Stripe { class: 5, to: most as f64 }]);
                    said.push(format!("the last {}", grouped(window as u64)));
                }
            }
        }
        if sight.recurrent {
            tracks.push(vec![Stripe { class: 2, to: most as f64 }]);
            said.push("a state".into());
        }
        StripeRow { label, tracks, value: said.join(", ") }
    });
    let names = [
        (3, "attention to everything"),
        (5, "attention to a window"),
        (2, "no attention: a recurrent state"),
    ];
    let figure =
        stripes(&rows.collect::<Vec<_>>(), (least as f64, most as f64), "context, tokens", &names);
    let about = "What each layer with a state has of the tokens before. Layers without one see a token alone.";
    section("What layers see", about, &figure)
}

#[cfg(test)]
mod tests;
