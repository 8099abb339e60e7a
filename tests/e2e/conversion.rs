//! What preflight cannot read itself is converted by the runtime first.

use finetune_operator::api::status::{DataStatus, Phase};
use finetune_operator::api::{FinetuneModel, FinetuneRunStatus};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use object_store::ObjectStoreExt;
use object_store::path::Path as Key;
use serde_json::{Value, json};

use crate::bed::Result;
use crate::scene::{PREFLIGHT, Scene};

const RUN: &str = "old-tokenizer";
const FOLDER: &str = "tiny-llama-of-old";

/// The tiny model with its tokenizer as a vocabulary with merges, as models were published before `tokenizer.json`.
async fn old_model(scene: &Scene) -> Result<()> {
    let models = scene.bed.bucket("models")?;
    let read = async |name: &str| -> Result<Vec<u8>> { Ok(models.get(&Key::from(format!("tiny-llama/{name}"))).await?.bytes().await?.to_vec()) };
    let write = async |name: &str, bytes: Vec<u8>| models.put(&Key::from(format!("{FOLDER}/{name}")), bytes.into()).await.map(|_| ());
    for name in ["config.json", "generation_config.json", "special_tokens_map.json", "model.safetensors"] {
        write(name, read(name).await?).await?;
    }
    let mut config: Value = serde_json::from_slice(&read("tokenizer_config.json").await?)?;
    config["tokenizer_class"] = json!("GPT2Tokenizer");
    write("tokenizer_config.json", serde_json::to_vec(&config)?).await?;
    let tokenizer: Value = serde_json::from_slice(&read("tokenizer.json").await?)?;
    write("vocab.json", serde_json::to_vec(&tokenizer["model"]["vocab"])?).await?;
    let merge = |merge: &Value| -> Option<String> {
        let pair = merge.as_array().map(|pair| pair.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "));
        pair.or_else(|| merge.as_str().map(str::to_owned))
    };
    let merges: Vec<String> = tokenizer["model"]["merges"].as_array().into_iter().flatten().filter_map(merge).collect();
    Ok(write("merges.txt", format!("#version: 0.2\n{}\n", merges.join("\n")).into_bytes()).await?)
}

/// The preflight of such a model says that its tokenizer is missing, the runtime makes it, the next preflight reads the same tokens with it.
pub(crate) async fn a_model_without_a_fast_tokenizer_gets_one_and_its_data_are_read_with_it(scene: &Scene) -> Result<()> {
    old_model(scene).await?;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/model-tiny-llama.yaml");
    let mut model: FinetuneModel = serde_saphyr::from_str(&std::fs::read_to_string(file)?)?;
    model.metadata.name = Some(FOLDER.to_owned());
    model.spec.name = format!("demo/{FOLDER}");
    model.spec.weights = format!("s3://models/{FOLDER}");
    Api::<FinetuneModel>::all(scene.bed.client.clone()).create(&PostParams::default(), &model).await?;
    let old = validated(scene, RUN, &model.spec.name).await?;
    let new = validated(scene, "new-tokenizer", "demo/tiny-llama").await?;

    let tokenizer = old.tokenizer.ok_or("no tokenizer was made")?;
    assert!(tokenizer.made && tokenizer.uri.starts_with("s3://out/team-a/tokenizers/"), "{tokenizer:?}");
    let made = scene.bed.keys("out", tokenizer.uri.trim_start_matches("s3://out/")).await?;
    assert!(made.keys().any(|key| key.ends_with("/tokenizer.json")), "{made:?}");
    assert_eq!((old.retries.preflights, old.retries.conversions, old.failure), (2, 1, None));
    assert_eq!((new.retries.preflights, new.retries.conversions, new.tokenizer), (1, 0, None));
    let counted = |data: Option<DataStatus>| data.and_then(|data| data.train).map(|train| (train.rows, train.tokens, train.samples));
    let (old, new) = (counted(old.data), counted(new.data));
    assert!(old.is_some() && old == new, "{old:?} {new:?}");
    Ok(())
}

/// The status of a run on the example's texts once its data are validated. The run is then deleted: nothing needs to train.
async fn validated(scene: &Scene, name: &str, model: &str) -> Result<FinetuneRunStatus> {
    scene.create("pretrain", name, json!({"model": model, "registerTo": null, "experimentTracker": null})).await?;
    let run = scene.until(name, 2 * PREFLIGHT, |status| status.data.is_some() || status.phase.is_some_and(Phase::is_sink)).await?;
    scene.runs().delete(name, &DeleteParams::default()).await?;
    Ok(run.status.unwrap_or_default())
}
