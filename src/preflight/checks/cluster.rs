//! `Cluster`: the cluster that tables are read with may be used, governs data and has a runtime that can. Starts nothing.

use super::service::Service;
use super::{Context, Outcome};
use crate::preflight::failure::Failure;

/// The oldest runtime that can read tables for training.
const OLDEST: (u32, u32) = (12, 2);
const MOST_PAGES: usize = 100;

pub(super) async fn check(context: &Context, id: Option<&str>) -> Outcome {
    let Some(id) = id else {
        return Err(Failure::user("ClusterMissing", "a table is read with a cluster: give the id of one".to_owned()));
    };
    if id == "serverless" {
        return Err(Failure::user("ClusterUnsupported", "serverless compute cannot read tables for training: give the id of a cluster".to_owned()));
    }
    let workspace = Service::databricks(context)?;
    let doing = format!("look up the cluster {id} at {}", workspace.address);
    let found = workspace.get("/api/2.1/clusters/get", &[("cluster_id", id)], &doing).await?;
    let hidden = || {
        Failure::credential(
            "ClusterNotAccessible",
            format!("there is no cluster {id} that the token may use: give the id of another, or permission to attach to it"),
        )
    };
    match found.status {
        200 => {}
        400 | 403 | 404 => return Err(hidden()),
        _ => return Err(workspace.failure(&doing, &found)),
    }
    // Whoever may look at a cluster need not be allowed to use it: the list has those that may be used.
    let listed = workspace.all("/api/2.1/clusters/list", &[("page_size", "100")], "clusters", MOST_PAGES, &doing).await?;
    let listed = listed.map_err(|answer| workspace.failure(&doing, &answer))?;
    if !listed.iter().any(|cluster| cluster["cluster_id"] == id) {
        return Err(hidden());
    }
    if matches!(found.body["data_security_mode"].as_str(), None | Some("NONE")) {
        let message = format!("the cluster {id} has no data governance: set its access mode to standard or dedicated, or give another");
        return Err(Failure::user("ClusterUngoverned", message));
    }
    match runtime(found.body["spark_version"].as_str().unwrap_or_default()) {
        Some(version) if version >= OLDEST => Ok(()),
        Some((major, minor)) => {
            let message = format!(
                "the cluster {id} has Databricks Runtime {major}.{minor}, and at least {}.{} is needed: give a newer one",
                OLDEST.0, OLDEST.1
            );
            Err(Failure::user("ClusterTooOld", message))
        }
        None => {
            let message = format!(
                "the version of the runtime of cluster {id} is not known: give a cluster with Databricks Runtime {}.{} or newer",
                OLDEST.0, OLDEST.1
            );
            Err(Failure::user("ClusterTooOld", message))
        }
    }
}

/// `14.3.x-scala2.12` is 14.3.
fn runtime(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_its_first_two_numbers() {
        assert_eq!(runtime("14.3.x-scala2.12"), Some((14, 3)));
        assert_eq!(runtime("9.1.x-photon-scala2.12"), Some((9, 1)));
        assert_eq!(runtime("12.2"), Some((12, 2)));
        for unknown in ["", "custom:ml", "x.y"] {
            assert_eq!(runtime(unknown), None, "{unknown}");
        }
    }
}
