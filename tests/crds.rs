//! `crds/` says what the types say. `UPDATE=1 cargo test --test crds` rewrites it.

use std::path::Path;

use finetune_operator::api::crd;

#[test]
fn the_files_are_what_the_types_say_and_each_stays_below_200_kb() {
    for (file, definition) in crd::all() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds").join(file);
        let yaml = serde_saphyr::to_string(&definition).expect("a CRD serializes");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &yaml).expect("crds/ is writable");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), yaml, "{file} is stale: UPDATE=1 cargo test --test crds");
        assert!(yaml.len() < 200_000, "{file} has {} bytes", yaml.len());
    }
}
