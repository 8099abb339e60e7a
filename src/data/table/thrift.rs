//! Looks into the two kinds of headers of a Parquet file before the library does, to find what would make it use more
//! memory or stack than there is; pure.
//!
//! Both are structs in Thrift's compact protocol. Only lengths are followed here; what they mean is the library's to say.

/// Deepest nesting of structs and lists that is followed.
const MAX_DEPTH: usize = 32;
/// Deepest nesting of columns.
const MAX_COLUMN_DEPTH: usize = 32;

/// The sizes that a page header claims.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PageSizes {
    pub(super) uncompressed: i64,
    pub(super) compressed: i64,
}

/// The sizes in the page header that these bytes start with; none if they hold no whole header.
pub(super) fn page_sizes(bytes: &[u8]) -> Option<PageSizes> {
    let mut sizes = PageSizes::default();
    let mut compact = Compact { bytes, at: 0 };
    compact.each_field(|compact, id, kind| match (id, kind) {
        // A field that stands twice counts as the larger one.
        (2, I32) => {
            sizes.uncompressed = sizes.uncompressed.max(compact.signed()?);
            Some(())
        }
        (3, I32) => {
            sizes.compressed = sizes.compressed.max(compact.signed()?);
            Some(())
        }
        _ => compact.skip(kind, 0),
    })?;
    Some(sizes)
}

/// Whether this is a footer whose columns are nested no deeper than can be followed.
pub(super) fn is_shallow(footer: &[u8]) -> bool {
    let mut compact = Compact { bytes: footer, at: 0 };
    let followed = compact.each_field(|compact, id, kind| match (id, kind) {
        (2, LIST) => compact.columns(),
        _ => compact.skip(kind, 0),
    });
    followed.is_some()
}

const I32: u8 = 5;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// Reads the compact protocol; every step is none at the end of the bytes.
struct Compact<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Compact<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let value = self.unsigned()?;
        Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    fn pass(&mut self, length: u64) -> Option<()> {
        self.at = self.at.checked_add(usize::try_from(length).ok()?).filter(|at| *at <= self.bytes.len())?;
        Some(())
    }

    /// How many elements of which kind.
    fn list(&mut self) -> Option<(u64, u8)> {
        let head = self.byte()?;
        let count = if head >> 4 == 15 { self.unsigned()? } else { u64::from(head >> 4) };
        Some((count, head & 15))
    }

    fn each_field(&mut self, mut field: impl FnMut(&mut Self, i64, u8) -> Option<()>) -> Option<()> {
        let mut id = 0i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            id = if head >> 4 == 0 { self.signed()? } else { id.checked_add(i64::from(head >> 4))? };
            field(self, id, head & 15)?;
        }
    }

    /// The list of columns: a group names how many of those that follow are its children.
    fn columns(&mut self) -> Option<()> {
        let (count, kind) = self.list()?;
        // Children that each open group still waits for.
        let mut open: Vec<i64> = Vec::new();
        for _ in 0..count {
            let mut children = 0;
            if kind != STRUCT {
                return None;
            }
            self.each_field(|compact, id, kind| match (id, kind) {
                (5, I32) => {
                    children = compact.signed()?;
                    Some(())
                }
                _ => compact.skip(kind, 0),
            })?;
            if let Some(waiting) = open.last_mut() {
                *waiting -= 1;
            }
            if children > 0 {
                open.push(children);
            }
            if open.len() > MAX_COLUMN_DEPTH {
                return None;
            }
            while open.last().is_some_and(|waiting| *waiting <= 0) {
                open.pop();
            }
        }
        Some(())
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match kind {
            1 | 2 => Some(()),
            3 => self.pass(1),
            4..=6 => self.unsigned().map(|_| ()),
            7 => self.pass(8),
            8 => {
                let length = self.unsigned()?;
                self.pass(length)
            }
            LIST | 10 => {
                let (count, kind) = self.list()?;
                for _ in 0..count {
                    // In a list even a truth value has a byte.
                    if matches!(kind, 1 | 2) { self.pass(1)? } else { self.skip(kind, depth + 1)? }
                }
                Some(())
            }
            11 => {
                let count = self.unsigned()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                for _ in 0..count {
                    for kind in [kinds >> 4, kinds & 15] {
                        if matches!(kind, 1 | 2) { self.pass(1)? } else { self.skip(kind, depth + 1)? }
                    }
                }
                Some(())
            }
            STRUCT => self.each_field(|compact, _, kind| compact.skip(kind, depth + 1)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_larger_of_two_claims_counts() {
        let header = [0x15, 0x00, 0x15, 0x14, 0x15, 0x0A, 0x05, 0x04, 0x80, 0x02, 0x00];
        assert_eq!(page_sizes(&header), Some(PageSizes { uncompressed: 128, compressed: 5 }));
        assert_eq!(page_sizes(&header[..9]), None);
    }

    /// A footer whose columns are groups of one child each.
    fn nested(depth: usize) -> Vec<u8> {
        let mut footer = vec![0x15, 0x02, 0x19, 0xFC];
        let mut count = depth;
        while count >= 0x80 {
            footer.push(u8::try_from(count & 0x7F).unwrap() | 0x80);
            count >>= 7;
        }
        footer.push(u8::try_from(count).unwrap());
        for _ in 0..depth {
            footer.extend_from_slice(&[0x55, 0x02, 0x00]);
        }
        footer.push(0);
        footer
    }

    #[test]
    fn columns_that_are_nested_too_deep_are_found() {
        assert_eq!([MAX_COLUMN_DEPTH, MAX_COLUMN_DEPTH + 1, 1_000_000].map(|depth| is_shallow(&nested(depth))), [true, false, false]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (page_sizes(&bytes), is_shallow(&bytes));
        }
    }
}
