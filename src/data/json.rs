//! A strict JSON scanner over borrowed text: it builds no tree, copies nothing and never recurses; pure.
//!
//! Rows are checked at the speed of the disk, so what is not needed is only skipped, and a string stays a slice of
//! the line until somebody asks for its text.

mod text;

pub use text::Text;
use text::hex;

/// Deepest nesting of lists and maps that is followed.
pub const MAX_DEPTH: usize = 128;

/// What kind of value was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Boolean,
    /// A number.
    Number,
    /// A string.
    Text,
    /// A list.
    List,
    /// A map.
    Map,
}

impl Kind {
    /// The kind as people call it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Number => "a number",
            Self::Text => "a string",
            Self::List => "a list",
            Self::Map => "an object",
        }
    }
}

/// Why a text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// Byte of the line at which it went wrong, from 0.
    pub at: usize,
    /// What is wrong there.
    pub problem: &'static str,
}

/// Reads one JSON text from front to back.
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(crate) fn fail<T>(&self, problem: &'static str) -> Result<T, Malformed> {
        Err(Malformed { at: self.at, problem })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// The kind of the value that starts here.
    pub(crate) fn kind(&mut self) -> Result<Kind, Malformed> {
        self.skip_blanks();
        match self.peek() {
            Some(b'{') => Ok(Kind::Map),
            Some(b'[') => Ok(Kind::List),
            Some(b'"') => Ok(Kind::Text),
            Some(b'n') => Ok(Kind::Null),
            Some(b't' | b'f') => Ok(Kind::Boolean),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(_) => self.fail("a value was expected"),
            None => self.fail("the text ends where a value was expected"),
        }
    }

    /// Nothing but blanks may follow the value.
    pub(crate) fn end(&mut self) -> Result<(), Malformed> {
        self.skip_blanks();
        if self.at == self.text.len() { Ok(()) } else { self.fail("something follows the value") }
    }

    /// Steps over `{` or `[`.
    pub(crate) fn open(&mut self) {
        self.at += 1;
    }

    /// The next key of a map, up to and with its colon; none at the map's end. `first` says that no comma is due.
    pub(crate) fn key(&mut self, first: bool) -> Result<Option<Text<'a>>, Malformed> {
        if !self.more(b'}', first)? {
            return Ok(None);
        }
        if self.peek() != Some(b'"') {
            return self.fail("a key in quotes was expected");
        }
        let key = self.string()?;
        self.skip_blanks();
        if self.peek() != Some(b':') {
            return self.fail("a colon was expected");
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Whether the list has another item. `first` says that no comma is due.
    pub(crate) fn item(&mut self, first: bool) -> Result<bool, Malformed> {
        self.more(b']', first)
    }

    fn more(&mut self, close: u8, first: bool) -> Result<bool, Malformed> {
        self.skip_blanks();
        match self.peek() {
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            Some(b',') if !first => {
                self.at += 1;
                self.skip_blanks();
                if self.peek() == Some(close) { self.fail("a comma has nothing behind it") } else { Ok(true) }
            }
            Some(_) if first => Ok(true),
            Some(_) => self.fail("a comma or the end was expected"),
            None => self.fail("the text ends inside a list or an object"),
        }
    }

    /// Reads a string; the scanner stands on its opening quote.
    pub(crate) fn string(&mut self) -> Result<Text<'a>, Malformed> {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += plain_length(&self.text.as_bytes()[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    let raw = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(Text::new(raw, escaped));
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return self.fail("a control character stands in a string: write it as an escape"),
                None => return self.fail("a string has no closing quote"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Malformed> {
        match self.text.as_bytes().get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => match hex(self.text.as_bytes(), self.at + 2) {
                Some(0xD800..=0xDBFF) => {
                    let bytes = self.text.as_bytes();
                    let low = (bytes.get(self.at + 6..self.at + 8) == Some(b"\\u")).then(|| hex(bytes, self.at + 8)).flatten();
                    if !matches!(low, Some(0xDC00..=0xDFFF)) {
                        return self.fail(LONE_SURROGATE);
                    }
                    self.at += 12;
                    Ok(())
                }
                Some(0xDC00..=0xDFFF) => self.fail(LONE_SURROGATE),
                Some(_) => {
                    self.at += 6;
                    Ok(())
                }
                None => self.fail("\\u needs four hexadecimal digits"),
            },
            _ => self.fail("a backslash starts no known escape"),
        }
    }

    /// Steps over one value of any kind and says which kind it was. Depth is counted, not recursed into.
    pub(crate) fn skip(&mut self) -> Result<Kind, Malformed> {
        let kind = self.kind()?;
        match kind {
            Kind::List | Kind::Map => self.skip_nested(kind)?,
            Kind::Text => {
                self.string()?;
            }
            Kind::Number => self.number()?,
            Kind::Null | Kind::Boolean => self.word()?,
        }
        Ok(kind)
    }

    fn skip_nested(&mut self, outer: Kind) -> Result<(), Malformed> {
        let mut stack = [false; MAX_DEPTH];
        let mut depth = 1;
        stack[0] = outer == Kind::Map;
        let mut first = true;
        self.open();
        while depth > 0 {
            let in_map = stack[depth - 1];
            let more = if in_map { self.key(first)?.is_some() } else { self.item(first)? };
            if !more {
                depth -= 1;
                first = false;
                continue;
            }
            let kind = self.kind()?;
            if matches!(kind, Kind::List | Kind::Map) {
                if depth == MAX_DEPTH {
                    return self.fail("lists or objects are nested deeper than 128 levels");
                }
                stack[depth] = kind == Kind::Map;
                depth += 1;
                first = true;
                self.open();
            } else {
                self.skip()?;
                first = false;
            }
        }
        Ok(())
    }

    fn word(&mut self) -> Result<(), Malformed> {
        for word in ["null", "true", "false"] {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(());
            }
        }
        self.fail("a value was expected")
    }

    fn number(&mut self) -> Result<(), Malformed> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { self.fail("a digit was expected") } else { Ok(()) }
    }
}

/// What half of a surrogate pair is called; such a text has no UTF-8, so no tokenizer can read it.
pub(crate) const LONE_SURROGATE: &str = "\\u names half of a surrogate pair";

/// How many bytes from the front are neither a quote, a backslash nor a control character.
fn plain_length(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let mut length = 0;
    for chunk in bytes.chunks_exact(8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("chunks of eight bytes"));
        let zero_where = |pattern: u8| {
            let differs = word ^ (ONES * u64::from(pattern));
            differs.wrapping_sub(ONES) & !differs
        };
        // A borrow can only mark bytes above the first true hit, so the lowest mark is always exact.
        let below_space = word.wrapping_sub(ONES * 0x20) & !word;
        let hits = (zero_where(b'"') | zero_where(b'\\') | below_space) & HIGHS;
        if hits != 0 {
            return length + (hits.trailing_zeros() / 8) as usize;
        }
        length += 8;
    }
    length + bytes[length..].iter().take_while(|&&byte| byte >= 0x20 && byte != b'"' && byte != b'\\').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &str) -> Result<Kind, Malformed> {
        let mut scanner = Scanner::new(text);
        let kind = scanner.skip()?;
        scanner.end()?;
        Ok(kind)
    }

    fn string(text: &str) -> Result<String, &'static str> {
        let mut scanner = Scanner::new(text);
        scanner.string().map(|text| text.value().into_owned()).map_err(|malformed| malformed.problem)
    }

    #[test]
    fn every_escape_stands_for_its_character() {
        assert_eq!(string(r#""a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00z""#).unwrap(), "a\"\\/\u{8}\u{c}\n\r\té😀z");
        assert_eq!(string(r#""\u0000""#).unwrap(), "\0");
    }

    #[test]
    fn half_a_surrogate_pair_is_refused() {
        for text in [r#""\ud83d""#, r#""\ude00""#, r#""\ud83dx\ude00""#, r#""\ud83d\u0041""#] {
            assert_eq!(string(text), Err(LONE_SURROGATE), "{text}");
        }
    }

    #[test]
    fn nesting_is_followed_to_its_bound_and_no_further() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(whole(&nested(MAX_DEPTH)), Ok(Kind::List));
        assert!(whole(&nested(MAX_DEPTH + 1)).unwrap_err().problem.contains("nested deeper"));
        assert!(whole(&"[".repeat(1_000_000)).unwrap_err().problem.contains("nested deeper"));
        assert!(whole(&"{\"a\":".repeat(1_000_000)).unwrap_err().problem.contains("nested deeper"));
    }

    #[test]
    fn what_is_not_json_says_where() {
        for (text, at) in [
            ("", 0),
            ("{", 1),
            ("[1,]", 3),
            ("[1 2]", 3),
            ("{\"a\" 1}", 5),
            ("{a:1}", 1),
            ("nul", 0),
            ("01", 1),
            ("\"\t\"", 1),
            ("1.", 2),
            ("NaN", 0),
        ] {
            assert_eq!(whole(text).unwrap_err().at, at, "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_accepts_what_serde_json_accepts(text in r#"[\[\]{}:,"\\ntrue0-9.eE \x01a-f]{0,24}|\PC{0,40}"#) {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            prop_assert_eq!(whole(&text).is_ok(), theirs.is_ok() || theirs.unwrap_err().to_string().contains("out of range"), "{}", text);
        }

        #[test]
        fn a_written_string_is_read_back(value in "\\PC{0,40}|[\"\\\\\u{0}-\u{20}é😀]{0,40}") {
            let written = serde_json::to_string(&value).unwrap();
            prop_assert_eq!(string(&written).unwrap(), value);
        }

        #[test]
        fn plain_length_is_the_plain_count(bytes in prop::collection::vec(prop_oneof![Just(b'a'), Just(0x80u8), Just(0xFFu8), Just(b'!'), Just(b'#'), any::<u8>()], 0..40)) {
            let expected = bytes.iter().take_while(|&&b| b >= 0x20 && b != b'"' && b != b'\\').count();
            prop_assert_eq!(plain_length(&bytes), expected);
        }
    }
}
