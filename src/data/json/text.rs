//! A string of a JSON text, which is read only when somebody asks for it; pure.

use std::borrow::Cow;

/// A string as it stands between its quotes, known to be well formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a> {
    raw: &'a str,
    escaped: bool,
}

impl<'a> Text<'a> {
    /// For what [`super::Scanner::string`] accepted.
    pub(super) fn new(raw: &'a str, escaped: bool) -> Self {
        Self { raw, escaped }
    }

    /// The characters between the quotes, escapes and all: valid inside any JSON string.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// The text that the string stands for; borrowed unless it has escapes.
    #[must_use]
    pub fn value(&self) -> Cow<'a, str> {
        if !self.escaped {
            return Cow::Borrowed(self.raw);
        }
        let mut value = String::with_capacity(self.raw.len());
        self.parts(|part| value.push_str(part));
        Cow::Owned(value)
    }

    /// The same without an allocation for each text: `scratch` takes one with escapes.
    pub(crate) fn unescaped<'s>(&self, scratch: &'s mut String) -> &'s str
    where
        'a: 's,
    {
        if !self.escaped {
            return self.raw;
        }
        scratch.clear();
        self.parts(|part| scratch.push_str(part));
        scratch
    }

    /// The text that the string stands for, piece by piece.
    pub(crate) fn parts(&self, mut part: impl FnMut(&str)) {
        if !self.escaped {
            return part(self.raw);
        }
        let mut rest = self.raw;
        while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
            part(&rest[..at]);
            let bytes = rest.as_bytes();
            let (character, length) = match bytes[at + 1] {
                b'b' => ('\u{8}', 2),
                b'f' => ('\u{c}', 2),
                b'n' => ('\n', 2),
                b'r' => ('\r', 2),
                b't' => ('\t', 2),
                b'u' => {
                    let unit = hex(bytes, at + 2).unwrap_or(0xFFFD);
                    let (code, length) = match (unit, hex(bytes, at + 8)) {
                        (0xD800..=0xDBFF, Some(low)) => (0x10000 + ((unit - 0xD800) << 10) + (low.wrapping_sub(0xDC00) & 0x3FF), 12),
                        _ => (unit, 6),
                    };
                    (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), length)
                }
                other => (char::from(other), 2),
            };
            part(character.encode_utf8(&mut [0; 4]));
            rest = &rest[at + length..];
        }
        part(rest);
    }

    /// Whether the string stands for this text.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        if self.escaped { self.value() == text } else { self.raw == text }
    }
}

pub(super) fn hex(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.iter().try_fold(0, |value, &byte| Some(value * 16 + char::from(byte).to_digit(16)?))
}
