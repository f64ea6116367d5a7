//! Rules the compiler does not know. They run with `cargo test`, so there is no second place where
//! a change can be refused.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Which module of `src` may name which others. Whatever is not listed is forbidden.
const EDGES: &[(&str, &[&str])] = &[
    ("pipeline", &[]),
    ("policy", &[]),
    ("registry", &[]),
    ("world", &["pipeline"]),
    ("repository", &["policy", "pipeline", "world"]),
    ("archiver", &["repository", "policy", "pipeline", "world"]),
    ("coordinator", &["archiver", "repository", "policy", "pipeline", "world"]),
    ("config", &["policy"]),
    (
        "cli",
        &[
            "coordinator",
            "archiver",
            "repository",
            "policy",
            "pipeline",
            "world",
            "config",
            "registry",
        ],
    ),
    (
        "console",
        &["coordinator", "archiver", "repository", "policy", "pipeline", "world", "config"],
    ),
];

/// What every engine's folder holds, so that reading one teaches all.
const DRIVER_FILES: &[&str] = &[
    "README.md",
    "src/lib.rs",
    "src/config.rs",
    "src/connect.rs",
    "src/version.rs",
    "src/snapshot.rs",
    "src/log.rs",
    "src/restore.rs",
    "src/position.rs",
    "src/error.rs",
    "tests/conformance.rs",
];

/// What a driver does without, and why.
const DRIVER_EXCUSES: &[(&str, &str, &str)] = &[
    ("sim", "src/version.rs", "there is one version"),
    ("sim", "src/position.rs", "an offset is a number of writes, and prints as one"),
    ("sim", SOURCES, "it has no vendor"),
];

/// What a front page must link to: the vendor's own words.
const SOURCES: &str = "https://";

/// What every driver's front page has a heading for; one heading may name several.
const DRIVER_HEADINGS: &[&str] = &["mechanism", "versions", "privileges", "guarantees"];

/// Crates below `drivers` that are no engines.
const NO_ENGINES: &[&str] = &["contract", "conformance"];

const DOCUMENTS: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    ".ci/run",
    "src/repository/FORMAT.md",
];

/// A file longer than this has a second subject in it.
const FILE_LINES_MAX: usize = 700;

const LINE_COLUMNS_MAX: usize = 100;

/// Words that promise work instead of doing it; put together here, so that this file has none.
const PROMISES: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Endings of names that say nothing.
const EMPTY_WORDS: &[&str] = &["Manager", "Helper", "Util", "Utils", "Info", "Data"];

/// A line number, 0 for the file as a whole, and what is wrong.
type Complaint = (usize, String);

#[test]
fn sources_are_tidy() {
    let complaints = everywhere(&["rs"], |path, text| {
        [style(path, text), imports(path, text), orphan(path, &|file| root().join(file).is_file())]
            .concat()
    });
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn nothing_is_left_for_later() {
    let complaints = everywhere(&["rs", "md", "toml", "sh"], |_, text| promises(text));
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Whoever reads the log by program looks events up there.
#[test]
fn every_event_is_documented() {
    let readme = read(&root().join("README.md"));
    let complaints = everywhere(&["rs"], |path, text| {
        if path.starts_with("src") { unknown_events(text, &readme) } else { Vec::new() }
    });
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn documents_are_there() {
    let missing: Vec<_> = DOCUMENTS.iter().filter(|name| !root().join(name).is_file()).collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
}

#[test]
fn drivers_look_alike_and_depend_on_the_contract_alone() {
    let mut complaints = Vec::new();
    for name in drivers() {
        let folder = root().join("drivers").join(&name);
        let manifest = read(&folder.join("Cargo.toml"));
        complaints.extend(dependencies(&name, &manifest));
        if !NO_ENGINES.contains(&name.as_str()) {
            complaints.extend(missing_files(&name, &|file| folder.join(file).is_file()));
            complaints.extend(missing_headings(&name, &read(&folder.join("README.md"))));
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn drivers() -> Vec<String> {
    let entries = fs::read_dir(root().join("drivers")).expect("the workspace has drivers");
    let paths = entries.map(|entry| entry.expect("a folder can be listed").path());
    let mut names: Vec<_> = paths
        .filter(|path| path.join("Cargo.toml").is_file())
        .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Checks every file of ours that has one of `extensions`, and prefixes what it complains about.
fn everywhere(extensions: &[&str], check: impl Fn(&Path, &str) -> Vec<Complaint>) -> Vec<String> {
    let mut pending: Vec<PathBuf> =
        ["src", "drivers", "tests", "testcontainers", "benches"].map(|at| root().join(at)).into();
    let loose = fs::read_dir(root()).expect("the workspace can be listed");
    let loose = loose.map(|entry| entry.expect("a folder can be listed").path());
    pending.extend(loose.filter(|path| path.is_file()));
    let mut found = Vec::new();
    while let Some(path) = pending.pop() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && name != "corpus" {
            let entries = fs::read_dir(&path).expect("a listed folder can be read");
            pending.extend(entries.map(|entry| entry.expect("a folder can be listed").path()));
        } else if extensions.iter().any(|extension| name.ends_with(&format!(".{extension}"))) {
            let shown = path.strip_prefix(root()).expect("listed below the root").to_path_buf();
            let complaints = check(&shown, &read(&path));
            let told = |(line, what): Complaint| format!("{}:{line}: {what}", shown.display());
            found.extend(complaints.into_iter().map(told));
        }
    }
    found.sort();
    found
}

/// Length, beginning, and names.
fn style(path: &Path, text: &str) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let count = text.lines().count();
    if count > FILE_LINES_MAX {
        complaints.push((count, format!("longer than {FILE_LINES_MAX} lines: split it")));
    }
    if !text.starts_with("//!") && !text.starts_with("#![doc") && !text.starts_with("#![no_main]") {
        complaints.push((1, "says nowhere what it is for: begin with `//!`".to_owned()));
    }
    for (number, line) in (1..).zip(text.lines()) {
        let mut complain = |what: &str| complaints.push((number, what.to_owned()));
        if line.chars().count() > LINE_COLUMNS_MAX && !line.contains("https://") {
            complain("longer than 100 columns");
        }
        if path.ends_with("mod.rs") && is_logic(line) {
            complain("`mod.rs` is a table of contents: move this");
        }
        if is_glob(line) {
            complain("a glob hides where names come from");
        }
        if let Some(word) = empty_word(line) {
            complaints.push((number, format!("`{word}` says nothing: name what it is")));
        }
        if line.trim_start().starts_with(concat!("#[", "ignore")) {
            complaints.push((number, "a test that does not run proves nothing".to_owned()));
        }
    }
    complaints
}

fn is_logic(line: &str) -> bool {
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
    ["fn ", "async fn ", "impl", "struct ", "enum ", "trait ", "const ", "static ", "macro_rules!"]
        .iter()
        .any(|start| line.starts_with(start))
}

fn is_glob(line: &str) -> bool {
    let line = line.trim_start();
    let import = line.starts_with("use ") || line.starts_with("pub use ");
    import
        && line.contains("::*")
        && !["super::*", "proptest::prelude::*"].iter().any(|allowed| line.contains(allowed))
}

fn empty_word(line: &str) -> Option<&str> {
    let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.find(|word| matches!(*word, "struct" | "enum" | "trait"))?;
    let name = words.next()?;
    let named = |word: &&&str| name.ends_with(**word) && !line.trim_start().starts_with("//");
    EMPTY_WORDS.iter().find(named).map(|_| name)
}

/// Who names whom, inside the root package.
fn imports(path: &Path, text: &str) -> Vec<Complaint> {
    let Ok(below) = path.strip_prefix("src") else { return Vec::new() };
    let first = below.iter().next().and_then(|name| name.to_str()).unwrap_or_default();
    let module = first.trim_end_matches(".rs");
    let mut complaints = Vec::new();
    if module != "registry" {
        complaints.extend(engines_named(text));
    }
    if matches!(module, "lib" | "main") {
        return complaints;
    }
    let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == module) else {
        complaints.push((0, format!("`{module}` has no place in the order of modules")));
        return complaints;
    };
    let forbidden = |used: &str| {
        let known = EDGES.iter().any(|(name, _)| *name == used);
        known && used != module && !allowed.contains(&used)
    };
    let used = used_modules(text).into_iter().filter(|(_, used)| forbidden(used));
    complaints.extend(used.map(|(at, used)| (at, format!("`{module}` must not know `{used}`"))));
    complaints
}

fn engines_named(text: &str) -> Vec<Complaint> {
    let engines = drivers().into_iter().filter(|name| !NO_ENGINES.contains(&name.as_str()));
    let names: Vec<_> =
        engines.filter(|name| name != "sim").map(|n| format!("stillpoint_{n}")).collect();
    let named = |line: &str| names.iter().any(|name| line.contains(name.as_str()));
    let lines = (1..).zip(text.lines()).filter(|(_, line)| named(line));
    lines.map(|(number, _)| (number, "only `registry` names an engine".to_owned())).collect()
}

/// Every module that follows `crate::`, alone or in braces, with its line.
fn used_modules(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let line = text[..at].lines().count().max(1);
        if text[..at].lines().last().is_some_and(|line| line.trim_start().starts_with("//")) {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        if rest.starts_with('{') {
            found.extend(items(rest).into_iter().map(|name| (line, name)));
        } else {
            found.push((line, word(rest)));
        }
    }
    found
}

/// The first word of each item between the braces that `text` begins with.
fn items(text: &str) -> Vec<String> {
    let (mut depth, mut start, mut found) = (0, 1, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        let ends = depth == 0 || (depth == 1 && c == ',');
        if ends {
            found.push(word(text[start..at].trim_start()));
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Whether some `mod` names the file, given what exists.
fn orphan(path: &Path, exists: &dyn Fn(&Path) -> bool) -> Vec<Complaint> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let folder = path.parent().unwrap_or(Path::new(""));
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Cargo finds these by itself, or a manifest names them.
    let found_by_cargo = matches!(name.as_str(), "tests" | "bin" | "examples" | "benches")
        || matches!(stem.as_str(), "lib" | "main" | "build")
        || path.starts_with("benches")
        || path.starts_with("tests/fuzz");
    if found_by_cargo {
        return Vec::new();
    }
    let (home, module) = match stem.as_str() {
        "mod" => (folder.parent().unwrap_or(Path::new("")).to_path_buf(), name),
        _ => (folder.to_path_buf(), stem),
    };
    let own = home.with_extension("rs");
    let parents = ["mod.rs", "lib.rs", "main.rs"].map(|file| home.join(file));
    let mut parents = parents.iter().chain([&own]).filter(|parent| exists(parent));
    let declared = format!("mod {module};");
    if parents.any(|parent| read(&root().join(parent)).contains(&declared)) {
        return Vec::new();
    }
    vec![(0, format!("no `{declared}` names this file"))]
}

fn promises(text: &str) -> Vec<Complaint> {
    let promised = |line: &str| PROMISES.iter().find(|word| line.contains(**word));
    let lines = (1..).zip(text.lines());
    let found = lines.filter_map(|(number, line)| Some((number, promised(line)?)));
    found.map(|(number, word)| (number, format!("{word}: finish it, or leave it out"))).collect()
}

/// Names of events, such as `job.ended`, that the document does not list.
fn unknown_events(text: &str, document: &str) -> Vec<Complaint> {
    let named = |line: &str| {
        let name = line.split_once(concat!("event = ", "\""))?.1.split('"').next()?.to_owned();
        (name.contains('.') && !document.contains(&format!("`{name}`"))).then_some(name)
    };
    let lines = (1..).zip(text.lines());
    let found = lines.filter_map(|(number, line)| Some((number, named(line)?)));
    found.map(|(number, name)| (number, format!("README.md lists no event `{name}`"))).collect()
}

fn missing_files(driver: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let missing = DRIVER_FILES.iter().filter(|file| !exists(file) && !is_excused(driver, file));
    missing.map(|file| format!("drivers/{driver} has no {file}")).collect()
}

fn is_excused(driver: &str, what: &str) -> bool {
    DRIVER_EXCUSES.iter().any(|(name, file, _)| *name == driver && *file == what)
}

fn missing_headings(driver: &str, readme: &str) -> Vec<String> {
    let has = |heading: &str| {
        let titles = readme.lines().filter_map(|line| line.strip_prefix('#'));
        titles.map(str::to_lowercase).any(|title| title.contains(heading))
    };
    let missing = DRIVER_HEADINGS.iter().filter(|heading| !has(heading));
    let mut complaints: Vec<_> = missing
        .map(|heading| format!("drivers/{driver}/README.md: no heading for {heading}"))
        .collect();
    if !readme.contains(SOURCES) && !is_excused(driver, SOURCES) {
        complaints.push(format!("drivers/{driver}/README.md: no link to the vendor's manual"));
    }
    complaints
}

/// A driver is built on the contract and on nothing else of ours.
fn dependencies(driver: &str, manifest: &str) -> Vec<String> {
    let section = manifest.split("\n[").find(|section| section.starts_with("dependencies]"));
    let ours = section.unwrap_or_default().lines().filter(|line| line.starts_with("stillpoint"));
    let foreign = ours.filter(|line| !line.starts_with("stillpoint-contract"));
    foreign.map(|line| format!("drivers/{driver} must not depend on {line}")).collect()
}

#[test]
fn tidy_notices() {
    let long = format!("//! x\n// {}\n", "x".repeat(LINE_COLUMNS_MAX));
    let promise = format!("//! x\n// {}: later\n", PROMISES[0]);
    let tall = format!("//! x\n{}", "\n".repeat(FILE_LINES_MAX));
    let skipped = concat!("//! x\n#[", "ignore]\nfn x() {}\n");
    let cases: &[(&str, &str, &str)] = &[
        (
            "src/policy/x.rs",
            "//! x\nuse crate::repository;\n",
            "`policy` must not know `repository`",
        ),
        (
            "src/repository/x.rs",
            "//! x\nuse crate::{\n    pipeline::{seal, id},\n    coordinator::x,\n};\n",
            "`repository` must not know `coordinator`",
        ),
        ("src/gossip/x.rs", "//! x\n", "`gossip` has no place in the order of modules"),
        ("src/cli/x.rs", "//! x\nuse stillpoint_sqlite::X;\n", "only `registry` names an engine"),
        ("src/cli/x.rs", "fn x() {}\n", "says nowhere what it is for: begin with `//!`"),
        ("src/cli/mod.rs", "//! x\npub fn x() {}\n", "`mod.rs` is a table of contents: move this"),
        ("src/cli/x.rs", "//! x\nuse std::io::*;\n", "a glob hides where names come from"),
        (
            "src/cli/x.rs",
            "//! x\nstruct LogManager;\n",
            "`LogManager` says nothing: name what it is",
        ),
        ("src/cli/x.rs", &long, "longer than 100 columns"),
        ("src/cli/x.rs", &tall, "longer than 700 lines: split it"),
        ("src/cli/x.rs", skipped, "a test that does not run proves nothing"),
        ("src/cli/nobody.rs", "//! x\n", "no `mod nobody;` names this file"),
        ("src/cli/x.rs", &promise, ": finish it, or leave it out"),
    ];
    for (path, text, expected) in cases {
        let path = Path::new(path);
        let complaints =
            [style(path, text), imports(path, text), orphan(path, &|_| false), promises(text)]
                .concat();
        assert!(
            complaints.iter().any(|(_, what)| what.contains(expected)),
            "{expected}: {complaints:?}"
        );
    }
    let fine = "//! x\nuse crate::{pipeline::{seal, coordinator}, repository};\nuse super::*;\n";
    let path = Path::new("src/repository/x.rs");
    assert_eq!([style(path, fine), imports(path, fine), promises(fine)].concat(), []);
}

#[test]
fn tidy_notices_events() {
    let text = "x\ntracing::info!(event = \"job.ended\", a);\nevent = \"job.lost\",\n";
    let complaints = unknown_events(text, "its events: `job.ended`, `alert`");
    assert_eq!(complaints, [(3, "README.md lists no event `job.lost`".to_owned())]);
}

#[test]
fn tidy_notices_unlike_drivers() {
    assert_eq!(
        missing_files("sim", &|file| file != "src/log.rs"),
        ["drivers/sim has no src/log.rs"]
    );
    assert_eq!(missing_files("sim", &|file| file != "src/version.rs"), Vec::<String>::new());
    let readme = "# Mechanism\n## Versions and privileges\n";
    assert_eq!(
        missing_headings("x", readme),
        [
            "drivers/x/README.md: no heading for guarantees",
            "drivers/x/README.md: no link to the vendor's manual",
        ]
    );
    let manifest = "[package]\n[dependencies]\nstillpoint-contract.workspace = true\n\
                    stillpoint-sim = 1\n\
                    [dev-dependencies]\nstillpoint-conformance.workspace = true\n";
    assert_eq!(dependencies("x", manifest), ["drivers/x must not depend on stillpoint-sim = 1"]);
}
