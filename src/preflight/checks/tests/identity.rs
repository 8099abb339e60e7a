//! The pod's own identity, as the clouds' webhooks describe it in the environment, under the policy of a real pod.

use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::preflight::address::Policy;
use crate::preflight::fake::{CANARY, Seen, Server, answer, context_of, failures, json_answer, oci, plan};

const SESSION: &str = "canary-of-a-session";

/// A store that has every object, for whoever `is_welcome`.
async fn store(is_welcome: impl Fn(&Seen) -> bool + Clone + Send + Sync + 'static) -> Server {
    Server::answering(move |seen| {
        if !is_welcome(seen) {
            return answer(403, "<Error><Code>AccessDenied</Code></Error>");
        }
        let mut response = answer(200, "xyz");
        response.headers_mut().insert("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT".parse().unwrap());
        response.headers_mut().insert("etag", "\"e\"".parse().unwrap());
        response
    })
    .await
}

/// The failed check of the training data at `place`, its reason, when the run has none but the Secrets in `secrets`.
async fn reasons(place: &str, secrets: Value, environment: &[(&str, &str)], stand_ins: &[(&str, &Server)]) -> Vec<[String; 4]> {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan(folder.path());
    plan["train"] = json!(place);
    plan["model"]["weights"] = json!(place);
    plan["saveFolder"] = json!(place);
    plan["secrets"] = secrets;
    let stand_ins: Vec<_> = stand_ins.iter().map(|(host, server)| (*host, server.address.as_str())).collect();
    let failures = failures(&context_of(&plan, environment, Policy::strict(Some("10.96.0.1")), &stand_ins)).await;
    assert!(!format!("{failures:?}").contains(SESSION));
    failures.into_iter().filter(|failure| failure[0] == "TrainData").collect()
}

fn is_session(seen: &Seen) -> bool {
    seen.authorization.as_ref().is_some_and(|text| text.contains("Credential=ASIA1/") && text.contains("/eu-west-1/s3/"))
        && seen.headers.get("x-amz-security-token").is_some_and(|token| token == SESSION)
}

fn token_file() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, CANARY).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

/// The security token service, as its published API has it.
fn assume_role(seen: &Seen) -> Response {
    let url = url::Url::parse(&format!("https://h{}", seen.path)).unwrap();
    let form: Vec<(String, String)> =
        url.query_pairs().chain(form_urlencoded::parse(&seen.body)).map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
    let get = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).unwrap_or_default();
    assert_eq!([get("Action"), get("Version"), get("RoleArn")], ["AssumeRoleWithWebIdentity", "2011-06-15", "arn:aws:iam::1:role/r"]);
    if get("WebIdentityToken") != CANARY {
        return answer(400, "<ErrorResponse><Error><Code>InvalidIdentityToken</Code></Error></ErrorResponse>");
    }
    let keys = format!("<AccessKeyId>ASIA1</AccessKeyId><SecretAccessKey>{CANARY}</SecretAccessKey><SessionToken>{SESSION}</SessionToken>");
    let keys = format!("<Credentials>{keys}<Expiration>2126-01-01T00:00:00Z</Expiration></Credentials>");
    answer(
        200,
        format!(
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult>{keys}</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        ),
    )
}

#[tokio::test]
async fn a_role_is_assumed_with_the_projected_token() {
    let (_folder, token) = token_file();
    let store = store(is_session).await;
    let service = Server::answering(assume_role).await;
    let environment = [("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"), ("AWS_WEB_IDENTITY_TOKEN_FILE", &token), ("AWS_REGION", "eu-west-1")];
    let stand_ins = [("sts.eu-west-1.amazonaws.com", &service), ("s3.eu-west-1.amazonaws.com", &store)];
    assert_eq!(reasons("s3://data/train.jsonl", json!([]), &environment, &stand_ins).await, Vec::<[String; 4]>::new());

    std::fs::write(&token, "expired").unwrap();
    let found = reasons("s3://data/train.jsonl", json!([]), &environment, &stand_ins).await;
    assert_eq!(found[0][1..3], ["CredentialError", "InvalidIdentityToken"], "{found:?}");
}

#[tokio::test]
async fn the_metadata_services_of_aws_give_a_role() {
    let keys = json!({"AccessKeyId": "ASIA1", "SecretAccessKey": CANARY, "Token": SESSION, "Expiration": "2126-01-01T00:00:00Z", "Code": "Success"});
    let metadata = Server::answering(move |seen| match (seen.method.as_str(), seen.path.as_str()) {
        ("PUT", "/latest/api/token") => answer(200, "t"),
        ("GET", "/latest/meta-data/iam/security-credentials/") => answer(200, "role"),
        ("GET", "/latest/meta-data/iam/security-credentials/role") => json_answer(200, &keys),
        ("GET", "/v1/credentials") if seen.authorization.as_deref() == Some(CANARY) => json_answer(200, &keys),
        _ => answer(404, ""),
    })
    .await;
    let store = store(is_session).await;
    let (_folder, token) = token_file();
    let pod = [
        ("AWS_REGION", "eu-west-1"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token),
    ];
    let none = Vec::<[String; 4]>::new();
    let stand_ins = [("169.254.170.23", &metadata), ("s3.eu-west-1.amazonaws.com", &store)];
    assert_eq!(reasons("s3://data/train.jsonl", json!([]), &pod, &stand_ins).await, none);
    let stand_ins = [("169.254.169.254", &metadata), ("s3.eu-west-1.amazonaws.com", &store)];
    assert_eq!(reasons("s3://data/train.jsonl", json!([]), &[("AWS_REGION", "eu-west-1")], &stand_ins).await, none);
}

#[tokio::test]
async fn a_users_endpoint_is_never_a_metadata_service() {
    for endpoint in
        ["http://169.254.169.254", "http://169.254.170.23", "http://metadata.google.internal", "http://[fd00:ec2::23]", "http://2852039166"]
    {
        let metadata = Server::answering(|_| answer(200, "x")).await;
        let folder = tempfile::tempdir().unwrap();
        let mut plan = plan(folder.path());
        plan["train"] = json!("s3://latest/meta-data");
        plan["s3"] = json!({"endpointUrl": endpoint});
        for secrets in [json!([]), plan["secrets"].clone()] {
            plan["secrets"] = secrets;
            // Keys of the environment, so that no identity is asked for.
            let environment = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];
            let host = url::Url::parse(endpoint).unwrap().host_str().unwrap().to_owned();
            let context = context_of(&plan, &environment, Policy::strict(None), &[(&host, &metadata.address)]);
            let found: Vec<_> =
                failures(&context).await.into_iter().filter(|failure| failure[0] == "TrainData").map(|failure| failure[2].clone()).collect();
            assert_eq!(found, ["AddressDenied"], "{endpoint}");
        }
        assert_eq!(metadata.seen(), []);
    }
}

#[tokio::test]
async fn no_environment_leads_the_chain_of_credentials_elsewhere() {
    let (_folder, token) = token_file();
    let inside = Server::answering(|_| answer(200, "x")).await;
    for address in ["http://127.0.0.1:9/x", "http://kubernetes.default.svc/x", "http://169.254.1.1/x"] {
        let environment = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", address), ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token)];
        let host = url::Url::parse(address).unwrap().host_str().unwrap().to_owned();
        let found = reasons("s3://data/train.jsonl", json!([]), &environment, &[(&host, &inside)]).await;
        assert_eq!(found[0][2], "AddressDenied", "{found:?}");
    }
    assert_eq!(inside.seen(), []);
}

#[tokio::test]
async fn a_profile_with_a_session_token_signs_for_the_region_of_its_config() {
    let folder = tempfile::tempdir().unwrap();
    let profile = format!("[mine]\naws_access_key_id=ASIA1\naws_secret_access_key={CANARY}\naws_session_token={SESSION}\n");
    std::fs::write(folder.path().join("credentials"), format!("[default]\naws_access_key_id=x\naws_secret_access_key=y\n{profile}")).unwrap();
    std::fs::write(folder.path().join("config"), "[profile mine]\nregion = eu-west-1\n").unwrap();
    let secrets = json!([{"name": "my-s3", "kind": "s3", "path": folder.path(), "profile": "mine"}]);
    let store = store(is_session).await;
    let found = reasons("s3://data/train.jsonl", secrets, &[], &[("s3.eu-west-1.amazonaws.com", &store)]).await;
    assert_eq!(found, Vec::<[String; 4]>::new());
}

fn is_bearer(seen: &Seen) -> bool {
    seen.authorization.as_deref() == Some(&format!("Bearer {SESSION}"))
}

#[tokio::test]
async fn google_gives_a_token_to_the_pod() {
    let metadata = Server::answering(|seen| match seen.headers.get("metadata-flavor") {
        Some(flavor) if flavor == "Google" && seen.path.contains("/service-accounts/default/token") => {
            json_answer(200, &json!({"access_token": SESSION, "expires_in": 3600, "token_type": "Bearer"}))
        }
        _ => answer(404, ""),
    })
    .await;
    let store = store(is_bearer).await;
    let stand_ins = [("metadata.google.internal", &metadata), ("storage.googleapis.com", &store)];
    assert_eq!(reasons("gs://data/train.jsonl", json!([]), &[], &stand_ins).await, Vec::<[String; 4]>::new());
}

#[tokio::test]
async fn azure_gives_a_token_for_the_projected_one() {
    let (folder, token) = token_file();
    let login = Server::answering(|seen| {
        let form: Vec<_> = form_urlencoded::parse(&seen.body).map(|(k, v)| format!("{k}={v}")).collect();
        let expected = [format!("client_assertion={CANARY}"), "client_id=c".into(), "grant_type=client_credentials".into()];
        let is_right = seen.path == "/t/oauth2/v2.0/token" && expected.iter().all(|field| form.contains(field));
        if is_right {
            json_answer(200, &json!({"access_token": SESSION, "expires_in": 3600}))
        } else {
            json_answer(400, &json!({"error": "invalid_request"}))
        }
    })
    .await;
    let store = store(is_bearer).await;
    std::fs::write(folder.path().join("AZURE_STORAGE_ACCOUNT_NAME"), "acc1").unwrap();
    let secrets = json!([{"name": "my-azure", "kind": "azure", "path": folder.path()}]);
    let environment = [
        ("AZURE_CLIENT_ID", "c"),
        ("AZURE_TENANT_ID", "t"),
        ("AZURE_FEDERATED_TOKEN_FILE", token.as_str()),
        ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com/"),
    ];
    let stand_ins = [("login.microsoftonline.com", &login), ("acc1.blob.core.windows.net", &store)];
    assert_eq!(reasons("az://data/train.jsonl", secrets, &environment, &stand_ins).await, Vec::<[String; 4]>::new());
}

/// Whether a request has a token that the key of the tests signed.
fn is_signed(seen: &Seen) -> bool {
    let token = seen.authorization.as_deref().and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
    let Some((signed, signature)) = token.rsplit_once('.') else { return false };
    let claims: Vec<Value> = signed.split('.').map(|part| serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()).collect();
    let [head, claims] = claims.as_slice() else { return false };
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
    head["alg"] == "RS256" && claims["iss"] == "a@b" && claims["exp"].as_u64() > claims["iat"].as_u64() && oci::has_signed(signed, &signature)
}

#[tokio::test]
async fn a_service_accounts_key_signs_its_own_token() {
    let store = store(is_signed).await;
    let folder = tempfile::tempdir().unwrap();
    let secrets = json!([{"name": "my-gcp", "kind": "gcp", "path": folder.path()}]);
    let key = |pem: &str| {
        // What the file says of another server is not believed.
        let key = json!({"type": "service_account", "client_email": "a@b", "private_key": pem, "private_key_id": "1", "gcs_base_url": "https://evil.example"});
        std::fs::write(folder.path().join("credentials"), key.to_string()).unwrap();
    };
    let stand_ins = [("storage.googleapis.com", &store)];
    key(oci::KEY);
    assert_eq!(reasons("gs://data/train.jsonl", secrets.clone(), &[], &stand_ins).await, Vec::<[String; 4]>::new());
    key("no key");
    let found = reasons("gs://data/train.jsonl", secrets, &[], &stand_ins).await;
    assert_eq!(found[0][1..3], ["CredentialError", "CredentialMalformed"], "{found:?}");
}
