//! What the documents say of the code is so.

use std::collections::BTreeSet;
use std::path::Path;

use finetune_operator::api::FinetuneRun;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("it is part of the repository")
}

#[test]
fn every_direct_dependency_has_its_line_and_no_other() {
    let manifest = read("Cargo.toml");
    let (_, after) = manifest.split_once("\n[dependencies]\n").expect("Cargo.toml has dependencies");
    let dependencies: BTreeSet<_> =
        after.lines().take_while(|line| !line.starts_with('[')).filter_map(|line| line.split_once(" = ")).map(|(name, _)| name).collect();
    let document = read("docs/dependencies.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | ")).map(|(name, _)| name);
    let explained: BTreeSet<_> = rows.filter(|name| *name != "crate").collect();
    assert_eq!(explained, dependencies);
}

#[test]
fn every_link_of_a_document_leads_to_a_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs")).expect("docs/ is there").map(|entry| entry.expect("docs/ is readable").path());
    for document in docs.chain([root.join("README.md")]) {
        let text = std::fs::read_to_string(&document).expect("a document is text");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link).filter(|link| !link.contains("://")) {
            assert!(document.with_file_name(link).exists(), "{}: {link}", document.display());
        }
    }
}

#[test]
fn the_readme_shows_a_run_that_the_operator_reads() {
    let text = read("README.md");
    let yaml = text.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the README shows a run");
    let run: FinetuneRun = serde_saphyr::from_str(yaml).expect("it is a FinetuneRun");
    assert_eq!(run.spec.registered_name(&run.metadata.name.unwrap_or_default()).as_deref(), Some("main.support.support-bot"));
}
