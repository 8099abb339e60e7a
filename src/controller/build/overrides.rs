//! Reads a runtime's `podOverrides` strictly: pure; every refusal is a sentence that names what is refused.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Affinity, EnvVar, LocalObjectReference, Toleration, Volume, VolumeMount};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::attachment::{CONFIG, PREFIX, RUN, SCRATCH};
use super::environment::is_reserved;

const MAX_ITEMS: usize = 64;

/// What an admin may add to the pods of a runtime. Volumes, mounts and environment apply to all three stages, pull secrets to the
/// two that run the runtime's image, the rest to training.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodOverrides {
    /// Labels that the node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are borne.
    pub tolerations: Vec<Toleration>,
    /// Affinity.
    pub affinity: Option<Affinity>,
    /// Volumes of the kinds that Pod Security's restricted profile allows.
    pub volumes: Vec<Volume>,
    /// Where the container sees them.
    pub volume_mounts: Vec<VolumeMount>,
    /// Variables that the operator does not set itself.
    pub env: Vec<EnvVar>,
    /// Secrets to pull the runtime's image with.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// `RuntimeClass`.
    pub runtime_class_name: Option<String>,
    /// Scheduler.
    pub scheduler_name: Option<String>,
    /// `PriorityClass` of runs with priority auto.
    pub priority_class_name: Option<String>,
    /// Labels of the pod.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pod.
    pub annotations: BTreeMap<String, String>,
}

/// Reads `spec.podOverrides` of a runtime; the error is a sentence for the status of a run.
pub fn parse(overrides: &BTreeMap<String, Value>) -> Result<PodOverrides, String> {
    let mut read = PodOverrides::default();
    for (key, value) in overrides {
        match key.as_str() {
            "nodeSelector" => read.node_selector = strict(key, value)?,
            "tolerations" => read.tolerations = strict(key, value)?,
            "affinity" => read.affinity = strict(key, value)?,
            "volumes" => read.volumes = strict(key, value)?,
            "volumeMounts" => read.volume_mounts = strict(key, value)?,
            "env" => read.env = strict(key, value)?,
            "imagePullSecrets" => read.image_pull_secrets = strict(key, value)?,
            "runtimeClassName" => read.runtime_class_name = strict(key, value)?,
            "schedulerName" => read.scheduler_name = strict(key, value)?,
            "priorityClassName" => read.priority_class_name = strict(key, value)?,
            "labels" => read.labels = strict(key, value)?,
            "annotations" => read.annotations = strict(key, value)?,
            _ => return Err(refusal(key)),
        }
    }
    check_volumes(&read.volumes)?;
    check_mounts(&read.volume_mounts, &read.volumes)?;
    check_env(&read.env)?;
    check_metadata("labels", &read.labels)?;
    check_metadata("annotations", &read.annotations)?;
    Ok(read)
}

fn refusal(key: &str) -> String {
    let why = match key {
        "serviceAccountName" | "serviceAccount" | "automountServiceAccountToken" => {
            "the run names its ServiceAccount and its pods hold no Kubernetes token"
        }
        "securityContext" | "podSecurityContext" | "hostNetwork" | "hostPID" | "hostIPC" | "hostUsers" => {
            "the pods of every run are confined alike (Pod Security restricted)"
        }
        "restartPolicy" => "a pod is tried once and the operator decides on the next attempt",
        "containers" | "initContainers" | "ephemeralContainers" | "image" | "command" | "args" => {
            "the container is given by image and command of the runtime"
        }
        "resources" | "terminationGracePeriodSeconds" => "it has a field of its own: compute of the model, terminationGraceSeconds of the runtime",
        _ => {
            "allowed are nodeSelector, tolerations, affinity, volumes, volumeMounts, env, imagePullSecrets, runtimeClassName, schedulerName, \
             priorityClassName, labels and annotations"
        }
    };
    format!("podOverrides.{} cannot be set: {why}", cut(key))
}

/// Decodes `value`, refusing whatever the type does not know: an override that is dropped silently would be missed much later.
fn strict<T: DeserializeOwned + Serialize>(key: &str, value: &Value) -> Result<T, String> {
    if value.as_array().is_some_and(|list| list.len() > MAX_ITEMS) || value.as_object().is_some_and(|map| map.len() > MAX_ITEMS) {
        return Err(format!("podOverrides.{key} has more than {MAX_ITEMS} entries"));
    }
    let decoded: T = serde_json::from_value(value.clone()).map_err(|error| format!("podOverrides.{key}: {}", cut(&error.to_string())))?;
    let known = serde_json::to_value(&decoded).map_err(|error| format!("podOverrides.{key}: {}", cut(&error.to_string())))?;
    match unknown(value, &known) {
        None => Ok(decoded),
        Some(path) => Err(format!("podOverrides.{key}{} is not a field that Kubernetes knows", cut(&path))),
    }
}

/// Path of the first part of `given` that is not in `known`.
fn unknown(given: &Value, known: &Value) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().filter(|(_, value)| !value.is_null()).find_map(|(key, value)| {
            known.get(key).map_or_else(|| Some(String::new()), |known| unknown(value, known)).map(|rest| format!(".{key}{rest}"))
        }),
        (Value::Array(given), Value::Array(known)) => {
            let differs = |(index, (given, known))| unknown(given, known).map(|rest| format!("[{index}]{rest}"));
            given.iter().zip(known).enumerate().find_map(differs)
        }
        _ => None,
    }
}

fn check_volumes(volumes: &[Volume]) -> Result<(), String> {
    const KINDS: [&str; 8] = ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
    let mut names = BTreeSet::new();
    for volume in volumes {
        let name = cut(&volume.name);
        if volume.name.starts_with(PREFIX) {
            return Err(format!("podOverrides.volumes: the name {name} begins with {PREFIX}, which the operator's own volumes do"));
        }
        if !names.insert(&volume.name) {
            return Err(format!("podOverrides.volumes: {name} is there twice"));
        }
        let source = serde_json::to_value(volume).unwrap_or_default();
        let kinds = source.as_object().into_iter().flat_map(|fields| fields.keys()).filter(|key| *key != "name");
        for kind in kinds {
            if !KINDS.contains(&kind.as_str()) {
                return Err(format!("podOverrides.volumes: {name} is of kind {kind}; Pod Security restricted allows {}", KINDS.join(", ")));
            }
        }
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        if sources.into_iter().any(|source| source.service_account_token.is_some()) {
            return Err(format!("podOverrides.volumes: {name} projects a serviceAccountToken; the pods of a run hold no Kubernetes token"));
        }
    }
    Ok(())
}

fn check_mounts(mounts: &[VolumeMount], volumes: &[Volume]) -> Result<(), String> {
    let mut paths = BTreeSet::new();
    for mount in mounts {
        let path = mount.mount_path.strip_suffix('/').unwrap_or(&mount.mount_path);
        let shown = cut(&mount.mount_path);
        if !volumes.iter().any(|volume| volume.name == mount.name) {
            return Err(format!("podOverrides.volumeMounts: {} is not the name of one of podOverrides.volumes", cut(&mount.name)));
        }
        let plain = path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(|part| !["", ".", ".."].contains(&part)));
        if !plain || path.contains(':') {
            return Err(format!("podOverrides.volumeMounts: mountPath {shown} is not a plain absolute path"));
        }
        if let Some(own) = covers(path) {
            return Err(format!("podOverrides.volumeMounts: mountPath {shown} would cover {own}, which every stage needs as it is"));
        }
        if mount.mount_propagation.is_some() {
            return Err(format!("podOverrides.volumeMounts: mountPropagation at {shown} cannot be set: it needs a privileged pod"));
        }
        if !paths.insert(path) {
            return Err(format!("podOverrides.volumeMounts: mountPath {shown} is there twice"));
        }
    }
    Ok(())
}

/// The place of ours, or of the system's, that a mount at `path` would hide or change. Caches may lie below the scratch folder.
fn covers(path: &str) -> Option<&'static str> {
    const PLACES: [&str; 8] = [CONFIG, SCRATCH, RUN, "/run/finetune", "/var/run/secrets", "/dev", "/proc", "/sys"];
    let within = |inner: &str, outer: &str| inner == outer || inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
    PLACES.into_iter().find(|place| within(place, path) || (*place != SCRATCH && within(path, place)))
}

fn check_env(env: &[EnvVar]) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for EnvVar { name, .. } in env {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(word) {
            return Err(format!("podOverrides.env: {:?} is not the name of a variable", cut(name)));
        }
        if is_reserved(name) {
            return Err(format!("podOverrides.env: {name} cannot be set: the operator sets it from the run"));
        }
        if !names.insert(name) {
            return Err(format!("podOverrides.env: {name} is there twice"));
        }
    }
    Ok(())
}

fn check_metadata(field: &str, entries: &BTreeMap<String, String>) -> Result<(), String> {
    const KEYS: [&str; 5] = ["app.kubernetes.io/managed-by", "job-name", "controller-uid", "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/managed"];
    const DOMAINS: [&str; 3] = ["finetune.dev", "batch.kubernetes.io", "apparmor.security.beta.kubernetes.io"];
    let in_domain = |key: &str, domain: &str| {
        let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
        prefix.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    match entries.keys().find(|key| KEYS.contains(&key.as_str()) || DOMAINS.iter().any(|domain| in_domain(key, domain))) {
        Some(key) => Err(format!("podOverrides.{field}: {} cannot be set: Kubernetes or the operator sets it", cut(key))),
        None => Ok(()),
    }
}

fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::build::sample;

    fn parse_value(value: Value) -> Result<PodOverrides, String> {
        parse(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn every_allowed_override_is_read_whole() {
        let given = sample::overrides();
        let read = parse_value(given.clone()).unwrap();
        let back = json!({
            "nodeSelector": read.node_selector, "tolerations": read.tolerations, "affinity": read.affinity, "volumes": read.volumes,
            "volumeMounts": read.volume_mounts, "env": read.env, "imagePullSecrets": read.image_pull_secrets, "runtimeClassName": read.runtime_class_name,
            "schedulerName": read.scheduler_name, "priorityClassName": read.priority_class_name, "labels": read.labels, "annotations": read.annotations,
        });
        assert_eq!(back, given);
        assert_eq!(parse_value(json!({})), Ok(PodOverrides::default()));
    }

    #[test]
    fn what_is_refused_is_named_with_the_reason() {
        let mount = |path: &str| json!({"volumes": [{"name": "v", "emptyDir": {}}], "volumeMounts": [{"name": "v", "mountPath": path}]});
        let cases = [
            (
                json!({"serviceAccountName": "admin"}),
                "podOverrides.serviceAccountName cannot be set: the run names its ServiceAccount and its pods hold no Kubernetes token",
            ),
            (
                json!({"securityContext": {}}),
                "podOverrides.securityContext cannot be set: the pods of every run are confined alike (Pod Security restricted)",
            ),
            (
                json!({"restartPolicy": "Always"}),
                "podOverrides.restartPolicy cannot be set: a pod is tried once and the operator decides on the next attempt",
            ),
            (json!({"initContainers": []}), "podOverrides.initContainers cannot be set: the container is given by image and command of the runtime"),
            (
                json!({"nodeName": "n"}),
                "podOverrides.nodeName cannot be set: allowed are nodeSelector, tolerations, affinity, volumes, volumeMounts, env, imagePullSecrets, \
                 runtimeClassName, schedulerName, priorityClassName, labels and annotations",
            ),
            (json!({"tolerations": [{}, {"keys": "gpu"}]}), "podOverrides.tolerations[1].keys is not a field that Kubernetes knows"),
            (
                json!({"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}),
                "podOverrides.volumes: h is of kind hostPath; Pod Security restricted allows configMap, csi, downwardAPI, emptyDir, ephemeral, persistentVolumeClaim, projected, secret",
            ),
            (json!({"volumes": [{"name": "h", "hostpath": {"path": "/"}}]}), "podOverrides.volumes[0].hostpath is not a field that Kubernetes knows"),
            (
                json!({"volumes": [{"name": "finetune-config", "emptyDir": {}}]}),
                "podOverrides.volumes: the name finetune-config begins with finetune-, which the operator's own volumes do",
            ),
            (json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]}), "podOverrides.volumes: v is there twice"),
            (
                json!({"volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]}),
                "podOverrides.volumes: t projects a serviceAccountToken; the pods of a run hold no Kubernetes token",
            ),
            (
                json!({"volumeMounts": [{"name": "w", "mountPath": "/w"}]}),
                "podOverrides.volumeMounts: w is not the name of one of podOverrides.volumes",
            ),
            (mount("/etc"), "podOverrides.volumeMounts: mountPath /etc would cover /etc/finetune, which every stage needs as it is"),
            (mount("/scratch/"), "podOverrides.volumeMounts: mountPath /scratch/ would cover /scratch, which every stage needs as it is"),
            (mount("/dev/shm"), "podOverrides.volumeMounts: mountPath /dev/shm would cover /dev, which every stage needs as it is"),
            (mount("/x/../etc/finetune"), "podOverrides.volumeMounts: mountPath /x/../etc/finetune is not a plain absolute path"),
            (mount("/"), "podOverrides.volumeMounts: mountPath / is not a plain absolute path"),
            (mount("x"), "podOverrides.volumeMounts: mountPath x is not a plain absolute path"),
            (
                json!({"env": [{"name": "FINETUNE_RUN_UID", "value": "x"}]}),
                "podOverrides.env: FINETUNE_RUN_UID cannot be set: the operator sets it from the run",
            ),
            (json!({"env": [{"name": "A"}, {"name": "A"}]}), "podOverrides.env: A is there twice"),
            (json!({"env": [{"name": "1 2"}]}), "podOverrides.env: \"1 2\" is not the name of a variable"),
            (
                json!({"labels": {"finetune.dev/run-uid": "x"}}),
                "podOverrides.labels: finetune.dev/run-uid cannot be set: Kubernetes or the operator sets it",
            ),
            (
                json!({"annotations": {"container.apparmor.security.beta.kubernetes.io/main": "unconfined"}}),
                "podOverrides.annotations: container.apparmor.security.beta.kubernetes.io/main cannot be set: Kubernetes or the operator sets it",
            ),
        ];
        for (given, expected) in cases {
            assert_eq!(parse_value(given.clone()), Err(expected.to_owned()), "{given}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_with_its_field() {
        let error = parse_value(json!({"env": [{"name": "A", "value": 1}]})).unwrap_err();
        assert!(error.starts_with("podOverrides.env: invalid type"), "{error}");
    }

    #[test]
    fn too_many_entries_and_long_texts_stay_short() {
        assert_eq!(parse_value(json!({"tolerations": vec![json!({}); 65]})), Err("podOverrides.tolerations has more than 64 entries".to_owned()));
        let long = "x".repeat(10_000);
        for given in [json!({long.clone(): 1}), json!({"env": [{"name": format!("{long}-")}]}), json!({"env": [{long.clone(): 1}]})] {
            assert!(parse_value(given).unwrap_err().len() < 600);
        }
    }
}
