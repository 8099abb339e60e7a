//! Pod Security's restricted profile and our own allow-list, as functions over a pod.

use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use serde_json::Value;

/// What of `pod` the restricted profile forbids; empty when it would be admitted.
pub(super) fn violations(pod: &PodTemplateSpec) -> Vec<String> {
    let spec = pod.spec.as_ref().unwrap();
    let context = spec.security_context.as_ref().unwrap();
    let mut found = Vec::new();
    let mut forbid = |what: &str, bad: bool| found.extend(bad.then(|| what.to_owned()));
    forbid("host namespaces", spec.host_network == Some(true) || spec.host_pid == Some(true) || spec.host_ipc == Some(true));
    forbid("sysctls", context.sysctls.is_some());
    forbid("windowsOptions", context.windows_options.is_some());
    forbid("seLinuxOptions", context.se_linux_options.is_some());
    forbid("appArmorProfile", context.app_armor_profile.is_some());
    forbid("root as user", context.run_as_user == Some(0));
    forbid("runAsNonRoot not set", context.run_as_non_root != Some(true));
    forbid("seccomp profile", context.seccomp_profile.as_ref().is_none_or(|profile| profile.type_ != "RuntimeDefault"));
    let annotations = pod.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
    forbid("apparmor annotation", annotations.is_some_and(|all| all.keys().any(|key| key.contains("apparmor"))));
    for volume in spec.volumes.iter().flatten() {
        let fields = serde_json::to_value(volume).unwrap();
        for kind in fields.as_object().unwrap().keys().filter(|key| *key != "name") {
            let allowed = ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
            forbid(&format!("volume of kind {kind}"), !allowed.contains(&kind.as_str()));
        }
    }
    found.extend(containers(spec).flat_map(container));
    found
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    assert!(spec.ephemeral_containers.is_none());
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn container(container: &Container) -> Vec<String> {
    let context = container.security_context.as_ref().unwrap();
    let capabilities = context.capabilities.as_ref().unwrap();
    [
        ("privileged", context.privileged == Some(true)),
        ("privilege escalation", context.allow_privilege_escalation != Some(false)),
        ("capabilities", capabilities.add.is_some() || capabilities.drop.as_deref() != Some(&["ALL".to_owned()])),
        ("root as user", context.run_as_user == Some(0) || context.run_as_non_root == Some(false)),
        ("procMount", context.proc_mount.is_some()),
        ("seLinuxOptions", context.se_linux_options.is_some()),
        ("appArmorProfile", context.app_armor_profile.is_some()),
        ("seccomp profile", context.seccomp_profile.is_some()),
        ("host ports", container.ports.is_some()),
        ("probes and hooks", container.lifecycle.is_some() || container.liveness_probe.is_some() || container.startup_probe.is_some()),
    ]
    .into_iter()
    .filter(|(_, bad)| *bad)
    .map(|(what, _)| what.to_owned())
    .collect()
}

/// Fields that a pod of ours may have. `*` stands for a key that is data, `**` for all that an admin's override may say there.
const FIELDS: [&str; 62] = [
    "metadata.annotations.*",
    "metadata.labels.*",
    "spec.affinity.**",
    "spec.automountServiceAccountToken",
    "spec.containers.args",
    "spec.containers.command",
    "spec.containers.env.name",
    "spec.containers.env.value",
    "spec.containers.env.valueFrom.fieldRef.fieldPath",
    "spec.containers.env.valueFrom.secretKeyRef.key",
    "spec.containers.env.valueFrom.secretKeyRef.name",
    "spec.containers.env.valueFrom.secretKeyRef.optional",
    "spec.containers.image",
    "spec.containers.imagePullPolicy",
    "spec.containers.name",
    "spec.containers.resources.limits.*",
    "spec.containers.resources.requests.*",
    "spec.containers.securityContext.allowPrivilegeEscalation",
    "spec.containers.securityContext.capabilities.drop",
    "spec.containers.securityContext.readOnlyRootFilesystem",
    "spec.containers.terminationMessagePath",
    "spec.containers.terminationMessagePolicy",
    "spec.containers.volumeMounts.mountPath",
    "spec.containers.volumeMounts.name",
    "spec.containers.volumeMounts.readOnly",
    "spec.enableServiceLinks",
    "spec.imagePullSecrets.name",
    "spec.nodeSelector.*",
    "spec.priorityClassName",
    "spec.restartPolicy",
    "spec.runtimeClassName",
    "spec.schedulerName",
    "spec.securityContext.fsGroup",
    "spec.securityContext.fsGroupChangePolicy",
    "spec.securityContext.runAsGroup",
    "spec.securityContext.runAsNonRoot",
    "spec.securityContext.runAsUser",
    "spec.securityContext.seccompProfile.type",
    "spec.serviceAccountName",
    "spec.subdomain",
    "spec.terminationGracePeriodSeconds",
    "spec.tolerations.**",
    "spec.volumes.configMap.name",
    "spec.volumes.emptyDir.medium",
    "spec.volumes.emptyDir.sizeLimit",
    "spec.volumes.name",
    "spec.volumes.persistentVolumeClaim.claimName",
    "spec.volumes.persistentVolumeClaim.readOnly",
    "spec.volumes.projected.defaultMode",
    "spec.volumes.projected.sources.configMap.items.key",
    "spec.volumes.projected.sources.configMap.items.path",
    "spec.volumes.projected.sources.configMap.name",
    "spec.volumes.projected.sources.serviceAccountToken.audience",
    "spec.volumes.projected.sources.serviceAccountToken.expirationSeconds",
    "spec.volumes.projected.sources.serviceAccountToken.path",
    "spec.volumes.secret.defaultMode",
    "spec.volumes.secret.optional",
    "spec.volumes.secret.secretName",
    "spec.containers.env.valueFrom.configMapKeyRef.**",
    "spec.volumes.csi.**",
    "spec.volumes.downwardAPI.**",
    "spec.volumes.ephemeral.**",
];

/// Fields of `pod` that are not on the list.
pub(super) fn unexpected(pod: &PodTemplateSpec) -> Vec<String> {
    let mut leaves = Vec::new();
    collect(&serde_json::to_value(pod).unwrap(), &mut Vec::new(), &mut leaves);
    leaves.into_iter().filter(|leaf| !FIELDS.iter().any(|field| matches(field, leaf))).map(|leaf| leaf.join(".")).collect()
}

fn collect(value: &Value, path: &mut Vec<String>, leaves: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                path.push(key.clone());
                collect(value, path, leaves);
                path.pop();
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => items.iter().for_each(|item| collect(item, path, leaves)),
        _ => leaves.push(path.clone()),
    }
}

fn matches(field: &str, leaf: &[String]) -> bool {
    let pattern: Vec<&str> = field.split('.').collect();
    if let Some(("**", prefix)) = pattern.split_last().map(|(last, prefix)| (*last, prefix)) {
        return leaf.len() > prefix.len() && prefix.iter().zip(leaf).all(|(p, l)| p == l);
    }
    pattern.len() == leaf.len() && pattern.iter().zip(leaf).all(|(p, l)| *p == "*" || p == l)
}
