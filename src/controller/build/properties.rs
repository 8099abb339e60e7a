//! What holds for the objects of every run, whatever a person or an admin wrote.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodTemplateSpec, SecurityContext, Volume};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::environment::is_reserved;
use super::restricted::{unexpected, violations};
use super::sample::Sample;
use super::train::yaml;
use super::{Stage, ca, service, snapshot};
use crate::api::names;
use crate::preflight::plan::Plan;

fn template(stage: &Stage) -> &PodTemplateSpec {
    &stage.job.spec.as_ref().unwrap().template
}

fn container(stage: &Stage) -> &Container {
    &template(stage).spec.as_ref().unwrap().containers[0]
}

/// A run whose free texts are all `text`, and whose name, uid and sizes vary.
fn hostile(text: &str, name: &str, uid: &str, nodes: i32, gpus: i32) -> Sample {
    let mut sample = Sample::on_gpus(nodes);
    sample.edit_run(&json!({
        "model": text, "trainDataPath": text, "evalDataPath": text, "evalPrompts": [text], "customWeightsPath": text, "saveFolder": text, "registerTo": text,
        "trainingDuration": text, "serviceAccountName": text, "dataPrepClusterId": text, "checkpointEvery": text,
        "experimentTracker": {"mlflow": {"experimentPath": text, "trackingUri": text}, "wandb": {"project": text, "entity": text}},
        "s3": {"endpointUrl": text, "region": text},
    }));
    sample.run.metadata.name = Some(name.to_owned());
    sample.run.metadata.uid = Some(uid.to_owned());
    for secret in &mut sample.snapshot.secrets {
        secret.profile = secret.profile.is_some().then(|| text.to_owned());
        secret.key = secret.key.is_some().then(|| text.to_owned());
    }
    let resolved = &mut sample.resolved;
    resolved.gpus_per_node = gpus;
    for field in
        [&mut resolved.register_to, &mut resolved.experiment_path, &mut resolved.tracking_uri, &mut resolved.s3_endpoint_url, &mut resolved.s3_region]
    {
        *field = Some(text.to_owned());
    }
    sample
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_pod_is_confined_and_every_name_fits(
        text in "(\\PC|\\$\\(FINETUNE_RUN_UID\\)|; sh -c |\n){0,40}",
        name in "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
        uid in "[0-9a-f-]{1,36}",
        nodes in 1..513_i32,
        gpus in 0..9_i32,
    ) {
        let sample = hostile(&text, &name, &uid, nodes, gpus);
        let stages = sample.stages();
        prop_assert_eq!(&stages, &sample.stages(), "equal input gives equal objects");
        for stage in &stages {
            prop_assert_eq!(violations(template(stage)), Vec::<String>::new());
            prop_assert_eq!(unexpected(template(stage)), Vec::<String>::new());
            prop_assert!(stage.job.metadata.name.as_ref().unwrap().len() <= 63);
            prop_assert_eq!(&stage.job.metadata.name, &stage.config.metadata.name);
            let pod = template(stage).spec.as_ref().unwrap();
            let volumes: BTreeSet<_> = pod.volumes.iter().flatten().map(|volume| &volume.name).collect();
            let mounts: Vec<_> = container(stage).volume_mounts.iter().flatten().collect();
            prop_assert_eq!(volumes.len(), pod.volumes.iter().flatten().count(), "volume names are unique");
            prop_assert!(volumes.iter().all(|name| name.len() <= 63));
            prop_assert_eq!(mounts.iter().map(|mount| &mount.name).collect::<BTreeSet<_>>(), volumes, "what is there is mounted");
            prop_assert_eq!(mounts.iter().map(|mount| &mount.mount_path).collect::<BTreeSet<_>>().len(), mounts.len(), "mount paths are unique");
            let names: Vec<_> = container(stage).env.iter().flatten().map(|variable| &variable.name).collect();
            prop_assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "variables are unique");
        }
        let others = [snapshot(&sample.subject()).metadata, ca(&sample.subject(), "").metadata];
        let peers = service(&sample.subject()).map(|service| service.metadata);
        for metadata in others.into_iter().chain(peers) {
            prop_assert!(metadata.name.unwrap().len() <= 63);
        }
    }

    #[test]
    fn nothing_that_a_person_writes_reaches_a_command_line(text in "MARK(\\PC){0,20}") {
        let arguments = |stage: &Stage| [container(stage).command.clone().unwrap(), container(stage).args.clone().unwrap()].concat();
        let [preflight, convert, train, register] = hostile(&text, "a", "u", 2, 8).stages();
        prop_assert_eq!(arguments(&preflight), ["/finetune-preflight", "run"]);
        prop_assert_eq!(arguments(&train), ["python", "-m", "finetune_llmfoundry", "train"]);
        prop_assert_eq!(arguments(&convert), ["python", "-m", "finetune_llmfoundry", "convert"]);
        prop_assert_eq!(arguments(&register), ["python", "-m", "finetune_llmfoundry", "register"]);
    }

    #[test]
    fn the_kubelet_expands_nothing_that_a_person_writes(text in "(\\$|\\(|\\)|HOME){1,12}") {
        for stage in hostile(&text, "a", "u", 2, 8).stages() {
            let values = container(&stage).env.iter().flatten().filter_map(|variable| variable.value.as_deref());
            for value in values {
                prop_assert!(!value.replace("$$", "").contains("$("), "{value}");
            }
        }
    }
}

fn engine_value() -> impl Strategy<Value = Value> {
    let text = "(\\PC|\n|\t| |: |- |#|'|\"|on|null|0x1|1_0|1:30|~|\u{7f}|\u{85}|\u{2028}|\u{feff}|\u{0}){0,12}";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(text, inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn the_engines_configuration_reads_back_as_it_was(value in engine_value()) {
        let text = yaml(&value);
        prop_assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), value, "{}", text);
    }
}

#[test]
fn the_host_name_of_the_last_rank_of_the_longest_run_fits() {
    let job = names::job(&"a".repeat(63), "uid", crate::api::status::Stage::Train, 999_999);
    assert!(format!("{job}-511").len() <= 63, "{job}");
}

#[test]
fn a_plan_is_what_preflight_reads() {
    for (sample, processes) in [(Sample::new(), 1), (Sample::full(), 1), (Sample::on_gpus(2), 16)] {
        let [preflight, ..] = sample.stages();
        let text = &preflight.config.data.as_ref().unwrap()["plan.json"];
        let plan = Plan::parse(text.as_bytes()).unwrap();
        assert_eq!((plan.world_size, plan.run_folder()), (processes, "s3://out/team-a/sample".to_owned()));
    }
}

#[test]
fn a_snapshot_reads_back_as_it_was() {
    let sample = Sample::on_gpus(1);
    let text = snapshot(&sample.subject()).data.unwrap().remove("snapshot.json").unwrap();
    assert_eq!(serde_json::from_str::<crate::controller::snapshot::Snapshot>(&text).unwrap(), sample.snapshot);
}

#[test]
fn the_ca_may_change_and_every_other_config_map_may_not() {
    let sample = Sample::new();
    assert_eq!(ca(&sample.subject(), "PEM").immutable, None);
    let configs = sample.stages().map(|stage| stage.config);
    assert!(configs.iter().chain([&snapshot(&sample.subject())]).all(|config| config.immutable == Some(true)));
}

#[test]
fn every_variable_of_the_operator_is_one_that_nobody_else_may_set() {
    for stage in Sample::on_gpus(2).stages() {
        let names = container(&stage).env.iter().flatten().map(|variable| variable.name.as_str());
        let others: Vec<_> = names.filter(|name| !is_reserved(name)).collect();
        assert_eq!(others, ["HTTPS_PROXY", "MY_TOKEN"], "the override's and the one of a Secret of kind env");
    }
}

#[test]
fn a_secret_of_kind_env_cannot_replace_what_the_operator_sets() {
    let mut sample = Sample::new();
    sample.snapshot.secrets = serde_json::from_value(json!([{"name": "s", "kind": "env", "key": "FINETUNE_RUN_UID"}])).unwrap();
    for stage in sample.stages() {
        let found: Vec<_> = container(&stage).env.iter().flatten().filter(|variable| variable.name == "FINETUNE_RUN_UID").collect();
        assert_eq!(found.iter().map(|variable| variable.value.as_deref()).collect::<Vec<_>>(), [Some("uid-1")]);
    }
}

#[test]
fn of_two_secrets_of_one_kind_the_first_sets_the_variables_and_both_are_mounted() {
    let mut sample = Sample::new();
    sample.snapshot.secrets = serde_json::from_value(json!([{"name": "mine", "kind": "hf"}, {"name": "default", "kind": "hf"}])).unwrap();
    let [_, _, train, _] = sample.stages();
    let tokens = container(&train).env.iter().flatten().filter(|variable| variable.name == "HF_TOKEN");
    let secrets: Vec<_> = tokens.map(|variable| variable.value_from.as_ref().unwrap().secret_key_ref.as_ref().unwrap().name.clone()).collect();
    assert_eq!(secrets, ["mine"]);
    let mounted = container(&train).volume_mounts.iter().flatten().filter(|mount| mount.mount_path.starts_with("/var/run/finetune/secrets/"));
    assert_eq!(
        mounted.map(|mount| mount.mount_path.as_str()).collect::<Vec<_>>(),
        ["/var/run/finetune/secrets/mine", "/var/run/finetune/secrets/default"]
    );
}

#[test]
fn only_the_train_stage_has_a_token_and_it_is_for_the_report_endpoint() {
    let [preflight, convert, train, register] = Sample::on_gpus(1).stages();
    let audiences = |stage: &Stage| {
        let volumes = template(stage).spec.as_ref().unwrap().volumes.clone().unwrap();
        let sources = volumes.into_iter().filter_map(|volume| volume.projected).flat_map(|projected| projected.sources.unwrap());
        sources.filter_map(|source| source.service_account_token).map(|token| token.audience.unwrap()).collect::<Vec<_>>()
    };
    let found = [audiences(&preflight), audiences(&convert), audiences(&train), audiences(&register)];
    assert_eq!(found, [vec![], vec![], vec!["finetune.dev".to_owned()], vec![]]);
}

#[test]
fn the_check_itself_finds_what_the_restricted_profile_forbids() {
    let [_, _, train, _] = Sample::new().stages();
    let broken = |edit: fn(&mut k8s_openapi::api::core::v1::PodSpec)| {
        let mut pod = template(&train).clone();
        edit(pod.spec.as_mut().unwrap());
        (violations(&pod), unexpected(&pod))
    };
    let host = |pod: &mut k8s_openapi::api::core::v1::PodSpec| pod.host_network = Some(true);
    assert_eq!(broken(host), (vec!["host namespaces".to_owned()], vec!["spec.hostNetwork".to_owned()]));
    let path = |pod: &mut k8s_openapi::api::core::v1::PodSpec| {
        let volume: Volume = serde_json::from_value(json!({"name": "h", "hostPath": {"path": "/"}})).unwrap();
        pod.volumes.as_mut().unwrap().push(volume);
    };
    assert_eq!(broken(path), (vec!["volume of kind hostPath".to_owned()], vec!["spec.volumes.hostPath.path".to_owned()]));
    let privileged = |pod: &mut k8s_openapi::api::core::v1::PodSpec| {
        let context = pod.containers[0].security_context.take().unwrap();
        pod.containers[0].security_context = Some(SecurityContext { privileged: Some(true), ..context });
    };
    assert_eq!(broken(privileged), (vec!["privileged".to_owned()], vec!["spec.containers.securityContext.privileged".to_owned()]));
}
