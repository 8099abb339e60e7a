//! What the API server of a cluster with this chart takes, refuses and shows.

#[path = "../control_plane/mod.rs"]
mod control_plane;

mod bounds;
mod fixed;
mod installation;
mod refusals;
mod request;
mod samples;
mod secret_access;
mod stored;

use control_plane::{ControlPlane, control_plane, testbed};
use tokio::sync::OnceCell;

const RELEASE: &str = "finetune-operator";
const SYSTEM: &str = "finetune-system";

/// The control plane with the chart installed as a user installs it, but for the images: no kubelet runs in it.
async fn cluster() -> &'static ControlPlane {
    static INSTALLED: OnceCell<&'static ControlPlane> = OnceCell::const_new();
    let install = async || {
        let cluster = control_plane();
        cluster.helm(&["install", RELEASE, &chart(), "--namespace", SYSTEM, "--create-namespace"]);
        cluster
    };
    INSTALLED.get_or_init(install).await
}

fn chart() -> String {
    testbed::chart().to_string_lossy().into_owned()
}
