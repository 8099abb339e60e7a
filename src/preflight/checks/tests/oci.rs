use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde_json::{Value, json};

use crate::preflight::address::Policy;
use crate::preflight::checks::Context;
use crate::preflight::fake::oci::{CONFIG, HOST, KEY, store};
use crate::preflight::fake::{Server, context_of, failed, failures, plan};

fn context(folder: &tempfile::TempDir, server: &Server, config: &str, change: impl FnOnce(&mut Value)) -> Context {
    let mut plan = plan(folder.path());
    std::fs::write(folder.path().join("oci/config"), config).unwrap();
    // What the console appends to a downloaded key.
    std::fs::write(folder.path().join("oci/key_file"), format!("{KEY}OCI_API_KEY\n")).unwrap();
    change(&mut plan);
    context_of(&plan, &[], Policy::open(), &[(HOST, &server.address)])
}

fn save_folder(plan: &mut Value) {
    plan["saveFolder"] = json!("oci://data/team a");
}

#[tokio::test]
async fn a_bucket_is_written_claimed_and_cleaned() {
    let folder = tempfile::tempdir().unwrap();
    let (server, objects) = store().await;
    let context = context(&folder, &server, CONFIG, save_folder);
    assert_eq!(failures(&context).await, Vec::<[String; 4]>::new());
    assert_eq!(objects.lock().unwrap().keys().collect::<Vec<_>>(), ["team a/my-run/owner.json"]);
    let mut other = context.clone();
    other.plan.run.uid = "u-2".into();
    assert_eq!(failures(&other).await[0][2], "SaveFolderInUse");
}

#[tokio::test]
async fn objects_are_listed_in_pages_and_read_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let (server, objects) = store().await;
    for name in ["a/1", "a/2/ü.txt", "a/3", "a/4", "a/5/", "ab/6"] {
        objects.lock().unwrap().insert(name.to_owned(), b"0123456789".to_vec());
    }
    let opened = context(&folder, &server, CONFIG, |_| ()).stores.open("oci://data/a").unwrap();
    let found: Vec<_> = opened.store.list(Some(&opened.path)).try_collect().await.unwrap();
    assert_eq!(
        found.iter().map(|meta| (meta.location.as_ref(), meta.size)).collect::<Vec<_>>(),
        ["a/1", "a/2/ü.txt", "a/3", "a/4"].map(|name| (name, 10))
    );
    let at = Path::parse("a/2/ü.txt").unwrap();
    assert_eq!(opened.store.get(&at).await.unwrap().bytes().await.unwrap(), "0123456789");
    assert_eq!(opened.store.get_range(&at, 3..6).await.unwrap(), "345");
    assert_eq!(opened.store.get_range(&at, 8..40).await.unwrap(), "89");
    assert_eq!(opened.store.head(&at).await.unwrap().size, 10);
}

#[tokio::test]
async fn a_bucket_an_object_and_a_key_that_are_none_are_told_apart() {
    let at = |place: &'static str| move |plan: &mut Value| plan["train"] = json!(place);
    let strange = CONFIG.replace("aa:bb", "cc:dd");
    for (config, place, class, reason, message) in [
        (CONFIG, "oci://data/x.jsonl", "UserError", "ObjectMissing", "oci://data/x.jsonl does not exist; upload it or name another"),
        (
            CONFIG,
            "oci://other/x.jsonl",
            "UserError",
            "BucketMissing",
            "cannot read oci://other/x.jsonl: there is no bucket other; make it or name another",
        ),
        (
            &strange,
            "oci://data/x.jsonl",
            "CredentialError",
            "Unauthenticated",
            "cannot read oci://data/x.jsonl (bucket data): the store answered 401 to the key of Secret my-oci; check config and key_file in \
             Secret my-oci",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (server, _) = store().await;
        let found = failures(&context(&folder, &server, config, at(place))).await;
        assert_eq!(found, [failed("TrainData", class, reason, &format!("spec.trainDataPath: {message}"))]);
    }
}
