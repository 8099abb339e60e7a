//! What a replica asks a real API server for: the lease, and whose a trainer's token is.

#[path = "../certificate/mod.rs"]
mod certificate;
#[path = "../control_plane/mod.rs"]
mod control_plane;

mod lease;
mod reports;

use control_plane::{PATIENCE, control_plane, within};
