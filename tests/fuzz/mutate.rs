//! Spoils good inputs in the ways that parsers fall over.

use fastrand::Rng;

/// Inputs are cut to this size.
const MOST_BYTES: usize = 1 << 16;
/// Bytes that mean something to one parser or another.
const TOKENS: [&[u8]; 48] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b":",
    b",",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"-",
    b"/",
    b"..",
    b"%",
    b"{{",
    b"}}",
    b"{%",
    b"%}",
    b"{#",
    b"|",
    b"(",
    b")",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e999",
    b"-0.0",
    b"18446744073709551616",
    b"9223372036854775807",
    b"NaN",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\xc3",
    b"\xef\xbb\xbf",
    b"\xf0\x9f\x99\x82",
    b"://",
    b"@",
    b"?",
    b"#",
    b"s3://",
    b"_",
    b" * 9999999999",
    b"range(999999999)",
    b"messages",
];

/// Gives one spoiled input after another.
pub(crate) struct Mutator {
    rng: Rng,
    seeds: Vec<Vec<u8>>,
}

impl Mutator {
    pub(crate) fn new(seed: u64, seeds: &[&[u8]]) -> Self {
        Self { rng: Rng::with_seed(seed), seeds: seeds.iter().map(|seed| seed.to_vec()).collect() }
    }

    pub(crate) fn next(&mut self) -> Vec<u8> {
        let mut input = self.seed();
        for _ in 0..self.rng.usize(0..8) {
            self.spoil(&mut input);
            input.truncate(MOST_BYTES);
        }
        input
    }

    fn seed(&mut self) -> Vec<u8> {
        let index = self.rng.usize(..self.seeds.len());
        self.seeds[index].clone()
    }

    /// A short range of the input.
    fn range(&mut self, input: &[u8]) -> std::ops::Range<usize> {
        let start = self.rng.usize(..=input.len());
        let most = if self.rng.bool() { 8 } else { input.len() };
        start..(start + self.rng.usize(..=most)).min(input.len())
    }

    fn spoil(&mut self, input: &mut Vec<u8>) {
        let range = self.range(input);
        let at = range.start;
        match self.rng.u8(..9) {
            0 if at < input.len() => input[at] ^= 1 << self.rng.u8(..8),
            1 if at < input.len() => input[at] = self.rng.u8(..),
            2 => drop(input.drain(range)),
            3 => input.truncate(at),
            4 => {
                let token = TOKENS[self.rng.usize(..TOKENS.len())];
                input.splice(range, token.iter().copied());
            }
            5 => {
                let other = self.seed();
                let part = self.range(&other);
                input.splice(range, other[part].iter().copied());
            }
            6 => {
                let times = [2, 130, 5000][self.rng.usize(..3)];
                let part: Vec<u8> = input[range].iter().copied().take(MOST_BYTES / times).collect();
                input.splice(at..at, part.repeat(times));
            }
            7 => {
                let token = TOKENS[self.rng.usize(..TOKENS.len())];
                input.splice(at..at, token.repeat([1, 200, 4000][self.rng.usize(..3)]));
            }
            _ => {
                let part = input[range].to_vec();
                let to = self.rng.usize(..=input.len());
                input.splice(to..to, part);
            }
        }
    }
}
