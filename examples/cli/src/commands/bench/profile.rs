//! `kinglet bench --profile`: the time of each kernel of a step, by the device's time stamps, or of each op on the CPU.

use kinglet::Model;
use kinglet::backend::KernelTime;
use serde_json::json;

use super::{BenchArgs, go_on, median, token};
use crate::error::CliError;
use crate::output::{Output, escape};
use crate::progress::{Progress, Unit};
use crate::table::{self, Table, title, wrapped};

/// Prints a table for a prefill step and one for a decode step at each depth.
///
/// # Errors
/// If the device has no time stamps; errors of the engine.
pub(super) fn run(model: &Model, args: &BenchArgs, output: &mut Output) -> Result<(), CliError> {
    let ids = |count: usize| -> Vec<u32> { (0..count).map(|i| token(i, model.vocab())).collect() };
    let mut tests = Vec::new();
    if args.prefill > 0 {
        tests.push(("prefill", args.prefill, 0));
    }
    let depths = args.depth.iter().filter(|_| args.decode > 0);
    tests.extend(depths.map(|&depth| ("decode", 1, depth)));
    for (index, (test, tokens, depth)) in tests.into_iter().enumerate() {
        let (context, fed) = (ids(depth), ids(tokens));
        let times = measure(args, test, || Ok(model.profile(&context, &fed)?))?;
        if index == 0 && !args.json {
            let folder = title(&escape(&model.folder().display().to_string()));
            let about = wrapped(&model.describe(), "", table::width());
            output.styled(&format!("{folder}\n{about}"))?;
        }
        print(args, test, tokens, depth, &times, output)?;
    }
    Ok(())
}

/// Each kernel's median time over the rounds, the longest first. The first round is not counted.
fn measure(
    args: &BenchArgs,
    what: &'static str,
    profile: impl Fn() -> Result<Vec<KernelTime>, CliError>,
) -> Result<Vec<KernelTime>, CliError> {
    let mut progress = Progress::new(what, Unit::Rounds);
    let first = profile()?;
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        go_on()?;
        rounds.push(profile()?);
        progress.set(round as u64 + 1, args.rounds as u64);
    }
    let mut times: Vec<_> = first
        .into_iter()
        .map(|kernel| {
            let same = rounds.iter().flatten().filter(|other| other.name == kernel.name);
            let values: Vec<f64> = same.map(|other| other.nanoseconds).collect();
            KernelTime { nanoseconds: median(&values), ..kernel }
        })
        .collect();
    times.sort_by(|a, b| b.nanoseconds.total_cmp(&a.nanoseconds));
    Ok(times)
}

fn print(
    args: &BenchArgs,
    test: &str,
    tokens: usize,
    depth: usize,
    times: &[KernelTime],
    output: &mut Output,
) -> Result<(), CliError> {
    let all: f64 = times.iter().map(|kernel| kernel.nanoseconds).sum();
    let share = |kernel: &KernelTime| kernel.nanoseconds / all.max(1.0);
    if args.json {
        for kernel in times {
            output.event(&json!({
                "test": test,
                "tokens": tokens,
                "depth": depth,
                "kernel": kernel.name,
                "launches": kernel.count,
                "microseconds": kernel.nanoseconds / 1e3,
                "share": share(kernel),
            }))?;
        }
        return Ok(());
    }
    let (launches, us) = (times.iter().map(|kernel| kernel.count).sum::<usize>(), all / 1e3);
    let about = format!("{test}, tokens {tokens}, depth {depth}: {us:.1} us in {launches} kernels");
    let width = table::width();
    let header = ["kernel", "us", "share", "launches", "us each"];
    let mut table = Table::new(&header).right(&[1, 2, 3, 4]).wraps(0, '.');
    for kernel in times {
        let us = kernel.nanoseconds / 1e3;
        table.row([
            kernel.name.clone(),
            format!("{us:.1}"),
            format!("{:.1} %", 100.0 * share(kernel)),
            kernel.count.to_string(),
            format!("{:.1}", us / kernel.count.max(1) as f64),
        ]);
    }
    output.styled(&format!("\n{}{}", wrapped(&about, "  ", width), table.render(width)))
}
