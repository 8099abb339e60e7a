//! Volumes with the place where the container sees them: pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, ConfigMapVolumeSource, EmptyDirVolumeSource, KeyToPath, PersistentVolumeClaimVolumeSource, ProjectedVolumeSource,
    SecretVolumeSource, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::CA_KEY;

/// All volumes of ours are named with this prefix, and no others.
pub(super) const PREFIX: &str = "finetune-";
/// The stage's `ConfigMap`.
pub(super) const CONFIG: &str = "/etc/finetune";
/// What the stage may write.
pub(super) const SCRATCH: &str = "/scratch";
/// Secrets, claims and what reporting needs, each in a folder of its own.
pub(super) const RUN: &str = "/var/run/finetune";

/// A volume and its mount.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Attachment {
    pub(super) volume: Volume,
    pub(super) mount: VolumeMount,
}

impl Attachment {
    fn new(name: &str, path: String, volume: Volume) -> Self {
        let name = format!("{PREFIX}{name}");
        let mount = VolumeMount { name: name.clone(), mount_path: path, read_only: Some(true), ..VolumeMount::default() };
        Self { volume: Volume { name, ..volume }, mount }
    }

    fn writable(mut self) -> Self {
        self.mount.read_only = None;
        self
    }
}

/// The stage's `ConfigMap`.
pub(super) fn config(config_map: &str) -> Attachment {
    let source = ConfigMapVolumeSource { name: config_map.to_owned(), ..ConfigMapVolumeSource::default() };
    Attachment::new("config", CONFIG.to_owned(), Volume { config_map: Some(source), ..Volume::default() })
}

/// Disk of the node, for as long as the pod lives.
pub(super) fn scratch(gib: i64) -> Attachment {
    let source = EmptyDirVolumeSource { medium: None, size_limit: Some(super::gib(gib)) };
    Attachment::new("scratch", SCRATCH.to_owned(), Volume { empty_dir: Some(source), ..Volume::default() }).writable()
}

/// Shared memory; what is in it counts as memory of the container.
pub(super) fn shared_memory(size: Quantity) -> Attachment {
    let source = EmptyDirVolumeSource { medium: Some("Memory".to_owned()), size_limit: Some(size) };
    Attachment::new("shm", "/dev/shm".to_owned(), Volume { empty_dir: Some(source), ..Volume::default() }).writable()
}

/// Token and CA for the report endpoint. The kubelet replaces both while the pod runs.
pub(super) fn report(audience: &str, ca_config_map: String) -> Attachment {
    let token = ServiceAccountTokenProjection { audience: Some(audience.to_owned()), expiration_seconds: Some(3600), path: "token".to_owned() };
    let items = vec![KeyToPath { key: CA_KEY.to_owned(), path: CA_KEY.to_owned(), mode: None }];
    let ca = ConfigMapProjection { name: ca_config_map, items: Some(items), optional: None };
    let sources = vec![
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
        VolumeProjection { config_map: Some(ca), ..VolumeProjection::default() },
    ];
    let source = ProjectedVolumeSource { sources: Some(sources), default_mode: Some(0o440) };
    Attachment::new("report", format!("{RUN}/report"), Volume { projected: Some(source), ..Volume::default() })
}

/// Secret number `index`, as files.
pub(super) fn secret(index: usize, name: &str, path: String, optional: bool) -> Attachment {
    let source = SecretVolumeSource { secret_name: Some(name.to_owned()), default_mode: Some(0o440), optional: Some(optional), items: None };
    Attachment::new(&format!("secret-{index}"), path, Volume { secret: Some(source), ..Volume::default() })
}

/// The claims that `places` name as `pvc://<claim>/<path>`, each once and read-only at `/var/run/finetune/claims/<claim>`.
pub(super) fn claims<'a>(places: impl Iterator<Item = &'a str>) -> Vec<Attachment> {
    let claim = |place: &'a str| place.strip_prefix("pvc://")?.split('/').next().filter(|name| is_object_name(name));
    let names: BTreeSet<&str> = places.filter_map(claim).collect();
    let attach = |(index, name): (usize, &str)| {
        // Read-only at the source too: the kubelet then leaves the owner of the files alone.
        let source = PersistentVolumeClaimVolumeSource { claim_name: name.to_owned(), read_only: Some(true) };
        Attachment::new(
            &format!("claim-{index}"),
            format!("{RUN}/claims/{name}"),
            Volume { persistent_volume_claim: Some(source), ..Volume::default() },
        )
    };
    names.into_iter().enumerate().map(attach).collect()
}

fn is_object_name(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= 253
        && edge(name.chars().next())
        && edge(name.chars().last())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_claim_is_attached_once_and_what_is_no_claim_never() {
        let places = ["pvc://weights/llama", "s3://weights/x", "pvc://data/a.jsonl", "pvc://weights/other", "pvc://../etc", "pvc://", "pvc://A/x"];
        let found: Vec<_> = claims(places.into_iter()).into_iter().map(|a| (a.volume.name, a.mount.mount_path, a.mount.read_only)).collect();
        let expected = [("finetune-claim-0", "/var/run/finetune/claims/data"), ("finetune-claim-1", "/var/run/finetune/claims/weights")];
        assert_eq!(found, expected.map(|(name, path)| (name.to_owned(), path.to_owned(), Some(true))));
    }
}
