//! Parses a line of a chat: a message, or a command that begins with a slash.

/// Commands: name, arguments, description.
pub(super) const COMMANDS: [(&str, &str, &str); 14] = [
    ("help", "", "list the commands"),
    ("retry", "", "answer the last message again"),
    ("edit", "[TEXT]", "change the last message and answer it again"),
    ("undo", "", "remove the last message and its answer"),
    ("reset", "", "start a new conversation (keeps the system prompt)"),
    ("clear", "", "start a new conversation and clear the screen"),
    ("system", "[TEXT]", "set the system prompt (without TEXT: remove it)"),
    ("set", "[NAME VALUE]", "set an option, as in /set temperature 0.7 (without NAME: show all)"),
    ("model", "[DIR]", "switch to another model (without DIR: show the model)"),
    ("save", "FILE", "save the conversation (/save! overwrites an existing file)"),
    ("load", "FILE", "continue a saved conversation"),
    ("stats", "", "show tokens and times of the last answer"),
    ("quit", "", "quit (or press Ctrl-D)"),
    ("exit", "", "quit"),
];

/// Text of `/help`.
pub(super) fn help() -> String {
    let mut help = String::new();
    for (name, rest, what) in COMMANDS {
        help.push_str(&format!("{:20} {what}\n", format!("/{name} {rest}")));
    }
    help.push_str(
        "End a line with \\ to continue it, or put a message of several lines between two \"\"\".\n\
         Begin with // to send a message that begins with /. Tab completes commands, options and files.\n\
         Ctrl-C stops an answer.",
    );
    help
}

/// A parsed line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Message(String),
    Help,
    Reset,
    Clear,
    Retry,
    Undo,
    Edit(Option<String>),
    System(Option<String>),
    /// A name and a value; both may be missing.
    Set(Option<(&'a str, Option<&'a str>)>),
    Model(Option<&'a str>),
    Save {
        file: &'a str,
        replace: bool,
    },
    Load(&'a str),
    Stats,
    Quit,
    /// An unknown command, or one without its argument: the message to show.
    Wrong(String),
}

impl<'a> Line<'a> {
    pub(super) fn parse(line: &'a str) -> Self {
        let Some(command) = line.trim_start().strip_prefix('/') else {
            return Self::Message(quoted(line).unwrap_or(line).into());
        };
        if command.starts_with('/') {
            return Self::Message(command.into());
        }
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        let given = (!rest.is_empty()).then_some(rest);
        let text = given.map(|text| quoted(text).unwrap_or(text).to_string());
        let file = |make: fn(&'a str) -> Self| match given {
            None => Self::Wrong(format!("/{name} needs a file name, as in /{name} talk.json")),
            Some(file) => make(file),
        };
        match name {
            "help" | "?" => Self::Help,
            "reset" | "new" => Self::Reset,
            "clear" => Self::Clear,
            "retry" | "regenerate" => Self::Retry,
            "undo" => Self::Undo,
            "edit" => Self::Edit(text),
            "system" => Self::System(text),
            "set" => Self::Set(given.map(|rest| {
                let (name, value) =
                    rest.split_once(|c: char| c.is_whitespace() || c == '=').unwrap_or((rest, ""));
                let value = value.trim().trim_start_matches('=').trim_start();
                (name, (!value.is_empty()).then_some(value))
            })),
            "model" => Self::Model(given),
            "save" => file(|file| Self::Save { file, replace: false }),
            "save!" => file(|file| Self::Save { file, replace: true }),
            "load" => file(Self::Load),
            "stats" => Self::Stats,
            "quit" | "exit" | "bye" => Self::Quit,
            _ => Self::Wrong(format!(
                "unknown command /{name}: {}/help lists the commands (begin with // to send it as a message)",
                nearest(name).map(|near| format!("did you mean /{near}?")).unwrap_or_default()
            )),
        }
    }
}

/// The command with the most similar name.
fn nearest(name: &str) -> Option<&'static str> {
    let names = COMMANDS.iter().map(|(known, ..)| (*known, strsim::jaro_winkler(name, known)));
    let likely = names.filter(|(_, likeness)| *likeness > 0.8);
    likely.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(known, _)| known)
}

/// Delimiter of a text of several lines.
pub(super) const QUOTES: &str = "\"\"\"";

/// The text between [`QUOTES`], if `text` is nothing else. A line break next to them is not part of
/// it.
fn quoted(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix(QUOTES)?.strip_suffix(QUOTES)?;
    let inner = inner.strip_prefix('\n').unwrap_or(inner);
    Some(inner.strip_suffix('\n').unwrap_or(inner))
}

/// Whether a text that begins with [`QUOTES`], possibly after a command, continues in the next
/// line.
pub(super) fn is_open(text: &str) -> bool {
    let text = text.trim();
    let after = |text: &str| {
        let rest = text.strip_prefix(QUOTES)?;
        Some(!rest.ends_with(QUOTES))
    };
    let of_command = || {
        let (name, rest) = text.split_once(char::is_whitespace)?;
        ["/system", "/edit"].contains(&name).then(|| after(rest.trim_start()))?
    };
    after(text).or_else(of_command).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        assert_eq!(Line::parse("Hi /there"), Line::Message("Hi /there".into()));
        assert_eq!(Line::parse("//usr is a folder"), Line::Message("/usr is a folder".into()));
        assert_eq!(Line::parse("/system  Be brief. "), Line::System(Some("Be brief.".into())));
        assert_eq!(Line::parse("/system"), Line::System(None));
        assert_eq!(
            Line::parse("/save my talk.json"),
            Line::Save { file: "my talk.json", replace: false }
        );
        assert_eq!(Line::parse("/save! a"), Line::Save { file: "a", replace: true });
        assert_eq!(Line::parse("/load a"), Line::Load("a"));
        assert_eq!(Line::parse("/set"), Line::Set(None));
        assert_eq!(Line::parse("/set top_p"), Line::Set(Some(("top_p", None))));
        for line in ["/set top_p 0.5", "/set top_p=0.5", "/set  top_p = 0.5 "] {
            assert_eq!(Line::parse(line), Line::Set(Some(("top_p", Some("0.5")))), "{line}");
        }
        let variable = Line::Set(Some(("template-var", Some("a=b"))));
        assert_eq!(Line::parse("/set template-var a=b"), variable);
        assert_eq!(Line::parse("/model ~/a b"), Line::Model(Some("~/a b")));
        assert_eq!(Line::parse("/edit Hi"), Line::Edit(Some("Hi".into())));
        for (line, parsed) in [
            ("/help", Line::Help),
            ("/reset", Line::Reset),
            ("/clear", Line::Clear),
            ("/retry", Line::Retry),
            ("/undo", Line::Undo),
            ("/edit", Line::Edit(None)),
            ("/model", Line::Model(None)),
            ("/stats", Line::Stats),
            ("/quit", Line::Quit),
        ] {
            assert_eq!(Line::parse(line), parsed);
        }
        for line in ["/save", "/load  ", "/hlep", "/"] {
            assert!(matches!(Line::parse(line), Line::Wrong(_)), "{line}");
        }
        let Line::Wrong(message) = Line::parse("/hlep") else { panic!() };
        assert!(message.contains("did you mean /help?"), "{message}");
    }

    #[test]
    fn every_listed_command_is_known() {
        for (name, ..) in COMMANDS {
            let line = format!("/{name} x");
            assert!(!matches!(Line::parse(&line), Line::Wrong(_)), "{line}");
        }
    }

    #[test]
    fn quotes_delimit_several_lines() {
        for (text, open) in [
            ("\"\"\"", true),
            ("\"\"\"a", true),
            ("\"\"\"a\nb", true),
            ("\"\"\"a\"\"\"", false),
            ("  \"\"\"\na\n\"\"\" ", false),
            ("\"\"\"\"\"\"", false),
            ("/system \"\"\"Be", true),
            ("/system \"\"\"Be\nbrief.\"\"\"", false),
            ("/edit  \"\"\"", true),
            ("/load \"\"\"", false),
            ("say \"\"\"", false),
            ("a", false),
        ] {
            assert_eq!(is_open(text), open, "{text:?}");
        }
        let message = |text: &str| Line::Message(text.into());
        assert_eq!(Line::parse("\"\"\"a\nb\"\"\""), message("a\nb"));
        assert_eq!(Line::parse("\"\"\"\n/a \\\n\n\"\"\""), message("/a \\\n"));
        assert_eq!(Line::parse("\"\"\"a"), message("\"\"\"a"));
        let system = Line::parse("/system \"\"\"Be\nbrief.\"\"\"");
        assert_eq!(system, Line::System(Some("Be\nbrief.".into())));
    }
}
