//! The text of a configuration: JSON that every YAML 1.1 reader takes for the same values, and strings that stay literal. Pure.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CharEscape, Formatter, PrettyFormatter, Serializer};

/// `config` as text.
#[must_use]
pub fn render(config: &Value) -> String {
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, Yaml(PrettyFormatter::new()));
    if config.serialize(&mut serializer).is_err() {
        text.clear();
    }
    String::from_utf8(text).unwrap_or_default()
}

/// `text` such that the engine, which resolves `${...}` in every string (environment variables too), reads it as it stands.
pub(super) fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut backslashes = 0;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c == '$' && rest.peek() == Some(&'{') {
            out.extend(std::iter::repeat_n('\\', backslashes + 1));
        }
        backslashes = if c == '\\' { backslashes + 1 } else { 0 };
        out.push(c);
    }
    out
}

/// Pretty JSON whose floats have a point and a signed exponent (`5e-7` is a string in YAML 1.1) and whose strings hold no raw
/// character that YAML takes for a line break or refuses.
struct Yaml<'a>(PrettyFormatter<'a>);

impl Formatter for Yaml<'_> {
    fn write_f64<W: Write + ?Sized>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let shortest = format!("{value:e}");
        let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
        let plain = format!("{value:?}");
        if !plain.contains('e') {
            return writer.write_all(plain.as_bytes());
        }
        let point = if mantissa.contains('.') { "" } else { ".0" };
        let sign = if exponent.starts_with('-') { "" } else { "+" };
        write!(writer, "{mantissa}{point}e{sign}{exponent}")
    }

    fn write_string_fragment<W: Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let special = |c: char| matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}');
        for part in fragment.split_inclusive(special) {
            match part.char_indices().next_back().filter(|(_, last)| special(*last)) {
                Some((start, last)) => write!(writer, "{}\\u{:04x}", &part[..start], u32::from(last))?,
                None => writer.write_all(part.as_bytes())?,
            }
        }
        Ok(())
    }

    fn write_char_escape<W: Write + ?Sized>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        self.0.write_char_escape(writer, escape)
    }

    fn begin_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn floats_have_a_point_and_a_signed_exponent() {
        for (value, expected) in
            [(5e-7, "5.0e-7"), (1.25e-9, "1.25e-9"), (1e20, "1.0e+20"), (0.001, "0.001"), (1.0, "1.0"), (600.0, "600.0"), (1e-12, "1.0e-12")]
        {
            assert_eq!(render(&json!(value)), expected);
        }
    }

    #[test]
    fn a_string_holds_no_raw_character_that_yaml_would_break_or_refuse() {
        assert_eq!(render(&json!("a\u{2028}b\u{85}\u{7f}é😀\n\"")), "\"a\\u2028b\\u0085\\u007fé😀\\n\\\"\"");
    }

    #[test]
    fn interpolations_are_escaped_and_nothing_else_is() {
        for (text, expected) in
            [("${oc.env:HOME}", "\\${oc.env:HOME}"), ("a\\${b}", "a\\\\\\${b}"), ("$5 {x} \\n", "$5 {x} \\n"), ("$${x}", "$\\${x}")]
        {
            assert_eq!(literal(text), expected);
        }
    }

    proptest! {
        #[test]
        fn the_text_is_json_for_the_same_value(text: String) {
            let value = json!({"text": text, "list": [1, null, {}], "empty": []});
            prop_assert_eq!(serde_json::from_str::<Value>(&render(&value)).unwrap(), value);
        }

        #[test]
        fn no_digit_of_a_number_is_lost(number in proptest::num::f64::NORMAL) {
            prop_assert_eq!(render(&json!(number)).parse(), Ok(number));
        }
    }
}
