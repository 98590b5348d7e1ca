//! `kinglet fit`: which precisions let a model run in a given memory.

use clap::Args;
use kinglet::analysis::{Fit, FitChoice, fit};
use kinglet::weights::CheckOptions;
use kinglet::{CacheType, Checkpoint, StateType};
use serde_json::{Value, json};

use crate::args::{ModelArgs, count};
use crate::error::CliError;
use crate::model_folder;
use crate::output::{Format, Output};
use crate::table::{Table, bytes, grouped, width, wrapped};

/// Context if neither the option nor the model says.
const CONTEXT: usize = 4096;

const EXAMPLES: &str = "\
Memory is that of the CPU: the weights, the state of one session with --context
tokens, and the buffers of a step. The program itself needs a few megabytes
more. Sizes are estimates from config.json and the headers of the weights.

Each row is the best choice with these bits for the weights (bits), keys and
values (kv) and recurrent states (state), and the best of all comes first. A window is only proposed if nothing else fits. Experts are all
counted: keeping some of them elsewhere is not supported yet.

Other bits than the stored ones are made by `kinglet quantize --bits`; --kv-bits,
--state-bits and --attention-window are options of `kinglet chat`.

Examples:
  kinglet fit --model DIR --memory 6GiB
  kinglet fit --model DIR --memory 800MB --context 32768
  kinglet fit --model DIR --memory 6GiB --json | jq .choices[0]";

/// Options of `fit`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct FitArgs {
    /// Memory that the model may use, such as 6GiB or 800MB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: u64,
    /// Number of tokens in the context [default: what the model was trained for, or 4096]
    #[arg(long, value_name = "N", value_parser = count())]
    context: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A size in bytes, with a decimal or a binary unit.
fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1_000),
        ("B", 1),
    ];
    let expected = || "expected a size such as 6GiB or 800MB".to_string();
    let text = text.trim();
    let ends = |unit: &str| {
        let split = text.len().checked_sub(unit.len())?;
        let (number, end) = (text.get(..split)?, text.get(split..)?);
        end.eq_ignore_ascii_case(unit).then_some(number)
    };
    let found = UNITS.iter().find_map(|(unit, factor)| Some((ends(unit)?, *factor)));
    let (number, factor) = found.ok_or_else(expected)?;
    let number: f64 = number.trim().parse().map_err(|_| expected())?;
    let bytes = number * factor as f64;
    if !(1.0..=9e18).contains(&bytes) {
        return Err(expected());
    }
    Ok(bytes as u64)
}

/// Runs the command.
///
/// # Errors
/// If the model can't be read, or nothing fits.
pub(crate) fn run(model: &ModelArgs, args: &FitArgs) -> Result<(), CliError> {
    let folder = model_folder::find(model.model.as_deref())?;
    let checkpoint = Checkpoint::open(&folder, CheckOptions { strict: model.strict })?;
    let Checkpoint { spec, weights, .. } = checkpoint;
    let context = args.context.or(spec.max_positions).unwrap_or(CONTEXT).max(1);
    let fit = fit(&spec, &weights, args.memory, context)?;
    if fit.choices.is_empty() {
        let smallest = &fit.smallest;
        let problem = format!(
            "nothing fits {} with {} tokens: the least is {}, with {}; allow more memory or choose a shorter --context",
            bytes(args.memory),
            grouped(context as u64),
            bytes(smallest.memory.total()),
            sentence(smallest),
        );
        return Err(CliError::Contents { path: folder, problem });
    }
    let mut output = Output::new(if args.json { Format::Json } else { Format::Text });
    match args.json {
        true => output.event(&to_json(&fit, args.memory, context)),
        false => output.styled(&report(&fit, args.memory, context)),
    }
}

fn bits_of(choice: &FitChoice) -> String {
    choice.bits.map_or_else(|| "as stored".into(), |bits| bits.to_string())
}

fn name<T: PartialEq>(known: &[(&'static str, T)], value: &T) -> &'static str {
    known.iter().find(|(_, known)| known == value).map_or("", |(name, _)| *name)
}

fn sentence(choice: &FitChoice) -> String {
    let weights = match choice.bits {
        Some(bits) => format!("{bits} bits a weight"),
        None => "the weights as stored".into(),
    };
    let window = choice.window.map_or_else(String::new, |n| format!(" and --attention-window {n}"));
    let kv = name(CacheType::BITS, &choice.cache);
    let state = name(StateType::BITS, &choice.state);
    format!("{weights}, --kv-bits {kv}, --state-bits {state}{window}")
}

fn report(fit: &Fit, memory: u64, context: usize) -> String {
    let header = ["bits", "kv", "state", "window", "weights", "states", "buffers", "all"];
    let mut table = Table::new(&header).right(&[1, 2, 3, 4, 5, 6, 7]);
    for choice in &fit.choices {
        table.row([
            bits_of(choice),
            name(CacheType::BITS, &choice.cache).to_string(),
            name(StateType::BITS, &choice.state).to_string(),
            choice.window.map_or_else(|| "none".into(), |window| grouped(window as u64)),
            bytes(choice.memory.weights),
            bytes(choice.memory.state),
            bytes(choice.memory.working),
            bytes(choice.memory.total()),
        ]);
    }
    let title =
        format!("Fits {} with {} tokens, best first:", bytes(memory), grouped(context as u64));
    let width = width();
    wrapped(&title, "", width) + &table.render(width)
}

fn to_json(fit: &Fit, memory: u64, context: usize) -> Value {
    let number = |name: &str| name.parse::<u64>().ok();
    let choices = fit.choices.iter().map(|choice| {
        json!({
            "bits": choice.bits,
            "kv_bits": number(name(CacheType::BITS, &choice.cache)),
            "state_bits": number(name(StateType::BITS, &choice.state)),
            "attention_window": choice.window,
            "weights": choice.memory.weights,
            "state": choice.memory.state,
            "buffers": choice.memory.working,
            "total": choice.memory.total(),
        })
    });
    json!({ "memory": memory, "context": context, "choices": choices.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        assert_eq!(size("6GiB"), Ok(6 << 30));
        assert_eq!(size("1.5 gib"), Ok(3 << 29));
        assert_eq!(size("800MB"), Ok(800_000_000));
        assert_eq!(size("12B"), Ok(12));
        for text in ["", "6", "GiB", "-1GB", "0B", "nanGB", "infGB", "1e30TB", "6 Gigabyte", "é"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
