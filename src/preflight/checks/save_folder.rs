//! `SaveFolder`: the save folder can be written, read back and deleted from. Leaves nothing behind.

use object_store::{ObjectStoreExt, PutPayload};

use super::{Context, Outcome, read};
use crate::preflight::failure::Failure;
use crate::preflight::store::Opened;

const PROBE: &str = "written, read back and deleted by preflight\n";

pub(super) async fn check(context: &Context) -> Outcome {
    let run = &context.plan.run;
    let root = context.stores.open(&context.plan.save_folder)?;
    let object = root.below(&format!("{}/preflight-probe-{}", run.name, run.uid));
    context.finish(probe(root, object)).await
}

async fn probe(root: Opened, object: Opened) -> Outcome {
    let back = match object.store.put(&object.path, PutPayload::from_static(PROBE.as_bytes())).await {
        Ok(_) => read(&object, 4096).await,
        Err(error) => Err(root.asked.failure("write to", &error)),
    };
    // Deleted before anything is judged: what was said to have failed may be there all the same.
    let deleted = object.store.delete(&object.path).await;
    let back = back?;
    deleted.map_err(|error| root.asked.failure("delete in", &error))?;
    if back.as_ref() != PROBE.as_bytes() {
        let message = format!("{} gives back other bytes than were written to it; use another store", root.asked.place);
        return Err(Failure::user("StoreInconsistent", message));
    }
    Ok(())
}
