//! Text that the engine reads as it stands: pure.

/// `text` with every `${` escaped: the engine resolves `${...}` in each string of its configuration, `${oc.env:NAME}` to an
/// environment variable, so that a prompt could otherwise log a credential.
pub(super) fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut backslashes = 0;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c == '$' && rest.peek() == Some(&'{') {
            // Backslashes before an escaped interpolation escape each other.
            out.extend(std::iter::repeat_n('\\', backslashes + 1));
        }
        backslashes = if c == '\\' { backslashes + 1 } else { 0 };
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn interpolations_are_escaped_and_nothing_else_is() {
        for (text, expected) in
            [("${oc.env:HOME}", r"\${oc.env:HOME}"), (r"a\${b}", r"a\\\${b}"), (r"$5 {x} \n", r"$5 {x} \n"), ("$${x}${y}", r"$\${x}\${y}"), ("", "")]
        {
            assert_eq!(literal(text), expected);
        }
    }

    proptest! {
        /// The engine's own rule, backwards: an odd number of backslashes escapes, and of each pair one remains.
        #[test]
        fn the_engine_reads_back_what_was_written(text in r"[\\${}a:]{0,12}") {
            let written = literal(&text);
            let mut read = String::new();
            let mut backslashes = 0;
            for (at, c) in written.char_indices() {
                if c == '\\' {
                    backslashes += 1;
                    continue;
                }
                let opens = written[at..].starts_with("${");
                prop_assert!(!opens || backslashes % 2 == 1, "an interpolation in {written:?}");
                read.extend(std::iter::repeat_n('\\', if opens { backslashes / 2 } else { backslashes }));
                backslashes = 0;
                read.push(c);
            }
            read.extend(std::iter::repeat_n('\\', backslashes));
            prop_assert_eq!(read, text);
        }
    }
}
