//! The C interface from its users' side: programs in C, C++, Java and Python, compiled against
//! `kinglet.h` and run with a demo model.
//!
//! Tests that need a missing compiler or interpreter are skipped with a message; CI has them all.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use tempfile::TempDir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn model(name: &str) -> PathBuf {
    root().join("models/demo").join(name)
}

/// A folder with the shared library under the names for linking and loading.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<TempDir> = OnceLock::new();
    let folder = LIBRARY.get_or_init(|| {
        let built = kinglet_tests::cargo::build().join("libkinglet.so");
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(&built, folder.path().join("libkinglet.so.1")).unwrap();
        std::os::unix::fs::symlink("libkinglet.so.1", folder.path().join("libkinglet.so")).unwrap();
        folder
    });
    folder.path()
}

/// A command line as over ssh and in containers, without a desktop session, where other libraries
/// like to complain on standard error: the library must be silent.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_remove("XDG_RUNTIME_DIR").env_remove("WAYLAND_DISPLAY");
    command
}

/// Whether a program is installed.
fn there(program: &str) -> bool {
    let found = command(program).arg("--version").output().is_ok_and(|o| o.status.success());
    found || pass_over(&format!("there is no {program}"))
}

/// Prints why a test is skipped, or fails it if `KINGLET_REQUIRE_TOOLS` is set, as in CI. Returns
/// `false`.
#[track_caller]
fn pass_over(why: &str) -> bool {
    assert!(std::env::var_os("KINGLET_REQUIRE_TOOLS").is_none(), "{why}");
    eprintln!("skipped: {why}");
    false
}

#[track_caller]
fn succeeded(what: &str, output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{what}: {:?}\n{out}{err}", output.status);
    assert_eq!(err, "", "{what} wrote to standard error");
    out
}

/// Compiles one source with the strictest warnings and links it with the library.
fn compile(compiler: &str, standard: &str, source: &str, folder: &Path) -> PathBuf {
    let program = folder.join("program");
    let mut compile = command(compiler);
    compile.arg(standard).args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-g"]);
    compile.args(["-D_POSIX_C_SOURCE=200809L", "-I"]).arg(root().join("ffi/include"));
    compile.arg(root().join(source)).arg("-L").arg(library()).args([
        "-lkinglet",
        "-lm",
        "-lpthread",
    ]);
    compile.arg(format!("-Wl,-rpath,{}", library().display())).arg("-o").arg(&program);
    succeeded(compiler, &compile.output().unwrap());
    program
}

fn run(program: &Path, arguments: &[&Path], input: &str) -> String {
    use std::io::Write;
    use std::process::Stdio;
    let mut command = command(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    succeeded(&program.display().to_string(), &child.wait_with_output().unwrap())
}

#[test]
fn the_header_is_clean_in_every_dialect() {
    if !there("gcc") || !there("g++") {
        return;
    }
    let header = root().join("ffi/include/kinglet.h");
    let dialects = [
        ("gcc", "c", "-std=c99"),
        ("gcc", "c", "-std=c11"),
        ("g++", "c++", "-std=c++11"),
        ("g++", "c++", "-std=c++17"),
    ];
    for (compiler, language, standard) in dialects {
        let mut check = command(compiler);
        check.args([standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"]);
        succeeded(standard, &check.args(["-x", language]).arg(&header).output().unwrap());
    }
}

#[test]
fn only_the_header_s_functions_are_exported() {
    if !there("nm") {
        return;
    }
    let nm = command("nm")
        .args(["-D", "--defined-only"])
        .arg(library().join("libkinglet.so.1"))
        .output();
    let symbols = succeeded("nm", &nm.unwrap());
    let header = std::fs::read_to_string(root().join("ffi/include/kinglet.h")).unwrap();
    let mut count = 0;
    for symbol in symbols.lines().filter_map(|line| line.split_whitespace().last()) {
        assert!(symbol.starts_with("kinglet_"), "{symbol} is exported");
        assert!(header.contains(&format!("{symbol}(")), "{symbol} is not in the header");
        count += 1;
    }
    assert!(count > 80, "only {count} functions");
}

#[test]
fn the_chat_in_c_chats() {
    if !there("gcc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = compile("gcc", "-std=c99", "examples/c/chat.c", folder.path());
    let input = "Tell me a story about a \"cat\".\nAnd about a dog.\n";
    let first = run(&program, &[&model("hybrid"), Path::new("7")], input);
    assert_eq!(first.matches("\n> ").count(), 3, "two answers and the end: {first}");
    assert!(first.contains("[0 tokens reused, "), "{first}");
    assert!(first.matches(" tokens reused, ").count() == 2, "{first}");
    // The same seed gives the same answers; only the times differ.
    let words = |text: &str| -> String {
        text.lines().filter(|line| !line.starts_with('[')).collect::<Vec<_>>().join("\n")
    };
    let second = run(&program, &[&model("hybrid"), Path::new("7")], input);
    assert_eq!(words(&first), words(&second));
}

/// The program in the header's first comment.
fn example_of_the_header() -> String {
    let header = std::fs::read_to_string(root().join("ffi/include/kinglet.h")).unwrap();
    let comment = header.split("*/").next().unwrap();
    let lines = comment.lines().filter_map(|line| line.strip_prefix(" *"));
    let code = lines.skip_while(|line| !line.contains("#include"));
    let code = code.take_while(|line| line.is_empty() || line.starts_with("     "));
    code.flat_map(|line| [line.strip_prefix("     ").unwrap_or_default(), "\n"]).collect()
}

#[test]
fn the_program_in_the_header_links_with_what_cargo_builds_and_answers() {
    if !there("gcc") || !there("readelf") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("program.c"), folder.path().join("program"));
    std::fs::write(&source, example_of_the_header()).unwrap();
    let built = kinglet_tests::cargo::build();
    let name = command("readelf").arg("-d").arg(built.join("libkinglet.so")).output().unwrap();
    let name = succeeded("readelf", &name);
    let (_, name) = name.split_once("soname: [").expect("the library has a name");
    let (name, _) = name.split_once(']').unwrap();
    assert!(built.join(name).is_file(), "there is no {name} next to libkinglet.so");
    // As in ffi/README.md, by name and by path.
    let by_name = ["-L".to_string() + built.to_str().unwrap(), "-lkinglet".into()];
    let by_path = [built.join("libkinglet.so").to_str().unwrap().to_string()];
    for libraries in [&by_name[..], &by_path[..]] {
        let mut compile = command("gcc");
        compile.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"]);
        compile.arg(root().join("ffi/include")).arg(&source).args(libraries);
        succeeded("gcc", &compile.arg("-o").arg(&program).output().unwrap());
        let answer = |model: &Path| {
            let mut run = command(&program);
            run.arg(model).env("LD_LIBRARY_PATH", &built).output().unwrap()
        };
        assert!(succeeded("the program", &answer(&model("hybrid"))).len() > 20);
        let refused = answer(Path::new("/nowhere"));
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{words}");
        assert!(words.contains("/nowhere"), "{words}");
    }
}

#[test]
fn the_wrapper_in_cpp_works() {
    if !there("g++") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = compile("g++", "-std=c++17", "examples/cpp/story.cpp", folder.path());
    let story = run(&program, &[&model("xlstm")], "");
    assert!(story.contains("xlstm") && story.contains("--- 2:"), "{story}");
}

#[test]
fn hostile_calls_get_a_status() {
    if !there("gcc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for source in ["tests/ffi/hostile.c", "tests/ffi/hostile_sessions.c"] {
        let program = compile("gcc", "-std=c99", source, folder.path());
        assert_eq!(run(&program, &[&model("hybrid"), &model("xlstm")], ""), "", "{source}");
    }
}

#[test]
fn threads_that_share_sessions_at_random_get_a_status() {
    if !there("gcc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = compile("gcc", "-std=c99", "tests/ffi/stress.c", folder.path());
    let report = run(&program, &[&model("xlstm"), Path::new("1")], "");
    let calls: u64 = report.split_whitespace().next().unwrap().parse().unwrap();
    assert!(calls > 8, "{report}");
}

#[test]
fn a_prediction_head_or_a_draft_model_drafts_without_changing_the_answer() {
    if !there("gcc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = compile("gcc", "-std=c99", "tests/ffi/speculation.c", folder.path());
    let cases = kinglet_tests::prediction_cases();
    let of_head = run(&program, &[cases[0].folder.path()], "");
    let of_model = run(&program, &[&model("hybrid"), &model("hybrid")], "");
    for printed in [of_head, of_model] {
        let drafted: u32 = printed.split_whitespace().next().unwrap().parse().unwrap();
        assert!(drafted > 0, "{printed}");
    }
}

#[test]
fn experts_are_counted_through_c() {
    if !there("gcc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = compile("gcc", "-std=c99", "tests/ffi/experts.c", folder.path());
    let printed = run(&program, &[&model("hybrid"), &model("xlstm")], "");
    let lines: Vec<serde_json::Value> =
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[1], serde_json::json!([]));
    let layers = lines[0].as_array().unwrap();
    assert_eq!(layers.len(), 10);
    for (index, layer) in layers.iter().enumerate() {
        assert_eq!((&layer["layer"], &layer["experts_per_token"]), (&index.into(), &2.into()));
        let tokens = layer["tokens"].as_array().unwrap();
        assert_eq!(tokens.iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), 2 * 8);
    }
}

#[test]
fn models_are_opened_from_regions_of_an_archive() {
    if !there("gcc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // One file that contains all others at odd offsets, like an application package.
    let names = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors",
    ];
    let (mut archive, mut index) = (vec![0u8; 13], String::new());
    for name in names {
        let bytes = std::fs::read(model("hybrid").join(name)).unwrap();
        index += &format!("{name} {} {}\n", archive.len(), bytes.len());
        archive.extend_from_slice(&bytes);
        archive.extend_from_slice(b"between");
    }
    let path = folder.path().join("archive");
    std::fs::write(&path, archive).unwrap();
    let program = compile("gcc", "-std=c99", "tests/ffi/regions.c", folder.path());
    let from_archive = run(&program, &[&path], &index);
    let from_folder = run(&program, &[&model("hybrid")], "");
    assert!(from_archive.len() > 20);
    assert_eq!(from_archive, from_folder);
}

#[test]
fn the_package_for_python_works() {
    if !there("python3") {
        return;
    }
    let package = root().join("examples/python");
    let mut python = command("python3");
    // Only tests that need nothing but Python; `.ci/run` installs the package and runs all of them.
    python.args(["-W", "error", "-m", "unittest", "tests.test_kinglet"]).current_dir(&package);
    python
        .env("KINGLET_TEST_MODEL", model("hybrid"))
        .env("KINGLET_LIBRARY", library().join("libkinglet.so"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let output = python.output().unwrap();
    // unittest writes its report to standard error.
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && report.contains("\nOK"), "{report}");
}

/// The folder of the headers of Java's native interface, next to the compiler.
fn java_home() -> Option<PathBuf> {
    if !there("javac") || !there("java") || !there("gcc") {
        return None;
    }
    let settings = command("java").args(["-XshowSettings:properties", "-version"]).output();
    let settings = String::from_utf8(settings.unwrap().stderr).unwrap();
    let home = settings.lines().find_map(|line| line.trim().strip_prefix("java.home = "));
    let home = PathBuf::from(home.expect("Java says where it is"));
    let found = home.join("include/jni.h").is_file();
    (found || pass_over(&format!("{} has no jni.h", home.display()))).then_some(home)
}

#[test]
fn the_classes_for_android_work_on_the_desktop() {
    let Some(home) = java_home() else { return };
    let folder = tempfile::tempdir().unwrap();
    let example = root().join("examples/android");
    let mut shim = command("gcc");
    shim.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-fPIC", "-shared"]);
    for include in [root().join("ffi/include"), home.join("include"), home.join("include/linux")] {
        shim.arg("-I").arg(include);
    }
    shim.arg(example.join("jni/kinglet_jni.c")).arg("-L").arg(library()).arg("-lkinglet");
    shim.arg(format!("-Wl,-rpath,{}", library().display()));
    shim.arg("-o").arg(folder.path().join("libkinglet_jni.so"));
    succeeded("gcc", &shim.output().unwrap());

    let mut sources = vec![example.join("desktop/Chat.java")];
    let classes = std::fs::read_dir(example.join("java/org/kinglet")).unwrap();
    sources.extend(classes.map(|entry| entry.unwrap().path()));
    let mut compile = command("javac");
    compile.args(["--release", "8", "-Xlint:all,-options,-try", "-Werror", "-d"]);
    compile.arg(folder.path()).args(sources);
    let compiled = compile.output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));

    let mut chat = command("java");
    chat.arg("-Xcheck:jni").arg(format!("-Djava.library.path={}", folder.path().display()));
    chat.arg("-cp").arg(folder.path()).arg("Chat").arg(model("hybrid"));
    let report = succeeded("java", &chat.output().unwrap());
    assert!(report.ends_with("done\n"), "{report}");
    assert!(!report.contains("WARNING"), "{report}");
}

/// A virtual display, for as long as it lives.
struct Display(std::process::Child, String);

impl Display {
    fn start() -> Self {
        use std::io::{BufRead, BufReader};
        use std::process::Stdio;
        let mut server = command("Xvfb");
        // It chooses a free number and prints it.
        server.args(["-displayfd", "1", "-screen", "0", "720x480x24", "-nolisten", "tcp"]);
        server.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = server.spawn().unwrap();
        let mut number = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut number).unwrap();
        Self(server, format!(":{}", number.trim()))
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_window_chats() {
    let tk = command("python3").args(["-c", "import tkinter"]).output();
    let display = command("Xvfb").arg("-help").output();
    if !tk.is_ok_and(|output| output.status.success()) || display.is_err() {
        pass_over("there is no Tk for Python or no Xvfb");
        return;
    }
    let display = Display::start();
    let mut python = command("python3");
    python.args(["-W", "error", "test_chat.py"]).arg(model("hybrid")).arg(model("xlstm"));
    python.current_dir(root().join("examples/desktop")).env("DISPLAY", &display.1);
    python.env("KINGLET_LIBRARY", library().join("libkinglet.so"));
    let output = python.env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && report.contains("\nOK"), "{report}");
}

/// A prefix into which `ffi/install.sh` has put the library.
fn installed() -> TempDir {
    let built = kinglet_tests::cargo::build();
    let prefix = tempfile::tempdir().unwrap();
    let install = command(root().join("ffi/install.sh")).arg(prefix.path()).arg(built).output();
    succeeded("install.sh", &install.unwrap());
    prefix
}

#[test]
fn install_builds_what_is_missing_where_cargo_builds() {
    use std::os::unix::fs::PermissionsExt;
    let built = kinglet_tests::cargo::build();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // A wrapper of cargo that passes `metadata` through and, in place of a build, copies an
    // existing library.
    let real = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let script = format!(
        "#!/bin/sh\nif [ $1 = metadata ]; then exec '{}' \"$@\"; fi\necho \"$@\" >> '{}'\n\
         mkdir -p \"$CARGO_TARGET_DIR/$MADE\" && cp '{}' \"$CARGO_TARGET_DIR/$MADE/\"\n",
        real.to_string_lossy(),
        path("calls").display(),
        built.join("libkinglet.so").display()
    );
    std::fs::write(path("cargo"), script).unwrap();
    std::fs::set_permissions(path("cargo"), PermissionsExt::from_mode(0o755)).unwrap();
    let install = |made: &str, arguments: &[&str]| {
        let mut install = command(root().join("ffi/install.sh"));
        // Relative to the current folder, as cargo takes it.
        install.current_dir(folder.path()).env("CARGO", path("cargo")).env("MADE", made);
        install.env("CARGO_TARGET_DIR", "else where").args(arguments).output().unwrap()
    };
    succeeded("install.sh", &install("dist", &["prefix one"]));
    let options = ["prefix two", "--profile", "release", "--target", "a-b-c"];
    succeeded("install.sh", &install("a-b-c/release", &options));
    for prefix in ["prefix one", "prefix two"] {
        let lib = path(prefix).join("lib");
        for name in ["libkinglet.so", "libkinglet.so.1", "pkgconfig/kinglet.pc"] {
            assert!(lib.join(name).is_file(), "{prefix}: {name}");
        }
        assert!(path(prefix).join("include/kinglet.h").is_file(), "{prefix}");
    }
    let calls = std::fs::read_to_string(path("calls")).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    assert!(calls[0].contains("--package kinglet-ffi") && calls[0].contains("--profile dist"));
    assert!(calls[1].contains("--profile release --target a-b-c"), "{calls:?}");
    // A given folder is used as it is: nothing is built.
    let refused = install("dist", &["prefix", "no folder"]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && words.contains("no libkinglet.so in no folder"),
        "{words}"
    );
    assert_eq!(std::fs::read_to_string(path("calls")).unwrap().lines().count(), 2);
    assert!(!path("prefix").exists());
}

/// Checks that a program chats, and which libraries named kinglet it links.
#[track_caller]
fn chats_with(program: &Path, libraries: usize) {
    let said = run(program, &[&model("hybrid"), Path::new("7")], "Hello!\n");
    assert_eq!(said.matches("\n> ").count(), 2, "an answer and the end: {said}");
    let needed = command("readelf").arg("-d").arg(program).output();
    let needed = succeeded("readelf", &needed.unwrap());
    assert_eq!(needed.matches("[libkinglet.so.1]").count(), libraries, "{needed}");
}

#[test]
fn pkg_config_finds_what_is_installed_also_after_a_move() {
    if !there("gcc") || !there("pkg-config") || !there("readelf") {
        return;
    }
    let prefix = installed();
    let moved = tempfile::tempdir().unwrap();
    let (from, to) = (prefix.path(), moved.path().join("elsewhere"));
    std::fs::rename(from, &to).unwrap();
    for (kind, flags, libraries) in [("shared", &[][..], 1), ("static", &["--static"][..], 0)] {
        let mut config = command("pkg-config");
        config.args(["--cflags", "--libs"]).args(flags).arg("kinglet >= 0.1");
        let config = config.env("PKG_CONFIG_PATH", to.join("lib/pkgconfig")).output().unwrap();
        let mut flags = succeeded("pkg-config", &config);
        if kind == "static" {
            // The linker would prefer the shared library in the same folder.
            flags = flags.replace("-lkinglet", "-l:libkinglet.a");
        }
        let program = moved.path().join(kind);
        let mut compile = command("gcc");
        compile.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-o"]).arg(&program);
        compile.arg(root().join("examples/c/chat.c")).args(flags.split_whitespace());
        compile.arg(format!("-Wl,-rpath,{}", to.join("lib").display()));
        succeeded("gcc", &compile.output().unwrap());
        chats_with(&program, libraries);
    }
}

#[test]
fn cmake_finds_what_is_installed() {
    if !there("gcc") || !there("cmake") || !there("readelf") {
        return;
    }
    let (prefix, folder) = (installed(), tempfile::tempdir().unwrap());
    let project = format!(
        "cmake_minimum_required(VERSION 3.13)\nproject(chat C)\nset(CMAKE_C_STANDARD 99)\n\
         find_package(Kinglet 0.1 REQUIRED)\n\
         find_package(Kinglet 9 QUIET)\nif(Kinglet_FOUND)\nmessage(FATAL_ERROR \"there is no version 9\")\nendif()\n\
         foreach(kind kinglet static)\nadd_executable(${{kind}} \"{}\")\n\
         target_link_libraries(${{kind}} PRIVATE kinglet::${{kind}})\nendforeach()\n",
        root().join("examples/c/chat.c").display()
    );
    std::fs::write(folder.path().join("CMakeLists.txt"), project).unwrap();
    let build = folder.path().join("build");
    let mut configure = command("cmake");
    configure.arg("-S").arg(folder.path()).arg("-B").arg(&build);
    configure.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.path().display()));
    succeeded("cmake", &configure.output().unwrap());
    succeeded("cmake", &command("cmake").arg("--build").arg(&build).output().unwrap());
    chats_with(&build.join("kinglet"), 1);
    chats_with(&build.join("static"), 0);
}
