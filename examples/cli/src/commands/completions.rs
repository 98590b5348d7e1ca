//! `kinglet completions`: shell completion scripts.

use std::io::{self, Write as _};

use clap::{Args, Command};
use clap_complete::Shell;

use crate::error::CliError;

const EXAMPLES: &str = "\
Run it once, into the file that the shell reads:

  bash        kinglet completions bash > ~/.local/share/bash-completion/completions/kinglet
  zsh         kinglet completions zsh > ~/.zfunc/_kinglet      (~/.zfunc is in $fpath)
  fish        kinglet completions fish > ~/.config/fish/completions/kinglet.fish
  PowerShell  kinglet completions powershell >> $PROFILE
  elvish      kinglet completions elvish >> ~/.config/elvish/rc.elv";

/// Options of `completions`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompletionsArgs {
    /// Shell to print the script for
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Runs the command. `command` is the whole command line.
///
/// # Errors
/// If standard output can't be written to.
pub(crate) fn run(args: &CompletionsArgs, mut command: Command) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "kinglet", &mut script);
    let written = io::stdout().lock().write_all(&script);
    written.map_err(crate::output::failed)
}
