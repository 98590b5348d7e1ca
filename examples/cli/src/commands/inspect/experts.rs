//! `--experts`: how often each expert is used on a text.

use std::path::Path;

use kinglet::analysis::{ExpertCounts, ExpertUse};
use kinglet::eval::TextTokens;
use kinglet::{Backend, Model, ModelOptions};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::progress::{Progress, Unit};
use crate::table::{Table, grouped, wrapped};
use crate::{interrupt, load, tokens};

/// Tokens of a window, each of which starts from an empty state.
const WINDOW: usize = 2048;

/// Runs the model in `folder` over the text in `path` and counts.
///
/// # Errors
/// If the text or the model can't be read, or the model has no experts; [`CliError::Interrupted`] after Ctrl-C.
pub(super) fn count(folder: &Path, path: &Path, strict: bool) -> Result<ExpertUse, CliError> {
    let text = tokens::read_text(path)?;
    let options = ModelOptions::new().backend(Backend::Cpu).strict(strict);
    let model = Model::open(folder, &options)?;
    let ids = TextTokens::new(&load::tokenizer(&model)?, &text)?;
    let _guard = interrupt::guard();
    let mut progress = Progress::new("counting", Unit::Tokens);
    let used = ExpertUse::of(&model, &ids.tokens, WINDOW, &mut |done, total| {
        progress.set(done, total);
        !interrupt::hit()
    })?;
    if interrupt::hit() {
        return Err(CliError::Interrupted);
    }
    if used.layers.is_empty() {
        let problem = "--experts needs a mixture of experts, but the model has none".to_string();
        return Err(CliError::Contents { path: folder.into(), problem });
    }
    Ok(used)
}

/// A row for each layer.
pub(super) fn table(used: &ExpertUse, width: usize) -> String {
    let header = ["layer", "imbalance", "unused", "most used", "share of tokens by expert, in %"];
    let mut table = Table::new(&header).right(&[0, 1, 2]).wraps(4, ' ');
    for (layer, counts) in &used.layers {
        let shares =
            (0..counts.tokens.len()).map(|expert| format!("{:.1}", 100.0 * counts.share(expert)));
        table.row([
            layer.to_string(),
            format!("{:.2}", counts.imbalance()),
            counts.unused().to_string(),
            most(counts),
            shares.collect::<Vec<_>>().join(" "),
        ]);
    }
    let seen = used.layers.first().map_or(0, |(_, counts)| counts.seen());
    let about = format!(
        "{} tokens. The imbalance is the tokens of the most used expert relative to the mean: 1 if all are used equally.",
        grouped(seen)
    );
    table.render(width) + &wrapped(&about, "", width)
}

/// The most used expert: its index and its share.
fn most(counts: &ExpertCounts) -> String {
    let found = counts
        .tokens
        .iter()
        .enumerate()
        .max_by_key(|(index, tokens)| (**tokens, std::cmp::Reverse(*index)));
    found.map_or_else(String::new, |(index, _)| {
        format!("{index} ({:.1} %)", 100.0 * counts.share(index))
    })
}

pub(super) fn to_json(used: &ExpertUse) -> Value {
    let layers = used.layers.iter().map(|(layer, counts)| {
        json!({
            "layer": layer,
            "experts_per_token": counts.top_k,
            "tokens": counts.tokens,
            "weights": counts.weights,
            "imbalance": counts.imbalance(),
            "unused": counts.unused(),
        })
    });
    layers.collect()
}
