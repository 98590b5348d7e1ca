//! Placeholder.
#[path = "commands/bench.rs"]
mod bench;
use clap::Parser;
#[derive(Parser)]
struct Args {
    model: String,
    threads: usize,
    #[command(flatten)]
    bench: bench::BenchArgs,
}
fn main() {
    let args = Args::parse();
    let model =
        kinglet::Model::open(&args.model, &kinglet::ModelOptions::new().threads(args.threads))
            .unwrap();
    bench::run(&model, args.threads, &args.bench).unwrap();
}
