//! Tables as pyarrow writes them (`tests/golden/parquet`), and what hostile ones do.

use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::data::blocks::lines;

fn golden(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/parquet").join(name);
    std::fs::read(path).unwrap()
}

/// The rows with their numbers, or why they cannot be read.
fn read_from(bytes: Vec<u8>, offset: u64) -> Result<Vec<(u64, String)>, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let size = bytes.len() as u64;
    runtime.block_on(store.put(&Path::from("t.parquet"), bytes.into())).unwrap();
    let mut table = Table::open(store, Path::from("t.parquet"), size, runtime.handle().clone(), offset).map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    while let Some(block) = table.next_block().map_err(|error| error.to_string())? {
        assert_eq!(block.offset + 1, block.first_line);
        if block.too_long {
            rows.push((block.first_line, "too long".to_owned()));
        } else {
            rows.extend(lines(&block).map(|(number, line)| (number, std::str::from_utf8(line).unwrap().to_owned())));
        }
    }
    Ok(rows)
}

fn read(bytes: Vec<u8>) -> Result<Vec<(u64, String)>, String> {
    read_from(bytes, 0)
}

fn parsed(rows: Vec<(u64, String)>) -> Vec<Value> {
    rows.into_iter().map(|(_, row)| serde_json::from_str(&row).unwrap()).collect()
}

fn pairs() -> Vec<Value> {
    (0..50).map(|row| json!({"prompt": format!("prompt {row}\n\"é😀\""), "response": format!("response {}", row % 3)})).collect()
}

#[test]
fn rows_are_read_whatever_they_are_written_with() {
    for name in ["pairs-snappy.parquet", "pairs-gzip-v2.parquet", "pairs-plain.parquet"] {
        let rows = read(golden(name)).unwrap();
        assert_eq!(rows.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (1..=50).collect::<Vec<_>>(), "{name}");
        assert_eq!(parsed(rows), pairs(), "{name}");
    }
    assert_eq!(read(golden("no-rows.parquet")).unwrap(), []);
}

#[test]
fn conversations_are_lists_of_messages() {
    let message = |role: &str, content: String| json!({"role": role, "content": content});
    let expected: Vec<_> =
        (0..30).map(|row| json!({"messages": [message("user", format!("question {row}")), message("assistant", format!("answer {row}"))]})).collect();
    assert_eq!(parsed(read(golden("chat-zstd.parquet")).unwrap()), expected);
    let empty = [json!({"messages": null}), json!({"messages": []}), json!({"messages": [null, {"role": "user", "content": null}]})];
    assert_eq!(parsed(read(golden("empty-chats.parquet")).unwrap()), empty);
}

#[test]
fn what_is_no_text_does_not_become_one() {
    let expected = [
        json!({"prompt": "a", "response": [], "score": 0}),
        json!({"prompt": null, "response": [], "score": null}),
        json!({"prompt": "c", "response": [], "score": 0}),
        json!({"prompt": "d", "response": [], "score": 0}),
    ];
    assert_eq!(parsed(read(golden("kinds.parquet")).unwrap()), expected);
}

#[test]
fn reading_goes_on_at_any_row() {
    let whole = read(golden("pairs-snappy.parquet")).unwrap();
    for offset in [0, 1, 19, 20, 21, 39, 40, 49, 50, 70] {
        let rest = read_from(golden("pairs-snappy.parquet"), offset).unwrap();
        assert_eq!(rest, whole[usize::try_from(offset).unwrap().min(50)..], "{offset}");
    }
}

#[test]
fn a_row_that_is_too_long_is_told_and_read_past() {
    let rows = read(golden("long.parquet")).unwrap();
    assert_eq!(rows, [(1, "too long".to_owned()), (2, r#"{"prompt":"b","response":"d"}"#.to_owned())]);
}

#[test]
fn a_file_that_is_no_table_says_so() {
    let good = golden("pairs-snappy.parquet");
    let tail = |length: u32| [&good[..good.len() - 8], &length.to_le_bytes(), b"PAR1"].concat();
    for (bytes, problem) in [
        (Vec::new(), "the footer cannot be read as Parquet: "),
        (b"PAR1".to_vec(), "the footer cannot be read as Parquet: "),
        (vec![b'x'; 100], "the footer cannot be read as Parquet: Invalid Parquet file"),
        (good[..good.len() / 2].to_vec(), "the footer cannot be read as Parquet: "),
        (tail(u32::MAX), "the footer cannot be read as Parquet: "),
        (tail(u32::try_from(good.len()).unwrap() + 1), "the footer cannot be read as Parquet: "),
        (tail(3), "the footer cannot be read as Parquet: "),
        ([vec![0; 20 << 20], (17u32 << 20).to_le_bytes().to_vec(), b"PAR1".to_vec()].concat(), "its footer is longer than 16 MiB"),
        (golden("pairs-brotli.parquet"), "brotli"),
    ] {
        let told = read(bytes).unwrap_err();
        assert!(told.contains(problem) && told.len() < 300, "{told}");
    }
}

#[test]
fn a_small_file_that_unpacks_to_more_than_there_is_room_for_is_refused() {
    let bomb = golden("bomb.parquet");
    assert!(bomb.len() < 100_000);
    let told = read(bomb).unwrap_err();
    assert!(told.contains("its pages are too large to be read in bounded memory"), "{told}");
}

/// The footer of a good file with its schema replaced.
fn with_footer(footer: &[u8]) -> Vec<u8> {
    let length = u32::try_from(footer.len()).unwrap();
    [&b"PAR1"[..], footer, &length.to_le_bytes(), b"PAR1"].concat()
}

#[test]
fn columns_that_never_end_or_are_too_many_are_refused() {
    let element = [0x55u8, 0x02, 0x00];
    let deep = [&[0x15, 0x02, 0x19, 0xFC, 0xC0, 0x84, 0x3D][..], &element.repeat(1_000_000), &[0]].concat();
    assert!(read(with_footer(&deep)).unwrap_err().contains("its columns are nested deeper than 32"));
    for footer in [
        // Each column says that it has more children than there are columns.
        &[0x15, 0x02, 0x19, 0x2C, 0x55, 0xFE, 0xFF, 0xFF, 0xFF, 0x0F, 0x00, 0x55, 0xFE, 0xFF, 0xFF, 0xFF, 0x0F, 0x00, 0x00][..],
        // Two billion columns, and no more bytes.
        &[0x15, 0x02, 0x19, 0xFC, 0xFF, 0xFF, 0xFF, 0xFF, 0x07],
        // Two billion groups of rows.
        &[0x15, 0x02, 0x29, 0x0C, 0x16, 0x00, 0x19, 0xFC, 0xFF, 0xFF, 0xFF, 0xFF, 0x07],
        &[],
    ] {
        assert!(read(with_footer(footer)).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_damaged_table_is_an_error_or_a_table(name in 0..3usize, at in any::<prop::sample::Index>(), byte: u8, from_end: bool) {
        let mut bytes = golden(["pairs-snappy.parquet", "chat-zstd.parquet", "pairs-plain.parquet"][name]);
        let length = bytes.len();
        let at = if from_end { length - 1 - at.index(length.min(600)) } else { at.index(length) };
        bytes[at] = byte;
        let _ = read(bytes);
    }
}
