use super::*;
use crate::data::mds::SHARD_BYTES;
use crate::data::tokenizer::TokenizerFiles;
use crate::data::tokenizer::tests::files;
use std::path::Path;

struct Bench {
    folder: tempfile::TempDir,
    preparation: Preparation,
}

impl Bench {
    fn new(task: TaskType, context: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("out")).unwrap();
        let tokenizer: TokenizerFiles = files(&json!({"eos_token": "</s>"}));
        let model = Arc::new(Model::new(&tokenizer, None).unwrap());
        let save_folder = Location::of_file(&folder.path().join("out")).unwrap();
        let preparation = Preparation { task, context, model, save_folder, threads: 2, shard_bytes: SHARD_BYTES };
        Self { folder, preparation }
    }

    async fn prepare(&self, name: &str, content: impl AsRef<[u8]>) -> Result<Prepared, PrepareError> {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        let place = if self.preparation.task == TaskType::ContinuedPretrain { path.parent().unwrap() } else { &path };
        self.preparation.prepare(&Location::of_file(place).unwrap().into()).await
    }

    fn files(&self, prepared: &Prepared) -> Vec<String> {
        let folder = prepared.mds.as_deref().map_or_else(|| self.folder.path().join("out"), |mds| Path::new(mds).to_owned());
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

const ROWS: &str = "{\"prompt\":\"a b\",\"response\":\"c\"}\n{\"prompt\":\"a b c d\",\"response\":\"a\"}\n";

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_converted_once_and_found_again() {
    let bench = Bench::new(TaskType::InstructionFinetune, 4);
    let first = bench.prepare("rows.jsonl", ROWS).await.unwrap();
    assert_eq!((first.rows, first.tokens, first.too_long, first.dropped, first.samples, first.cached), (2, 4, 1, 1, 1, false));
    assert_eq!(bench.files(&first), ["fingerprints.bin", "index.json", "report.json", "shard.00000.mds.zstd"]);
    let shard = |prepared: &Prepared| std::fs::read(Path::new(prepared.mds.as_deref().unwrap()).join("shard.00000.mds.zstd")).unwrap();
    let bytes = shard(&first);
    let second = bench.prepare("rows.jsonl", ROWS).await.unwrap();
    assert_eq!(second, Prepared { cached: true, ..first.clone() });
    std::fs::remove_dir_all(first.mds.as_deref().unwrap()).unwrap();
    let third = bench.prepare("rows.jsonl", ROWS).await.unwrap();
    assert_eq!((third == first, shard(&third) == bytes), (true, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_data_and_other_options_have_other_keys() {
    let bench = Bench::new(TaskType::InstructionFinetune, 4);
    let mut keys = std::collections::BTreeSet::new();
    keys.insert(bench.prepare("rows.jsonl", ROWS).await.unwrap().mds);
    keys.insert(bench.prepare("rows.jsonl", &ROWS.replace('b', "c")).await.unwrap().mds);
    let longer = Preparation { context: 8, ..bench.preparation.clone() };
    keys.insert(longer.prepare(&Location::of_file(&bench.folder.path().join("rows.jsonl")).unwrap().into()).await.unwrap().mds);
    assert_eq!(keys.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_row_means_that_nothing_is_stored() {
    let bench = Bench::new(TaskType::InstructionFinetune, 4);
    let prepared = bench.prepare("rows.jsonl", &format!("{ROWS}[]\n")).await.unwrap();
    assert_eq!((prepared.rows, prepared.bad, prepared.mds.as_deref()), (3, 1, None));
    assert_eq!(prepared.first_bad[0].line, 3);
    assert_eq!(bench.files(&prepared), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_converted_to_samples_of_the_context_length() {
    let bench = Bench::new(TaskType::ContinuedPretrain, 3);
    let prepared = bench.prepare("texts/a.txt", "a b c d a b").await.unwrap();
    assert_eq!((prepared.rows, prepared.tokens, prepared.samples), (1, 6, 2));
    let tiny = bench.prepare("tiny/a.txt", "a").await.unwrap();
    assert_eq!((tiny.samples, tiny.mds), (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_were_compressed_in_parts_are_read_to_their_end() {
    let bench = Bench::new(TaskType::InstructionFinetune, 4);
    let plain = bench.prepare("rows.jsonl", ROWS).await.unwrap();
    let shard = |prepared: &Prepared| std::fs::read(Path::new(prepared.mds.as_deref().unwrap()).join("shard.00000.mds.zstd")).unwrap();
    let gzipped = |part: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, part.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    // Cut in the middle of a row.
    let (first, second) = ROWS.split_at(50);
    let frames = |pack: &dyn Fn(&str) -> Vec<u8>| [pack(first), pack(second)].concat();
    let zstd = |part: &str| zstd::bulk::compress(part.as_bytes(), 3).unwrap();
    for (name, content) in [("rows.jsonl.gz", frames(&gzipped)), ("rows.jsonl.zst", frames(&zstd)), ("rows.jsonl.zstd", frames(&zstd))] {
        let prepared = bench.prepare(name, content).await.unwrap();
        let same = Prepared { digest: plain.digest.clone(), mds: plain.mds.clone(), ..prepared.clone() };
        assert_eq!((same, shard(&prepared) == shard(&plain)), (plain.clone(), true), "{name}");
    }
}
