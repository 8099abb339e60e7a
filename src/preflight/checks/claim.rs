//! `Claim`: the run's folder belongs to this run and no other. Writes `owner.json` where there is none.

use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};

use super::{Context, Outcome, read};
use crate::preflight::failure::Failure;
use crate::preflight::store::Opened;

const MAX_CLAIM_BYTES: usize = 64 * 1024;

/// `owner.json`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claim {
    version: u32,
    uid: String,
    namespace: String,
    name: String,
    spec_hash: String,
}

pub(super) async fn check(context: &Context) -> Outcome {
    let plan = &context.plan;
    let root = context.stores.open(&plan.save_folder)?;
    let owner = root.below(&format!("{}/owner.json", plan.run.name));
    let run = plan.run.clone();
    let claim = Claim { version: 1, uid: run.uid, namespace: run.namespace, name: run.name, spec_hash: plan.spec_hash.clone() };
    let bytes = serde_json::to_vec(&claim).unwrap_or_default();
    let explain = |error: object_store::Error| root.asked.failure("write to", &error);
    match put(&owner, bytes.clone(), PutMode::Create).await {
        Ok(()) => Ok(()),
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => judge(&owner, &claim).await,
        Err(error) if knows_no_conditions(&error) => match owner.store.head(&owner.path).await {
            Ok(_) => judge(&owner, &claim).await,
            Err(object_store::Error::NotFound { .. }) => {
                put(&owner, bytes, PutMode::Overwrite).await.map_err(explain)?;
                judge(&owner, &claim).await
            }
            Err(error) => Err(explain(error)),
        },
        Err(error) => Err(explain(error)),
    }
}

async fn put(owner: &Opened, bytes: Vec<u8>, mode: PutMode) -> object_store::Result<()> {
    let options = PutOptions { mode, ..PutOptions::default() };
    owner.store.put_opts(&owner.path, PutPayload::from(bytes), options).await.map(|_| ())
}

/// Some S3-compatible stores have no put-if-absent: two runs that claim in the same moment could then both believe to have won,
/// until each reads back what is there.
fn knows_no_conditions(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. })
        || error.to_string().contains("<Code>NotImplemented</Code>")
}

async fn judge(owner: &Opened, own: &Claim) -> Outcome {
    let place = owner.asked.place.trim_end_matches("/owner.json");
    let in_use = |by: String| Failure::user("SaveFolderInUse", format!("{place} belongs to {by}; rename this run or use another save folder"));
    match serde_json::from_slice::<Claim>(&read(owner, MAX_CLAIM_BYTES).await?) {
        Ok(found) if found.uid == own.uid => Ok(()),
        Ok(found) => {
            let same = found.namespace == own.namespace && found.name == own.name;
            let plain = |text: &str| text.chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).take(63).collect::<String>();
            let run = format!("run {}/{} with uid {}", plain(&found.namespace), plain(&found.name), plain(&found.uid));
            Err(in_use(if same { format!("an earlier {run}") } else { run }))
        }
        Err(_) => Err(in_use("somebody else: its owner.json was not written by a run".to_owned())),
    }
}
