//! What the chart renders, by the real helm: every right, every object, every value that is refused.

mod testbed;

use std::collections::BTreeSet;

use finetune_operator::api::{FinetuneModel, FinetuneRuntime, crd};
use finetune_operator::metrics::Metrics;
use serde_json::{Value, json};

/// Helm was built without the version of a Kubernetes that it speaks to.
const SERVER: [&str; 2] = ["--kube-version", "1.35.0"];
const SERVED: [&str; 4] = ["--api-versions", "finetune.dev/v1alpha1/FinetuneModel", "--api-versions", "finetune.dev/v1alpha1/FinetuneRuntime"];
const EVERYTHING: [&str; 2] = [
    "--set",
    "watchNamespaces={team-a,team-b},runnerNamespaces={team-a},replicas=2,podDisruptionBudget.enabled=true,networkPolicy.enabled=true,networkPolicy.runs=true,serviceMonitor.enabled=true,prometheusRule.enabled=true",
];

fn template(arguments: &[&str]) -> std::process::Output {
    let chart = testbed::chart();
    let chart = chart.to_str().expect("the repository's path is text");
    testbed::helm(&[&["template", "finetune-operator", chart, "--namespace", "finetune-system"], &SERVER[..], arguments].concat())
}

fn render(arguments: &[&str]) -> Vec<Value> {
    let text = testbed::succeeded(&template(arguments));
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("helm prints YAML");
    objects.into_iter().filter(|object| !object.is_null()).collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// `Kind namespace/name` of every object.
fn names(objects: &[Value]) -> BTreeSet<String> {
    let name = |object: &Value| {
        let metadata = &object["metadata"];
        let namespace = metadata["namespace"].as_str().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        format!("{} {namespace}{}", object["kind"].as_str().unwrap_or_default(), metadata["name"].as_str().unwrap_or_default())
    };
    objects.iter().map(name).collect()
}

/// The rules of every role that a binding gives to the operator, with the role's namespace (or `cluster`).
fn rights_of_the_operator(objects: &[Value]) -> Value {
    let bindings = objects.iter().filter(|object| {
        object["subjects"].as_array().is_some_and(|subjects| {
            subjects.contains(&json!({"kind": "ServiceAccount", "name": "finetune-operator", "namespace": "finetune-system"}))
        })
    });
    let mut rights = serde_json::Map::new();
    for binding in bindings {
        let role = objects.iter().find(|object| {
            object["kind"] == binding["roleRef"]["kind"]
                && object["metadata"]["name"] == binding["roleRef"]["name"]
                && object["metadata"]["namespace"] == binding["metadata"]["namespace"]
        });
        let namespace = binding["metadata"]["namespace"].as_str().unwrap_or("cluster");
        let rules = rights.entry(namespace).or_insert(json!([])).as_array_mut().expect("a list of rules");
        rules.extend(role.expect("a binding's role is rendered")["rules"].as_array().expect("a role has rules").clone());
    }
    Value::Object(rights)
}

fn run_rules() -> Vec<Value> {
    vec![
        json!({"apiGroups": ["finetune.dev"], "resources": ["finetuneruns"], "verbs": ["get", "list", "watch"]}),
        json!({"apiGroups": ["finetune.dev"], "resources": ["finetuneruns/status"], "verbs": ["patch"]}),
        json!({"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch", "create", "delete"]}),
        json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}),
        json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "create", "patch", "delete"]}),
        json!({"apiGroups": [""], "resources": ["services"], "verbs": ["get", "create"]}),
        json!({"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["get"]}),
        json!({"apiGroups": [""], "resources": ["events"], "verbs": ["list"]}),
        json!({"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]}),
    ]
}

fn cluster_rules() -> Vec<Value> {
    vec![
        json!({"apiGroups": ["finetune.dev"], "resources": ["finetunemodels", "finetuneruntimes"], "verbs": ["get", "list", "watch"]}),
        json!({"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}),
    ]
}

fn lease_rules() -> Vec<Value> {
    vec![
        json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]}),
        json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["finetune-operator"], "verbs": ["get", "update"]}),
    ]
}

#[test]
fn in_cluster_mode_the_operator_may_do_this_and_nothing_else() {
    assert_eq!(rights_of_the_operator(&render(&[])), json!({"cluster": ([cluster_rules(), run_rules()].concat()), "finetune-system": lease_rules()}));
}

#[test]
fn in_namespaced_mode_runs_are_reached_through_roles_only() {
    assert_eq!(
        rights_of_the_operator(&render(&["--set", "watchNamespaces={team-a,team-b}"])),
        json!({"cluster": cluster_rules(), "finetune-system": lease_rules(), "team-a": run_rules(), "team-b": run_rules()})
    );
}

#[test]
fn no_role_of_the_chart_names_secrets_or_a_wildcard() {
    for objects in [render(&[]), render(&EVERYTHING)] {
        for role in objects.iter().filter(|object| object["rules"].is_array()) {
            let rules = role["rules"].to_string();
            assert!(!rules.contains("secrets") && !rules.contains('*') && !rules.contains("impersonate") && !rules.contains("escalate"), "{role}");
        }
    }
}

#[test]
fn users_get_their_rights_through_the_clusters_own_roles() {
    let objects = render(&[]);
    let aggregated: Vec<_> = of_kind(&objects, "ClusterRole")
        .into_iter()
        .flat_map(|role| {
            let labels = role["metadata"]["labels"].as_object().expect("labels");
            let into: Vec<_> = labels.keys().filter(|key| key.starts_with("rbac.authorization.k8s.io/")).cloned().collect();
            into.into_iter().map(move |label| json!([label, role["rules"]]))
        })
        .collect();
    let read = ["get", "list", "watch"];
    let write = ["create", "update", "patch", "delete", "deletecollection"];
    assert_eq!(
        aggregated,
        [
            json!(["rbac.authorization.k8s.io/aggregate-to-view",
                [{"apiGroups": ["finetune.dev"], "resources": ["finetuneruns", "finetunemodels", "finetuneruntimes"], "verbs": read}]]),
            json!(["rbac.authorization.k8s.io/aggregate-to-edit", [{"apiGroups": ["finetune.dev"], "resources": ["finetuneruns"], "verbs": write}]]),
            json!(["rbac.authorization.k8s.io/aggregate-to-admin",
                [{"apiGroups": ["finetune.dev"], "resources": ["finetunemodels", "finetuneruntimes"], "verbs": write}]]),
        ]
    );
}

#[test]
fn the_default_installation_is_these_objects() {
    let objects = render(&["--set", "catalogue.enabled=false"]);
    let expected = [
        "ClusterRole finetune-operator",
        "ClusterRole finetune-operator-admin",
        "ClusterRole finetune-operator-edit",
        "ClusterRole finetune-operator-models",
        "ClusterRole finetune-operator-view",
        "ClusterRoleBinding finetune-operator",
        "ClusterRoleBinding finetune-operator-models",
        "CustomResourceDefinition finetunemodels.finetune.dev",
        "CustomResourceDefinition finetuneruns.finetune.dev",
        "CustomResourceDefinition finetuneruntimes.finetune.dev",
        "Deployment finetune-system/finetune-operator",
        "FinetuneRuntime llm-foundry",
        "FinetuneRuntime llm-foundry-eager",
        "PriorityClass finetune-low",
        "PriorityClass finetune-lowest",
        "Role finetune-system/finetune-operator-lease",
        "RoleBinding finetune-system/finetune-operator-lease",
        "Secret finetune-system/finetune-operator-tls",
        "Service finetune-system/finetune-operator",
        "ServiceAccount finetune-system/finetune-operator",
        "ValidatingAdmissionPolicy finetune-operator-default-secrets",
        "ValidatingAdmissionPolicy finetune-operator-run-secrets",
        "ValidatingAdmissionPolicyBinding finetune-operator-default-secrets",
        "ValidatingAdmissionPolicyBinding finetune-operator-run-secrets",
    ];
    assert_eq!(names(&objects), expected.map(str::to_owned).into());
    assert_eq!(objects.len(), expected.len());
}

#[test]
fn what_is_off_by_default_can_be_switched_on() {
    let more: BTreeSet<_> = names(&render(&EVERYTHING)).difference(&names(&render(&[]))).cloned().collect();
    let expected = [
        "NetworkPolicy finetune-system/finetune-operator",
        "NetworkPolicy team-a/finetune-runs",
        "PodDisruptionBudget finetune-system/finetune-operator",
        "PrometheusRule finetune-system/finetune-operator",
        "Role team-a/finetune-operator",
        "Role team-b/finetune-operator",
        "RoleBinding team-a/finetune-operator",
        "RoleBinding team-b/finetune-operator",
        "ServiceAccount team-a/finetune-runner",
        "ServiceMonitor finetune-system/finetune-operator",
    ];
    assert_eq!(more, expected.map(str::to_owned).into());
}

#[test]
fn the_operators_pod_is_restricted_and_gets_every_setting_as_a_flag() {
    let objects = render(&[
        "--set",
        "image.repository=example.org/fo,image.tag=1.2.3,policy.allowedEndpoints={s3.example.org,mlflow.example.org},watchNamespaces={team-a,team-b},extraArgs={--x=1}",
    ]);
    let deployment = &of_kind(&objects, "Deployment")[0]["spec"];
    assert_eq!((&deployment["replicas"], &deployment["strategy"]), (&json!(1), &json!({"type": "Recreate"})));
    assert_eq!(
        deployment["template"]["spec"],
        json!({
            "serviceAccountName": "finetune-operator",
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 30,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "operator",
                "image": "example.org/fo:1.2.3",
                "imagePullPolicy": "IfNotPresent",
                "args": [
                    "--preflight-image=example.org/fo:1.2.3",
                    "--preflight-pull-policy=IfNotPresent",
                    "--report-url=https://finetune-operator.finetune-system.svc:8443",
                    "--report-audience=finetune.dev",
                    "--experiment-prefix=/finetune",
                    "--allowed-endpoints=s3.example.org,mlflow.example.org",
                    "--watch-namespaces=team-a,team-b",
                    "--leader-elect",
                    "--lease-namespace=finetune-system",
                    "--lease-name=finetune-operator",
                    "--report-listen=0.0.0.0:8443",
                    "--http-listen=0.0.0.0:8080",
                    "--tls-dir=/etc/finetune-operator/tls",
                    "--log-format=json",
                    "--x=1",
                ],
                "env": [
                    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "RUST_LOG", "value": "info"},
                ],
                "ports": [{"name": "report", "containerPort": 8443}, {"name": "http", "containerPort": 8080}],
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 5},
                "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 5, "timeoutSeconds": 5},
                "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "tls", "mountPath": "/etc/finetune-operator/tls", "readOnly": true}],
            }],
            "volumes": [{"name": "tls", "secret": {"secretName": "finetune-operator-tls", "defaultMode": 0o440}}],
        })
    );
}

#[test]
fn an_image_digest_wins_over_the_tag_in_the_pod_and_for_preflights() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let objects = render(&["--set", &format!("image.digest={digest},image.tag=1.2.3")]);
    let container = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        (&container["image"], &container["args"][0]),
        (&json!(format!("finetune-operator@{digest}")), &json!(format!("--preflight-image=finetune-operator@{digest}")))
    );
}

#[test]
fn a_given_certificate_is_mounted_and_none_is_made() {
    let objects = render(&["--set", "tls.existingSecret=from-cert-manager"]);
    assert_eq!(of_kind(&objects, "Secret"), Vec::<&Value>::new());
    assert_eq!(of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["volumes"][0]["secret"]["secretName"], "from-cert-manager");
}

#[test]
fn the_crds_are_those_of_the_types_and_survive_an_uninstallation() {
    let objects = render(&[]);
    let rendered = of_kind(&objects, "CustomResourceDefinition");
    assert_eq!(rendered.len(), crd::all().len());
    for (crd, (file, expected)) in rendered.into_iter().zip(crd::all()) {
        assert_eq!(crd["metadata"]["annotations"], json!({"helm.sh/resource-policy": "keep"}), "{file}");
        assert!(floats(&crd["spec"]) == floats(&json!(expected.spec)), "{file} reaches the cluster changed");
    }
    assert_eq!(of_kind(&render(&["--set", "crds.install=false"]), "CustomResourceDefinition"), Vec::<&Value>::new());
}

/// `value` with each number as a float: helm prints 64.0 as 64.
fn floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(floats).collect(),
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), floats(value))).collect::<serde_json::Map<_, _>>().into(),
        other => other.clone(),
    }
}

#[test]
fn models_and_runtimes_come_after_their_crds_at_first_and_belong_to_the_release_from_then_on() {
    let kinds = ["FinetuneModel", "FinetuneRuntime"];
    let annotations = |objects: Vec<Value>| -> BTreeSet<String> {
        objects
            .iter()
            .filter(|object| kinds.iter().any(|kind| object["kind"] == *kind))
            .map(|object| object["metadata"]["annotations"].to_string())
            .collect()
    };
    let first = json!({
        "helm.sh/hook": "post-install,post-upgrade",
        "meta.helm.sh/release-name": "finetune-operator",
        "meta.helm.sh/release-namespace": "finetune-system",
    });
    assert_eq!(annotations(render(&[])), [first.to_string()].into());
    assert_eq!(annotations(render(&SERVED)), ["null".to_owned()].into());
}

#[test]
fn every_model_and_runtime_of_the_chart_is_one_that_the_operator_reads_and_names_a_runtime_of_the_chart() {
    let objects = render(&SERVED);
    let runtimes: Vec<FinetuneRuntime> =
        of_kind(&objects, "FinetuneRuntime").into_iter().map(|object| serde_json::from_value(object.clone()).expect("a runtime")).collect();
    let runtimes: BTreeSet<_> = runtimes.into_iter().filter_map(|runtime| runtime.metadata.name).collect();
    assert_eq!(runtimes, ["llm-foundry", "llm-foundry-eager"].map(str::to_owned).into());
    let models: Vec<FinetuneModel> =
        of_kind(&objects, "FinetuneModel").into_iter().map(|object| serde_json::from_value(object.clone()).expect("a model")).collect();
    let mut input_names = BTreeSet::new();
    for model in &models {
        assert!(runtimes.contains(&model.spec.runtime), "{}: runtime {}", model.spec.name, model.spec.runtime);
        assert!(input_names.insert(&model.spec.name), "{} stands twice in the catalogue", model.spec.name);
    }
}

#[test]
fn a_runtime_takes_from_another_what_it_does_not_set_itself() {
    let values = [
        "runtimes.llm-foundry.image=registry/trainer@sha256:00",
        "runtimes.llm-foundry.terminationGraceSeconds=60",
        "runtimes.mine.from=llm-foundry",
        "runtimes.mine.terminationGraceSeconds=90",
    ];
    let sets: Vec<&str> = values.into_iter().flat_map(|value| ["--set", value]).collect();
    let objects = render(&[&SERVED[..], &sets].concat());
    let specs: Vec<_> =
        of_kind(&objects, "FinetuneRuntime").into_iter().map(|object| (object["metadata"]["name"].clone(), object["spec"].clone())).collect();
    let image = "registry/trainer@sha256:00";
    let eager = json!({"model": {"attn_implementation": "eager"}});
    let expected = [
        (json!("llm-foundry"), json!({"engine": "llm-foundry", "image": image, "terminationGraceSeconds": 60})),
        (json!("llm-foundry-eager"), json!({"engine": "llm-foundry", "image": image, "terminationGraceSeconds": 60, "engineDefaults": eager})),
        (json!("mine"), json!({"engine": "llm-foundry", "image": image, "terminationGraceSeconds": 90})),
    ];
    assert_eq!(specs, expected);
    let error = String::from_utf8_lossy(&template(&["--set", "runtimes.mine.from=nobody"]).stderr).into_owned();
    assert!(error.contains("runtimes.mine.from: there is no runtimes.nobody"), "{error}");
}

#[test]
fn every_alert_asks_for_metrics_that_the_operator_has() {
    let objects = render(&EVERYTHING);
    let metrics = Metrics::new().text().expect("metrics are text");
    let rules = of_kind(&objects, "PrometheusRule")[0]["spec"]["groups"][0]["rules"].as_array().expect("rules");
    assert_eq!(rules.len(), 4);
    for rule in rules {
        let expression = rule["expr"].as_str().expect("an alert has an expression");
        assert!(expression.contains(r#"{job="finetune-operator",namespace="finetune-system""#), "{expression}");
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for metric in words.filter(|word| word.starts_with("finetune_")) {
            assert!(metrics.lines().any(|line| line.starts_with(metric)), "{metric}");
        }
    }
}

#[test]
fn wrong_values_are_refused_with_their_path() {
    let cases = [
        ("nope=1", "at '': additional properties 'nope' not allowed"),
        ("image.name=x", "at '/image': additional properties 'name' not allowed"),
        ("image.repository=", "at '/image/repository': minLength: got 0, want 1"),
        ("image.digest=latest", "at '/image/digest': 'latest' does not match pattern"),
        ("image.pullPolicy=Sometimes", "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'"),
        ("replicas=3", "at '/replicas': maximum: got 3, want 2"),
        ("replicas=2,leaderElection=false", "at '/leaderElection': value must be true"),
        ("watchNamespaces=team-a", "at '/watchNamespaces': got string, want array"),
        ("watchNamespaces={Team}", "at '/watchNamespaces/0': 'Team' does not match pattern"),
        ("runnerNamespaces={a,a}", "at '/runnerNamespaces': items at 0 and 1 are equal"),
        ("log.format=xml", "at '/log/format': value must be one of 'json', 'text'"),
        ("report.url=http://x", "at '/report/url': 'http://x' does not match pattern"),
        ("experimentPrefix=finetune", "at '/experimentPrefix': 'finetune' does not match pattern"),
        ("policy.allowedEndpoints={https://x/y}", "at '/policy/allowedEndpoints/0': 'https://x/y' does not match pattern"),
        ("policy.secretAccess=maybe", "at '/policy/secretAccess': got string, want boolean"),
        ("runtimes.mine.engine=llm-foundry", "at '/runtimes/mine': missing property 'image'"),
        ("networkPolicy.apiServerPorts={0}", "at '/networkPolicy/apiServerPorts/0': minimum: got 0, want 1"),
        ("serviceMonitor.interval=soon", "at '/serviceMonitor/interval': 'soon' does not match pattern"),
    ];
    for (set, message) in cases {
        let output = template(&["--set", set]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(message), "{set}: {error}");
    }
}

#[test]
fn the_schema_knows_every_value_and_no_other() {
    let read = |file: &str| std::fs::read_to_string(testbed::chart().join(file)).expect("the chart has it");
    let values: Value = serde_saphyr::from_str(&read("values.yaml")).expect("values.yaml is YAML");
    let schema: Value = serde_json::from_str(&read("values.schema.json")).expect("values.schema.json is JSON");
    same_fields("", &values, &schema);
}

fn same_fields(path: &str, values: &Value, schema: &Value) {
    let Some(properties) = schema["properties"].as_object() else { return };
    assert_eq!(schema["additionalProperties"], json!(false), "{path} takes any field");
    if path == "/resources" {
        return;
    }
    let known: BTreeSet<_> = properties.keys().filter(|key| *key != "global").collect();
    assert_eq!(values.as_object().map(|fields| fields.keys().collect()), Some(known), "fields of {path}");
    for (key, property) in properties {
        same_fields(&format!("{path}/{key}"), &values[key], property);
    }
}

#[test]
fn helm_finds_nothing_to_warn_about() {
    let chart = testbed::chart();
    let chart = chart.to_str().expect("the repository's path is text");
    testbed::succeeded(&testbed::helm(&[&["lint", "--strict", chart], &SERVER[..]].concat()));
}
