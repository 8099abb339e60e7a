//! Rows of every kind, good and spoiled, always the same for a seed.

use fastrand::Rng;

/// A row as a tree, in the order and with the repetitions that it is written with.
#[derive(Clone)]
enum Node {
    /// Written as it is.
    Raw(&'static str),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// Texts that rows are made of: words, blanks, scripts, control characters, and tokens that mean something to a model.
const PIECES: [&str; 47] = [
    "the",
    " quick",
    " brown fox",
    "Jumps",
    " over",
    "12345",
    " 3.14",
    "naïve",
    " café",
    "日本語",
    "и русский",
    "🙂",
    "👩‍👩‍👧",
    "e\u{301}",
    "ﬁ",
    "ſ",
    "שלום",
    "\u{202e}x",
    "\u{feff}",
    "\u{a0}",
    "\u{2028}",
    "\u{85}",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\u{0}",
    "\u{1b}",
    "\u{1f}",
    "\u{7f}",
    "\"",
    "\\",
    "/",
    "{'a': [1]}",
    "</s>",
    "<s>",
    "<|user|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<eos>",
    "<unk>",
    "[INST]",
    "<think>",
    "</think>\n\n",
    "'s",
    "<0x41>",
];
const ROLES: [&str; 11] = ["system", "user", "assistant", "tool", "Assistant", "", "human", " user", "function", "assistant\n", "ipython"];
const KEYS: [&str; 14] =
    ["prompt", "response", "completion", "messages", "role", "content", "Prompt", "text", "", "id", "name", "tool_calls", "prompts", "instruction"];
/// Values of the wrong kind, and values that Python alone takes for JSON.
const VALUES: [&str; 22] = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "1.5e3",
    "1E400",
    "[]",
    "{}",
    "[1]",
    "{\"a\": 1}",
    "NaN",
    "Infinity",
    "-Infinity",
    "\"\"",
    "\" \"",
    "\"\\ud800\"",
    "\"\\udc00x\"",
    "\"\\ud83d\\ude42\"",
    "[\"assistant\"]",
    "[{\"type\": \"text\", \"text\": \"hi\"}]",
    "{\"role\": \"user\", \"role\": \"user\"}",
];

/// Pieces in the longest texts of rows.
const MOST_PIECES: usize = 4000;

/// A row, with the task that it was made for.
pub(crate) struct Line {
    pub(crate) chat: bool,
    pub(crate) bytes: Vec<u8>,
}

/// This many rows: about half of them good.
pub(crate) fn rows(seed: u64, count: usize) -> Vec<Line> {
    let rng = &mut Rng::with_seed(seed);
    (0..count).map(|_| line(rng)).collect()
}

fn line(rng: &mut Rng) -> Line {
    let chat = rng.bool();
    let mut row = if chat { conversation(rng) } else { pair(rng) };
    let spoiling = rng.u8(..100);
    if (45..88).contains(&spoiling) {
        for _ in 0..rng.usize(1..=2) {
            spoil(rng, &mut row, 0);
        }
    }
    let mut text = String::new();
    write(rng, &row, &mut text);
    let mut bytes = text.into_bytes();
    if spoiling >= 88 {
        break_bytes(rng, &mut bytes);
    }
    // One in fifty is judged as the other kind.
    Line { chat: chat != (rng.u8(..50) == 0), bytes }
}

fn one<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}

/// A text of at most so many pieces.
pub(crate) fn text(rng: &mut Rng, pieces: usize) -> String {
    let count = match rng.u8(..100) {
        0..4 => 0,
        4..70 => rng.usize(1..8),
        70..98 => rng.usize(8..120),
        _ => rng.usize(120..4000),
    };
    (0..count.min(pieces)).map(|_| one(rng, &PIECES)).collect()
}

fn pair(rng: &mut Rng) -> Node {
    let answer = if rng.bool() { "response" } else { "completion" };
    let mut keys = vec![("prompt".to_owned(), Node::Text(text(rng, MOST_PIECES))), (answer.to_owned(), Node::Text(text(rng, MOST_PIECES)))];
    rng.shuffle(&mut keys);
    Node::Map(keys)
}

fn message(rng: &mut Rng, role: &str) -> Node {
    let mut keys = vec![("role".to_owned(), Node::Text(role.to_owned())), ("content".to_owned(), Node::Text(text(rng, MOST_PIECES)))];
    rng.shuffle(&mut keys);
    Node::Map(keys)
}

fn conversation(rng: &mut Rng) -> Node {
    let mut messages = Vec::new();
    if rng.u8(..3) == 0 {
        messages.push(message(rng, "system"));
    }
    for _ in 0..rng.usize(1..=4) {
        messages.push(message(rng, "user"));
        messages.push(message(rng, "assistant"));
    }
    Node::Map(vec![("messages".to_owned(), Node::List(messages))])
}

fn any_key(rng: &mut Rng) -> String {
    one(rng, &KEYS).to_owned()
}

fn any_value(rng: &mut Rng) -> Node {
    match rng.u8(..4) {
        0 => Node::Text(one(rng, &ROLES).to_owned()),
        1 => message(rng, "tool"),
        _ => Node::Raw(one(rng, &VALUES)),
    }
}

/// Changes one thing somewhere in the tree.
fn spoil(rng: &mut Rng, node: &mut Node, depth: u8) {
    let deeper = rng.u8(..4) < 3 && depth < 4;
    match node {
        Node::Map(keys) if deeper && !keys.is_empty() => {
            let index = rng.usize(..keys.len());
            spoil(rng, &mut keys[index].1, depth + 1);
        }
        Node::List(items) if deeper && !items.is_empty() => {
            // The ends are where the rules look first.
            let index = if rng.bool() { items.len() - 1 } else { rng.usize(..items.len()) };
            spoil(rng, &mut items[index], depth + 1);
        }
        Node::Map(keys) => {
            let index = rng.usize(..keys.len().max(1));
            match rng.u8(..5) {
                0 if !keys.is_empty() => drop(keys.remove(index)),
                1 if !keys.is_empty() => keys[index].0 = any_key(rng),
                2 if !keys.is_empty() => keys.push(keys[index].clone()),
                3 => keys.insert(index.min(keys.len()), (any_key(rng), any_value(rng))),
                _ => *node = any_value(rng),
            }
        }
        Node::List(items) => {
            let index = rng.usize(..items.len().max(1));
            let role = one(rng, &ROLES);
            match rng.u8(..7) {
                0 if !items.is_empty() => drop(items.remove(index)),
                1 if !items.is_empty() => items.insert(index, items[index].clone()),
                2 if !items.is_empty() => items.swap(0, index),
                3 => items.insert(index.min(items.len()), message(rng, role)),
                4 => items.truncate(rng.usize(..2)),
                5 => items.push(any_value(rng)),
                _ => *node = any_value(rng),
            }
        }
        Node::Text(text) => match rng.u8(..3) {
            0 => *text = one(rng, &ROLES).to_owned(),
            1 => text.clear(),
            _ => *node = any_value(rng),
        },
        Node::Raw(_) => *node = any_value(rng),
    }
}

fn blank(rng: &mut Rng, out: &mut String) {
    if rng.u8(..8) == 0 {
        out.push_str(one(rng, &[" ", "  ", "\t", "\r"]));
    }
}

fn write(rng: &mut Rng, node: &Node, out: &mut String) {
    blank(rng, out);
    match node {
        Node::Raw(text) => out.push_str(text),
        Node::Text(text) => write_text(rng, text, out),
        Node::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                write(rng, item, out);
            }
            out.push(']');
        }
        Node::Map(keys) => {
            out.push('{');
            for (index, (key, item)) in keys.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                blank(rng, out);
                write_text(rng, key, out);
                blank(rng, out);
                out.push(':');
                write(rng, item, out);
            }
            out.push('}');
        }
    }
    blank(rng, out);
}

/// A string in one of the ways that JSON has for it.
fn write_text(rng: &mut Rng, text: &str, out: &mut String) {
    use std::fmt::Write as _;
    let (escapes_all, escapes_some) = (rng.u8(..12) == 0, rng.u8(..4) == 0);
    out.push('"');
    for character in text.chars() {
        if escapes_all || (escapes_some && rng.bool()) || (escapes_some && !character.is_ascii()) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = if rng.bool() { write!(out, "\\u{unit:04x}") } else { write!(out, "\\u{unit:04X}") };
            }
        } else {
            let quoted = serde_json::Value::from(character.to_string()).to_string();
            out.push_str(&quoted[1..quoted.len() - 1]);
        }
    }
    out.push('"');
}

/// Changes bytes, so that the line is mostly no JSON any more.
fn break_bytes(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let at = rng.usize(..bytes.len());
    match rng.u8(..8) {
        0 => bytes.truncate(at.max(1)),
        1 => drop(bytes.remove(at)),
        2 => bytes.insert(at, one(rng, b"\"\\{}[]:,0-tn \xff\xc3\x00\x1f")),
        3 => bytes[at] ^= 1 << rng.u8(..8),
        4 => bytes.extend_from_slice(one(rng, &[&b"{}"[..], b",", b" x", b"\xef\xbb\xbf", b"null"])),
        5 => *bytes = [one(rng, &[&b"\xef\xbb\xbf"[..], b"\xc2\xa0", b"//", b"\x0c"]), bytes.as_slice()].concat(),
        6 => {
            let depth = one(rng, &[3, 127, 128, 129, 3000]);
            let nested = [b"[".repeat(depth), b"]".repeat(depth)].concat();
            *bytes = [b"{\"prompt\": \"p\", \"response\": ".as_slice(), &nested, b"}"].concat();
        }
        _ => bytes.rotate_left(at),
    }
    // A line has no line feed, and a blank line is no row.
    bytes.retain(|&byte| byte != b'\n');
    if bytes.iter().all(u8::is_ascii_whitespace) {
        bytes.push(b'[');
    }
}
