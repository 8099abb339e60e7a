//! Files that were made to hurt: each is refused with a clear sentence, within 300 MB of memory and without a panic.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

const GIB: u64 = 1 << 30;
const MEMORY_KIB: u32 = 300_000;

/// Runs `finetune-preflight rows` on a file; its exit code, and what it says.
fn rows(file: &Path) -> (Option<i32>, String) {
    let limited = format!("ulimit -d {MEMORY_KIB}; exec \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &limited, "sh", env!("CARGO_BIN_EXE_finetune-preflight"), "rows", "--task-type", "INSTRUCTION_FINETUNE"])
        .arg(file)
        .output()
        .expect("the program runs");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("it says text")).concat();
    (output.status.code(), said.replace(&format!("{}/", file.parent().expect("it is in a folder").display()), ""))
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder can be made"))
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).expect("files can be written and read");
        path
    }

    /// A file that unpacks to all that `content` gives.
    fn packed(&self, name: &str, content: &mut dyn Read) -> PathBuf {
        let path = self.0.path().join(name);
        let file = std::fs::File::create(&path).expect("files can be written and read");
        let mut encoder: Box<dyn Write> = if path.extension().is_some_and(|extension| extension == "gz") {
            Box::new(flate2::write::GzEncoder::new(file, flate2::Compression::fast()))
        } else {
            Box::new(zstd::stream::Encoder::new(file, 1).expect("files can be written and read").auto_finish())
        };
        io::copy(content, &mut encoder).expect("files can be written and read");
        drop(encoder);
        assert!(path.metadata().expect("files can be written and read").len() < 16 << 20);
        path
    }
}

const GOOD: &[u8] = b"\n{\"prompt\":\"a\",\"response\":\"b\"}\n";

#[test]
fn a_row_of_a_gibibyte_is_told_and_read_past() {
    let folder = Folder::new();
    for (name, length) in [("a.jsonl.zst", GIB), ("a.jsonl.gz", GIB / 16)] {
        let file = folder.packed(name, &mut b"{\"prompt\":\"".chain(io::repeat(b'x').take(length)).chain(GOOD));
        let expected = format!(
            "{name}:1: RowTooLargeError: the line is longer than 8 MiB, which no row may be\n2 rows in 1 files: 1 bad, 0 the same as an earlier one\n"
        );
        assert_eq!(rows(&file), (Some(1), expected));
    }
}

#[test]
fn a_file_that_unpacks_to_nothing_but_line_ends_is_read_past() {
    let folder = Folder::new();
    let file = folder.packed("a.jsonl.zst", &mut io::repeat(b'\n').take(GIB / 16).chain(GOOD));
    assert_eq!(rows(&file), (Some(0), "1 rows in 1 files: 0 bad, 0 the same as an earlier one\n".to_owned()));
}

#[test]
fn lines_that_no_parser_should_follow_are_bad_rows() {
    let folder = Folder::new();
    let lines: Vec<(Vec<u8>, &str)> = vec![
        (b"\xEF\xBB\xBF{\"prompt\":\"a\",\"response\":\"b\"}\r".to_vec(), ""),
        (b"[".repeat(10_000), "InvalidJsonError: the line is not JSON: lists or objects are nested deeper than 128 levels (column 129)"),
        (
            [&b"{\"prompt\":"[..], &b"{\"a\":".repeat(10_000)].concat(),
            "InvalidJsonError: the line is not JSON: lists or objects are nested deeper than 128 levels (column 651)",
        ),
        (b"{\"prompt\":\"\xff\",\"response\":\"b\"}".to_vec(), "InvalidUtf8Error: the line is not UTF-8: save the file as UTF-8"),
        (
            b"{\"prompt\":\"a\0b\",\"response\":\"b\"}".to_vec(),
            "InvalidJsonError: the line is not JSON: a control character stands in a string: write it as an escape (column 13)",
        ),
        (b"{\"prompt\":\"a\\u0000b\",\"response\":\"b\"}".to_vec(), ""),
        (b"\0".to_vec(), "InvalidJsonError: the line is not JSON: a value was expected (column 1)"),
        (b"\xEF\xBB\xBF{}".to_vec(), "InvalidJsonError: the line is not JSON: a value was expected (column 1)"),
        (b"{\"prompt\":\"a\",\"response\":\"b\",\"prompt\":\"c\"}".to_vec(), "DuplicateKeyError: the key prompt stands twice in one object"),
        (
            b"{\"prompt\":\"\\ud83d\",\"response\":\"b\"}".to_vec(),
            "InvalidJsonError: the line is not JSON: \\u names half of a surrogate pair (column 12)",
        ),
    ];
    let file = folder.file("a.jsonl", &lines.iter().map(|(line, _)| line.as_slice()).collect::<Vec<_>>().join(&b'\n'));
    let bad: Vec<_> =
        (1..).zip(&lines).filter(|(_, (_, told))| !told.is_empty()).map(|(line, (_, told))| format!("a.jsonl:{line}: {told}\n")).collect();
    let summary = format!("10 rows in 1 files: {} bad, 0 the same as an earlier one\n", bad.len());
    assert_eq!(rows(&file), (Some(1), bad.concat() + &summary));
}

#[test]
fn compressed_files_that_are_cut_off_or_want_too_much_memory_are_refused() {
    let folder = Folder::new();
    let rows_of = |count: usize| GOOD.repeat(count);
    for name in ["cut.jsonl.gz", "cut.jsonl.zst"] {
        let file = folder.packed(name, &mut rows_of(100_000).as_slice());
        let whole = std::fs::read(&file).expect("files can be written and read");
        std::fs::write(&file, &whole[..whole.len() - 5]).expect("files can be written and read");
        let (code, said) = rows(&file);
        assert_eq!((code, said.starts_with(&format!("error: read {name}: "))), (Some(2), true), "{said}");
        std::fs::write(&file, b"neither the one nor the other").expect("files can be written and read");
        assert_eq!(rows(&file).0, Some(2), "{name}");
    }
    // A frame may ask for a window of 2 GiB.
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).expect("files can be written and read");
    encoder.window_log(30).expect("files can be written and read");
    encoder.write_all(&rows_of(10)).expect("files can be written and read");
    let (code, said) = rows(&folder.file("window.jsonl.zst", &encoder.finish().expect("files can be written and read")));
    assert_eq!((code, said.starts_with("error: read window.jsonl.zst: ")), (Some(2), true), "{said}");
}

#[test]
fn a_table_that_lies_is_refused() {
    let folder = Folder::new();
    let golden = |name: &str| {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/parquet").join(name)).expect("files can be written and read")
    };
    let good = golden("pairs-snappy.parquet");
    let tail = |length: u32| [&good[..good.len() - 8], &length.to_le_bytes(), b"PAR1"].concat();
    let deep = [&[0x15, 0x02, 0x19, 0xFC, 0xC0, 0x84, 0x3D][..], &[0x55u8, 0x02, 0x00].repeat(1_000_000), &[0]].concat();
    let deep = [b"PAR1", deep.as_slice(), &u32::try_from(deep.len()).expect("it is small").to_le_bytes(), b"PAR1"].concat();
    for (name, content, problem) in [
        ("bomb.parquet", golden("bomb.parquet"), "its pages are too large to be read in bounded memory"),
        ("cut.parquet", good[..good.len() - 20].to_vec(), "Invalid Parquet file"),
        ("magic.parquet", vec![b'x'; 100], "Invalid Parquet file"),
        ("length.parquet", tail(u32::MAX), "the footer cannot be read as Parquet"),
        ("deep.parquet", deep, "its columns are nested deeper than 32"),
    ] {
        let (code, said) = rows(&folder.file(name, &content));
        assert_eq!((code, said.contains(problem), said.contains("panicked")), (Some(2), true, false), "{name}: {said}");
    }
}
