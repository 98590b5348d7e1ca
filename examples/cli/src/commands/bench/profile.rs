//! `kinglet bench --profile`: where the time of a step goes, kernel by kernel, by the device's own time stamps.

use kinglet::Model;
use kinglet::backend::KernelTime;
use serde_json::json;

use super::{BenchArgs, median, token};
use crate::error::CliError;

/// Prints a table for a step of prefill and one for a step of decode at each depth.
///
/// # Errors
/// When the device has no time stamps, and what the engine reports.
pub(super) fn run(model: &Model, args: &BenchArgs) -> Result<(), CliError> {
    let ids = |count: usize| -> Vec<u32> { (0..count).map(|i| token(i, model.vocab())).collect() };
    let title = || println!("{}: {}", model.folder().display(), model.describe());
    let mut title = (!args.json).then_some(title);
    if args.prefill > 0 {
        let tokens = ids(args.prefill);
        let times = measure(args, || Ok(model.profile(&[], &tokens)?))?;
        title.take().iter().for_each(|title| title());
        print(args, "prefill", args.prefill, 0, &times);
    }
    for &depth in args.depth.iter().filter(|_| args.decode > 0) {
        let context = ids(depth);
        let times = measure(args, || Ok(model.profile(&context, &ids(1))?))?;
        title.take().iter().for_each(|title| title());
        print(args, "decode", 1, depth, &times);
    }
    Ok(())
}

/// The median of each kernel's time over the rounds, the longest first. The first round is not counted.
fn measure(
    args: &BenchArgs,
    profile: impl Fn() -> Result<Vec<KernelTime>, CliError>,
) -> Result<Vec<KernelTime>, CliError> {
    let first = profile()?;
    let rounds: Vec<_> = (0..args.rounds.max(1)).map(|_| profile()).collect::<Result<_, _>>()?;
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

fn print(args: &BenchArgs, test: &str, tokens: usize, depth: usize, times: &[KernelTime]) {
    let all: f64 = times.iter().map(|kernel| kernel.nanoseconds).sum();
    if !args.json {
        let (launches, us) = (times.iter().map(|kernel| kernel.count).sum::<usize>(), all / 1e3);
        println!("\n{test}, tokens {tokens}, depth {depth}: {us:.1} us in {launches} kernels");
        println!("{:>10} {:>7} {:>9} {:>7}  kernel", "us", "share", "launches", "us each");
    }
    for kernel in times {
        let (us, share) = (kernel.nanoseconds / 1e3, kernel.nanoseconds / all.max(1.0));
        if args.json {
            let row = json!({
                "test": test,
                "tokens": tokens,
                "depth": depth,
                "kernel": kernel.name,
                "launches": kernel.count,
                "microseconds": us,
                "share": share,
            });
            println!("{row}");
        } else {
            let each = us / kernel.count.max(1) as f64;
            let (count, name) = (kernel.count, &kernel.name);
            println!("{us:>10.1} {:>5.1} % {count:>9} {each:>7.1}  {name}", 100.0 * share);
        }
    }
}
