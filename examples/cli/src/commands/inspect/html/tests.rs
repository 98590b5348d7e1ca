use std::path::Path;

use kinglet::weights::CheckOptions;
use kinglet::{Checkpoint, ModelSpec};

use super::*;

fn report(folder: &Path, change: impl Fn(&mut ModelSpec)) -> (Report, Weights) {
    let Checkpoint { mut spec, weights, checked, .. } =
        Checkpoint::open(folder, CheckOptions { strict: false }).unwrap();
    change(&mut spec);
    let report = Report::new(folder.into(), spec, Some((&weights, &checked)), 4096).unwrap();
    (report, weights)
}

fn fixture(case: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(case)
}

/// Percentages of all bars and stripes, and places on axes.
fn percents(html: &str) -> Vec<f64> {
    let ends = html.split("%\"").filter_map(|part| part.rsplit(':').next());
    ends.filter_map(|number| number.parse().ok()).collect()
}

/// Fails unless every element is closed, in order.
fn check_nesting(html: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in html.split('<').skip(1).filter(|tag| !tag.starts_with('!')) {
        let (tag, _) = tag.split_once('>').unwrap();
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{tag}");
        } else if !tag.ends_with('/') && !tag.starts_with("meta") {
            open.push(tag.split_whitespace().next().unwrap());
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn the_page_is_whole_and_loads_nothing() {
    for case in [
        "granitemoehybrid/plain",
        "mamba2/bf16",
        "mixtral/bf16",
        "quantized/granite-nvfp4",
        "falcon_h1/plain",
    ] {
        let (report, weights) = report(&fixture(case), |_| ());
        for weights in [Some(&weights), None] {
            let html = page(&report, weights, 50.0);
            check_nesting(&html);
            for part in ["src=", "href=", "url(", "http:", "https:", "<script", "NaN", "inf%"] {
                assert!(!html.contains(part), "{case}: {part}");
            }
            for part in [
                "Parameters by component",
                "context, tokens",
                "tokens per second",
                "2 bits",
                "prefers-color-scheme",
            ] {
                assert!(html.contains(part), "{case}: {part}");
            }
            let percents = percents(&html);
            assert!(percents.len() > 40, "{case}: {}", percents.len());
            assert!(percents.iter().all(|p| (0.0..=100.001).contains(p)), "{case}: {percents:?}");
        }
    }
}

#[test]
fn what_a_config_says_is_never_markup() {
    let (report, weights) = report(&fixture("mamba2/bf16"), |spec| {
        spec.model_type = "<img src=x>&\"'\u{1b}".into();
    });
    let report = Report { folder: "/tmp/<b onload='x'>".into(), ..report };
    let html = page(&report, Some(&weights), 50.0);
    assert!(!html.contains("<img") && !html.contains("<b ") && !html.contains('\u{1b}'));
    assert_eq!(html.matches("&lt;img src=x&gt;&amp;&quot;&#39;\u{fffd}").count(), 2);
    assert!(html.contains("&lt;b onload=&#39;x&#39;&gt;"));
}

#[test]
fn windows_begin_where_they_are_full() {
    let (report, _) = report(&fixture("mixtral/bf16"), |_| ());
    let plan = report.plan.clone().with_window(1 << 15, 0);
    // The model's own window of 19 is narrower.
    assert!(sight(&Report { plan, ..report }).contains("the last 19"));
    let (report, _) = self::report(&fixture("granitemoehybrid/plain"), |_| ());
    let plan = report.plan.clone().with_window(1 << 15, 0);
    let html = sight(&Report { plan, ..report });
    // Halfway between 2^10 and 2^20.
    assert!(html.contains("<i class=\"c3\" style=\"width:50.000%\"></i><i class=\"c5\" style=\"width:50.000%\"></i>"), "{html}");
    assert!(html.contains("the last 32,768"));
}
