//! `SaveFolder`: the save folder can be written, read back and deleted from. Leaves nothing behind.

use object_store::{ObjectStoreExt, PutPayload};

use super::{Context, Outcome, read};
use crate::preflight::failure::Failure;

const PROBE: &str = "written, read back and deleted by preflight\n";

pub(super) async fn check(context: &Context) -> Outcome {
    let run = &context.plan.run;
    let root = context.stores.open(&context.plan.save_folder)?;
    let probe = root.below(&format!("{}/preflight-probe-{}", run.name, run.uid));
    probe.store.put(&probe.path, PutPayload::from_static(PROBE.as_bytes())).await.map_err(|error| root.asked.failure("write to", &error))?;
    let back = read(&probe, 4096).await;
    // Deleted before the reading is judged, so that nothing stays behind.
    probe.store.delete(&probe.path).await.map_err(|error| root.asked.failure("delete in", &error))?;
    if back?.as_ref() != PROBE.as_bytes() {
        let message = format!("{} gives back other bytes than were written to it; use another store", context.plan.save_folder);
        return Err(Failure::user("StoreInconsistent", message));
    }
    Ok(())
}
