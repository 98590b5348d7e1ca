//! Runs the built program, and makes model folders for it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

/// The program, built in the profile of these tests.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let folder = kinglet_tests::cargo::build();
        let binary = folder.join(format!("kinglet{}", std::env::consts::EXE_SUFFIX));
        assert!(binary.is_file(), "{} was not built", binary.display());
        binary
    })
}

/// Output of a finished run.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// Standard output of a successful run without messages.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{self:?}");
        self.stdout
    }

    /// The single line on standard error of a run that failed without output.
    #[track_caller]
    pub(crate) fn error(self, code: i32) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "one line: {self:?}");
        assert!(self.stderr.starts_with("error: "), "{self:?}");
        self.stderr
    }

    /// The events of a successful run with `--json`.
    #[track_caller]
    pub(crate) fn events(self) -> Vec<Value> {
        self.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A command line of the program with a clean environment.
pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).env_remove("KINGLET_MODEL").env_remove("RUST_LOG");
    // As over ssh and in containers, where other libraries like to complain on standard error.
    command.env_remove("XDG_RUNTIME_DIR").env_remove("WAYLAND_DISPLAY");
    // Variables that a terminal, a user or a build service (`CI` enables colors) may have set.
    for variable in ["COLUMNS", "LINES", "CI", "CLICOLOR", "CLICOLOR_FORCE", "NO_COLOR"] {
        command.env_remove(variable);
    }
    command
}

/// Runs the program with empty standard input.
pub(crate) fn kinglet(args: &[&str]) -> Done {
    run(command(args), b"")
}

/// Runs a command with `input` on standard input.
pub(crate) fn run(mut command: Command, input: &[u8]) -> Done {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that fails early does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("standard error is UTF-8"),
    }
}

/// A program that is still running.
pub(crate) struct Running {
    child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: BufReader<ChildStdout>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        Self { child, stdin, stdout: BufReader::new(stdout) }
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The next line of standard output as JSON.
    pub(crate) fn event(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"))
    }

    /// Events up to the end of an answer.
    pub(crate) fn answer(&mut self) -> Value {
        loop {
            let event = self.event();
            if event["event"] != "token" {
                return event;
            }
        }
    }

    /// Sends the signal of Ctrl-C.
    pub(crate) fn interrupt(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    }

    /// Kills the program without cleanup.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Closes the pipes and waits; returns the status, the rest of standard output, and standard
    /// error.
    pub(crate) fn finish(self) -> (ExitStatus, String, String) {
        let Self { mut child, stdin, mut stdout } = self;
        drop(stdin);
        let (mut out, mut err) = (String::new(), String::new());
        stdout.read_to_string(&mut out).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (child.wait().unwrap(), out, err)
    }

    /// Closes only standard output, as `head` does.
    pub(crate) fn stop_reading(self) -> (ExitStatus, String) {
        let Self { mut child, stdin, stdout } = self;
        drop(stdout);
        let mut err = String::new();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        drop(stdin);
        (child.wait().unwrap(), err)
    }
}

/// A fixture's folder, which has no tokenizer.
pub(crate) fn fixture(name: &str) -> String {
    let folder = kinglet_tests::fixtures().join(name);
    assert!(folder.join("config.json").is_file(), "{}", folder.display());
    folder.display().to_string()
}

/// A fixture's weights with a tokenizer of single characters, some of them several tokens, and a
/// chat template.
pub(crate) struct TextModel {
    folder: TempDir,
    vocab: Vec<String>,
}

pub(crate) const TEMPLATE: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}\
    {% if add_generation_prompt %}<|assistant|>{% endif %}";

impl TextModel {
    pub(crate) fn new() -> Self {
        let model = Self::bare();
        model.write("chat_template.jinja", TEMPLATE);
        model.write(
            "generation_config.json",
            &json!({ "eos_token_id": model.id("<|end|>") }).to_string(),
        );
        model
    }

    /// Without a template and generation defaults.
    pub(crate) fn bare() -> Self {
        let source = kinglet_tests::fixtures().join("granitemoehybrid/plain");
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
        }
        // The bytes of printable ASCII, and those of é and €, as byte-level BPE spells them.
        let mut vocab: Vec<String> = ('!'..='~').map(String::from).collect();
        vocab.extend(["Ġ", "Ċ", "Ã", "©", "â", "Ĥ", "¬"].map(String::from));
        let special = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"];
        let added: Vec<Value> = special
            .iter()
            .enumerate()
            .map(|(index, text)| {
                json!({ "id": vocab.len() + index, "content": text, "special": true, "single_word": false,
                        "lstrip": false, "rstrip": false, "normalized": false })
            })
            .collect();
        let ids: serde_json::Map<String, Value> =
            vocab.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
        let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
            "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                       "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": ids, "merges": [] },
        });
        vocab.extend(special.map(String::from));
        let model = Self { folder, vocab };
        model.write("tokenizer.json", &tokenizer.to_string());
        model
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn dir(&self) -> String {
        self.path().display().to_string()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    pub(crate) fn id(&self, token: &str) -> usize {
        self.vocab.iter().position(|known| known == token).unwrap()
    }

    /// A bias that allows only these tokens, so that a random model generates predictable text.
    pub(crate) fn only(&self, tokens: &[&str]) -> String {
        // The embedding has more rows than there are tokens.
        let others = (0..112)
            .filter(|&id| self.vocab.get(id).is_none_or(|token| !tokens.contains(&token.as_str())));
        others.map(|id| format!("{id}=-inf")).collect::<Vec<_>>().join(",")
    }

    /// Command line `kinglet COMMAND --model DIR ARGS`.
    pub(crate) fn run(&self, command_name: &str, args: &[&str]) -> Done {
        run(self.command(command_name, args), b"")
    }

    pub(crate) fn command(&self, command_name: &str, args: &[&str]) -> Command {
        let dir = self.dir();
        // Commands that run no model have no threads.
        let threads = ["--threads", "1"];
        let threads =
            if ["tokenize", "inspect"].contains(&command_name) { &[][..] } else { &threads };
        command(&[&[command_name, "--model", &dir], threads, args].concat())
    }
}
