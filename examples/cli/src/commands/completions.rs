//! `kinglet completions`: what a shell needs to complete command lines.

use std::io::{self, Write as _};

use clap::{Args, Command};
use clap_complete::Shell;

use crate::error::CliError;

const EXAMPLES: &str = "\
Print it to where the shell looks for it, once:

  bash        kinglet completions bash > ~/.local/share/bash-completion/completions/kinglet
  zsh         kinglet completions zsh > ~/.zfunc/_kinglet      (~/.zfunc is in $fpath)
  fish        kinglet completions fish > ~/.config/fish/completions/kinglet.fish
  PowerShell  kinglet completions powershell >> $PROFILE
  elvish      kinglet completions elvish >> ~/.config/elvish/rc.elv";

/// Options of `completions`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Runs the command, for this command line.
///
/// # Errors
/// When nothing can be written.
pub(crate) fn run(args: &CompletionsArgs, mut command: Command) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "kinglet", &mut script);
    let written = io::stdout().lock().write_all(&script);
    written.map_err(crate::output::failed)
}
