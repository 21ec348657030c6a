//! The shape of the source, held by `cargo test`: headers, floors, sizes, and what may not be written at all.
//!
//! Sizes are a ratchet: lower a number when the source got better, never raise one.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file without its tests.
const FILE_LINES_MAX: usize = 1_000;
const FILE_LINES_MEDIAN_MAX: usize = 200;
/// Lines of a function, tests left out.
const FUNCTION_LINES_P90_MAX: usize = 35;
const FUNCTION_LINES_LONG: usize = 70;
/// Functions longer than that, of a thousand.
const LONG_FUNCTIONS_PER_MILLE_MAX: usize = 15;

/// Each floor and what it does not know: arrows between layers point down.
const FLOORS: &[(&str, &[&str])] = &[
    ("storage/src", &["tokio", "axum", "hyper", "onelog::"]),
    ("src/broker", &["crate::http", "crate::cli", "crate::client", "crate::server", "crate::config", "axum", "hyper"]),
    ("src/telemetry", &["crate::broker", "crate::http", "crate::cli", "axum", "hyper"]),
    ("src/http", &["crate::cli", "crate::client", "crate::server", "crate::config", "onelog_storage"]),
    ("src/client", &["crate::http", "crate::cli", "crate::server", "onelog_storage"]),
];

struct Source {
    /// From the root of the repository, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The code: comments and what literals hold are blanks, lines stay where they are.
    fn code(&self) -> String {
        blank(&self.text)
    }

    fn is_tests(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap();
        self.path.contains("/tests/") || self.path.starts_with("tests/") || name == "tests.rs" || name.ends_with("_tests.rs")
    }

    /// The code without its `#[cfg(test)]` items.
    fn code_without_tests(&self) -> String {
        if self.is_tests() { String::new() } else { without_tests(&self.code()) }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a directory.
fn sources(below: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut left = vec![root().join(below)];
    while let Some(dir) = left.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(Source { path: relative(&path), text: fs::read_to_string(path).unwrap() });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/")
}

fn product() -> Vec<Source> {
    [sources("src"), sources("storage/src")].into_iter().flatten().collect()
}

fn everything() -> Vec<Source> {
    ["src", "storage", "tests", "benches", "examples"]
        .into_iter()
        .flat_map(sources)
        .filter(|source| source.path != "tests/tidy.rs")
        .collect()
}

/// Fails with one line per finding.
fn assert_none(findings: &[String], rule: &str) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

/// Every line that holds one of the words, as `path:line: text`.
fn lines_with<'a>(path: &str, text: &'a str, words: &'a [&str]) -> Vec<String> {
    let lines = text.lines().enumerate().filter(|(_, line)| words.iter().any(|word| line.contains(word)));
    lines.map(|(number, line)| format!("{path}:{}: {}", number + 1, line.trim())).collect()
}

/// Blanks out comments and the insides of literals, keeping line breaks.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let length = literal_or_comment(&bytes[at..], at > 0 && is_word(bytes[at - 1]));
        if length == 0 {
            out.push(if bytes[at].is_ascii() { char::from(bytes[at]) } else { ' ' });
            at += 1;
        } else {
            out.extend(bytes[at..at + length].iter().map(|byte| if *byte == b'\n' { '\n' } else { ' ' }));
            at += length;
        }
    }
    out
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Length of the literal or comment that starts here; 0 when none does.
fn literal_or_comment(text: &[u8], in_word: bool) -> usize {
    let until = |end: &[u8], from: usize| {
        let found = text[from..].windows(end.len()).position(|window| window == end);
        found.map_or(text.len(), |at| from + at + end.len())
    };
    match text {
        [b'/', b'/', ..] => until(b"\n", 2) - 1,
        [b'/', b'*', ..] => until(b"*/", 2),
        [b'"', ..] => quoted(text, b'"'),
        [b'r', b'"' | b'#', ..] if !in_word => {
            let hashes = text[1..].iter().take_while(|byte| **byte == b'#').count();
            if text.get(1 + hashes) == Some(&b'"') { until(&[&b"\""[..], &b"#".repeat(hashes)].concat(), 2 + hashes) } else { 0 }
        }
        // A character, not a lifetime.
        [b'\'', b'\\', ..] | [b'\'', _, b'\'', ..] => quoted(text, b'\''),
        [b'\'', first, ..] if !first.is_ascii() => quoted(text, b'\''),
        _ => 0,
    }
}

fn quoted(text: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != quote {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// Cuts `#[cfg(test)]` items out of blanked code.
fn without_tests(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match (rest.find('{'), rest.find(';')) {
            (Some(open), semicolon) if semicolon.is_none_or(|semicolon| open < semicolon) => closing(rest, open),
            (_, Some(semicolon)) => semicolon + 1,
            _ => rest.len(),
        };
        rest = &rest[length..];
    }
    out + rest
}

/// Where the brace at `open` is closed: one past it.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at + 1,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Name and length in lines of each function with a body.
fn functions(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let name: String = code[at + 3..].bytes().take_while(|byte| is_word(*byte)).map(char::from).collect();
        if name.is_empty() || code[..at].bytes().next_back().is_some_and(is_word) {
            continue;
        }
        // A body begins before any `;`, unless that one ends an array's length.
        let signature = code[at..].bytes().scan(0_i32, |depth, byte| {
            *depth += i32::from(matches!(byte, b'(' | b'[')) - i32::from(matches!(byte, b')' | b']'));
            Some((*depth, byte))
        });
        let end = signature.enumerate().find(|(_, (depth, byte))| *depth == 0 && matches!(byte, b'{' | b';'));
        if let Some((open, (_, b'{'))) = end {
            let body = &code[at..closing(code, at + open)];
            found.push((name, body.lines().count()));
        }
    }
    found
}

fn percentile(sorted: &[usize], percent: usize) -> usize {
    sorted[(sorted.len() - 1) * percent / 100]
}

#[test]
fn every_file_says_what_it_is() {
    let found: Vec<String> = everything().into_iter().filter(|source| !source.text.starts_with("//!")).map(|source| source.path).collect();
    assert_none(&found, "a file begins with `//!`: what it owns, what it never does");
}

#[test]
fn arrows_between_floors_point_down() {
    let mut found = Vec::new();
    for (floor, unknown) in FLOORS {
        for source in sources(floor) {
            found.extend(lines_with(&source.path, &source.code_without_tests(), unknown));
        }
    }
    assert_none(&found, "a floor names what it must not know");
}

#[test]
fn storage_never_panics_on_purpose() {
    let words = [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!(", "unreachable!("];
    let found: Vec<String> =
        sources("storage/src").iter().flat_map(|source| lines_with(&source.path, &source.code_without_tests(), &words)).collect();
    assert_none(&found, "storage answers with an error");
}

#[test]
fn files_are_small() {
    let mut lengths = Vec::new();
    let mut found = Vec::new();
    for source in product().iter().filter(|source| !source.is_tests()) {
        let lines = without_tests(&source.code()).lines().count();
        lengths.push(lines);
        if lines > FILE_LINES_MAX {
            found.push(format!("{}: {lines} lines", source.path));
        }
    }
    assert_none(&found, "a file is too long");
    lengths.sort_unstable();
    let median = percentile(&lengths, 50);
    assert!(median <= FILE_LINES_MEDIAN_MAX, "the median file has {median} lines");
}

#[test]
fn functions_are_short() {
    let mut all: Vec<(usize, String)> = Vec::new();
    for source in product() {
        let named = functions(&source.code_without_tests()).into_iter();
        all.extend(named.map(|(name, lines)| (lines, format!("{}: {name}", source.path))));
    }
    all.sort();
    let lengths: Vec<usize> = all.iter().map(|(lines, _)| *lines).collect();
    let long = lengths.iter().filter(|lines| **lines > FUNCTION_LINES_LONG).count();
    let longest = all.iter().rev().take(5).fold(String::new(), |mut text, (lines, name)| {
        let _ = write!(text, "\n  {lines} {name}");
        text
    });
    assert!(lengths.len() > 500, "only {} functions found: is this still counting?", lengths.len());
    assert!(percentile(&lengths, 90) <= FUNCTION_LINES_P90_MAX, "p90 is {} lines; longest:{longest}", percentile(&lengths, 90));
    let per_mille = long * 1_000 / lengths.len();
    assert!(per_mille <= LONG_FUNCTIONS_PER_MILLE_MAX, "{long} of {} functions are long:{longest}", lengths.len());
}

#[test]
fn tests_wait_for_what_happens_and_not_for_time() {
    let words = ["thread::sleep(", "time::sleep("];
    let tests = everything().into_iter().map(|source| {
        let code = source.code();
        let code = if source.is_tests() { code } else { only_tests(&code) };
        lines_with(&source.path, &code, &words)
    });
    let found: Vec<String> = tests.flatten().filter(|line| !SLEEPERS.iter().any(|allowed| line.starts_with(allowed))).collect();
    assert_none(&found, "a test sleeps");
}

/// Tests whose subject is a slow peer: the sleep is the peer.
const SLEEPERS: &[&str] = &["src/http/deadline.rs:", "src/cli/bench/load.rs:"];

/// What [`without_tests`] cuts out, on the lines where it stands.
fn only_tests(code: &str) -> String {
    match code.find("#[cfg(test)]") {
        Some(at) => code[..at].chars().filter(|letter| *letter == '\n').collect::<String>() + &code[at..],
        None => String::new(),
    }
}

#[test]
fn nothing_unfinished_and_no_machine_is_named() {
    // Put together here, so that this file does not name them.
    let homes =
        [["/", "home/"].concat(), ["/", "root/"].concat(), ["/", "work/"].concat(), ["/", "Users/"].concat(), ["/tmp", "/wt"].concat()];
    let homes: Vec<&str> = homes.iter().map(String::as_str).collect();
    let mut found = Vec::new();
    for path in tracked() {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        // Data is what others wrote.
        if !path.starts_with("tests/data/") && path != "Cargo.lock" {
            found.extend(lines_with(&path, &text, &homes));
        }
        if path.ends_with(".rs") {
            found.extend(lines_with(&path, &blank(&text), &["todo!(", "unimplemented!(", "dbg!("]));
        }
    }
    assert_none(&found, "unfinished, or a place on somebody's machine");
}

/// Files of the repository: what is not built.
fn tracked() -> Vec<String> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = vec![root().to_owned()];
    while let Some(dir) = left.pop() {
        for path in fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name == ".git" || name == "onelog-data" || name.starts_with("target") {
                continue;
            }
            if path.is_dir() {
                left.push(path);
            } else if path.is_file() {
                found.push(relative(&path));
            }
        }
    }
    found
}

#[test]
fn the_counting_counts() {
    let code = blank("fn a() { let x = \"}\"; /* { */ }\n// fn no() {}\nfn b(x: [u8; 2])\n{\n  '{';\n}\ntrait T { fn c(&self); }\n");
    assert_eq!(functions(&code), [("a".to_owned(), 1), ("b".to_owned(), 4)]);
    assert_eq!(without_tests("x\n#[cfg(test)]\nmod tests;\ny #[cfg(test)] mod t { {} } z"), "x\n\ny  z");
    assert_eq!(blank("a r#\"x\" y\"# b 'c' &'d e '\\'' f"), "a           b     &'d e      f");
    assert_eq!(lines_with("p", "a\n b c", &["b"]), ["p:2: b c"]);
}
