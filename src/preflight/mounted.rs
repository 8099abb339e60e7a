//! The Secrets that a run names, as files in the pod: reads them, and nothing else.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::oci::{Identity, Unusable};
use super::plan::SecretMount;
use super::workspace;
use crate::api::secret_ref::SecretKind;

/// A value larger than this is no credential.
const MAX_VALUE_BYTES: u64 = 256 * 1024;

/// All Secrets of a run.
#[derive(Debug, Clone)]
pub struct Mounted(Vec<SecretMount>);

/// What is wrong with a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// It is not there.
    Secret,
    /// It lacks these keys.
    Keys(&'static str),
    /// It lacks the key that the run names.
    Key(String),
    /// Its files `credentials` and `config` have no such profile.
    Profile(String),
    /// Its profile says something that is not supported, or lacks what is needed.
    ProfileEntries(String, &'static str),
    /// A key holds something else than it should; what it should hold.
    Malformed(&'static str, &'static str),
}

impl Mounted {
    /// The Secrets of a plan.
    #[must_use]
    pub fn new(secrets: &[SecretMount]) -> Self {
        Self(secrets.to_vec())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &SecretMount> {
        self.0.iter()
    }

    /// The Secret of this kind: the first counts.
    #[must_use]
    pub fn of(&self, kind: SecretKind) -> Option<&SecretMount> {
        self.0.iter().find(|secret| secret.kind == kind)
    }

    /// The value of a key of the Secret of this kind.
    #[must_use]
    pub fn value(&self, kind: SecretKind, key: &str) -> Option<String> {
        self.of(kind).and_then(|secret| value(secret, key))
    }

    /// Whether the Secret of this kind is named and cannot be used.
    #[must_use]
    pub fn is_broken(&self, kind: SecretKind) -> bool {
        self.of(kind).is_some_and(|secret| lack(secret).is_some())
    }
}

/// The file of a key.
#[must_use]
pub fn file(secret: &SecretMount, key: &str) -> PathBuf {
    Path::new(&secret.path).join(key)
}

/// The value of a key; none when it is not there, empty, no text or too large.
#[must_use]
pub fn value(secret: &SecretMount, key: &str) -> Option<String> {
    let file = std::fs::File::open(file(secret, key)).ok()?;
    let mut text = String::new();
    let read = file.take(MAX_VALUE_BYTES + 1).read_to_string(&mut text).ok()?;
    let text = text.trim();
    (read as u64 <= MAX_VALUE_BYTES && !text.is_empty()).then(|| text.to_owned())
}

/// Whether a Secret has a credential: one of kind azure may have nothing but the account's name, and then the pod's identity signs in.
#[must_use]
pub fn signs_in(secret: &SecretMount) -> bool {
    secret.kind != SecretKind::Azure || ["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"].iter().any(|key| value(secret, key).is_some())
}

/// What a Secret lacks for its kind; none when it can be used.
#[must_use]
pub fn lack(secret: &SecretMount) -> Option<Lack> {
    // The kubelet mounts an optional Secret that does not exist as a folder with only its own `..data` in it.
    let is_key = |entry: std::io::Result<std::fs::DirEntry>| entry.is_ok_and(|entry| !entry.file_name().to_string_lossy().starts_with(".."));
    let is_there = std::fs::read_dir(&secret.path).is_ok_and(|mut entries| entries.any(is_key));
    if !is_there {
        return Some(Lack::Secret);
    }
    let has = |key: &str| value(secret, key).is_some();
    let all = |keys: &[&str], said: &'static str| (!keys.iter().all(|key| has(key))).then_some(Lack::Keys(said));
    match secret.kind {
        SecretKind::S3 if has("AWS_ACCESS_KEY_ID") && has("AWS_SECRET_ACCESS_KEY") => None,
        SecretKind::S3 if has("credentials") => profile_lack(secret),
        SecretKind::S3 => Some(Lack::Keys("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a file credentials)")),
        SecretKind::Gcp => all(&["credentials"], "credentials").or_else(|| {
            let is_key = value(secret, "credentials").is_some_and(|text| is_google_key(&text));
            malformed(is_key, "credentials", "the JSON key file of a service account")
        }),
        // The account alone: the pod's identity signs in.
        SecretKind::Azure if has("AZURE_STORAGE_ACCOUNT_NAME") => {
            let is = |key: &str, test: fn(&str) -> bool| value(secret, key).is_none_or(|text| test(&text));
            // The account becomes part of the host's name.
            let is_name = |text: &str| text.len() <= 24 && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            malformed(is("AZURE_STORAGE_ACCOUNT_NAME", is_name), "AZURE_STORAGE_ACCOUNT_NAME", "the name of a storage account")
                .or_else(|| {
                    malformed(
                        is("AZURE_STORAGE_ACCOUNT_KEY", |text| BASE64_STANDARD.decode(text).is_ok()),
                        "AZURE_STORAGE_ACCOUNT_KEY",
                        "an account key",
                    )
                })
                .or_else(|| malformed(is("AZURE_STORAGE_SAS_TOKEN", |text| text.contains("sig=")), "AZURE_STORAGE_SAS_TOKEN", "a SAS token"))
        }
        SecretKind::Azure => Some(Lack::Keys("AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_SAS_TOKEN)")),
        SecretKind::Oci => all(&["config", "key_file"], "config and key_file").or_else(|| match Identity::of(secret) {
            Ok(_) => None,
            Err(Unusable::Key) => Some(Lack::Malformed("key_file", "an RSA key in PEM without passphrase")),
            Err(Unusable::Config) => Some(Lack::Malformed("config", "a section DEFAULT with tenancy, user, fingerprint and region")),
        }),
        SecretKind::Databricks => all(&["DATABRICKS_HOST", "DATABRICKS_TOKEN"], "DATABRICKS_HOST and DATABRICKS_TOKEN").or_else(|| {
            let is_host = value(secret, "DATABRICKS_HOST").is_some_and(|text| workspace::address(&text).is_some());
            malformed(is_host, "DATABRICKS_HOST", "https:// and the host of a workspace")
        }),
        SecretKind::Hf => all(&["HF_TOKEN"], "HF_TOKEN").or_else(|| {
            let is_token = value(secret, "HF_TOKEN").is_some_and(|text| text.starts_with("hf_"));
            malformed(is_token, "HF_TOKEN", "a token of the hub, which starts with hf_")
        }),
        SecretKind::Wandb => all(&["WANDB_API_KEY"], "WANDB_API_KEY"),
        SecretKind::Mlflow if has("MLFLOW_TRACKING_TOKEN") || (has("MLFLOW_TRACKING_USERNAME") && has("MLFLOW_TRACKING_PASSWORD")) => None,
        SecretKind::Mlflow => Some(Lack::Keys("MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)")),
        SecretKind::Env | SecretKind::Mounted => {
            let key = secret.key.clone().unwrap_or_default();
            (!file(secret, &key).is_file()).then_some(Lack::Key(key))
        }
    }
}

fn malformed(is_fine: bool, key: &'static str, wanted: &'static str) -> Option<Lack> {
    (!is_fine).then_some(Lack::Malformed(key, wanted))
}

/// The kinds of credentials that a pod can use without a browser or a metadata service.
fn is_google_key(text: &str) -> bool {
    let Ok(key) = serde_json::from_str::<serde_json::Value>(text) else { return false };
    let has = |names: &[&str]| names.iter().all(|name| key[*name].as_str().is_some_and(|text| !text.is_empty()));
    match key["type"].as_str() {
        Some("service_account") => has(&["client_email", "private_key", "private_key_id"]),
        Some("authorized_user") => has(&["client_id", "client_secret", "refresh_token"]),
        _ => false,
    }
}

fn profile_lack(secret: &SecretMount) -> Option<Lack> {
    let name = profile_name(secret);
    let Some(entries) = all_profiles(secret).remove(&name) else { return Some(Lack::Profile(name)) };
    if entries.contains_key("endpoint_url") {
        return Some(Lack::ProfileEntries(name, "names an endpoint_url, which only spec.s3.endpointUrl may"));
    }
    let has_keys = ["aws_access_key_id", "aws_secret_access_key"].iter().all(|key| entries.contains_key(*key));
    (!has_keys)
        .then_some(Lack::ProfileEntries(name, "has no aws_access_key_id and aws_secret_access_key: roles, SSO and processes are not supported"))
}

/// Keys of an AWS profile.
pub type Profile = BTreeMap<String, String>;

/// The profile that a Secret is read for: the named one, the only one in `credentials`, or `default`.
#[must_use]
pub fn profile_name(secret: &SecretMount) -> String {
    if let Some(name) = &secret.profile {
        return name.clone();
    }
    let all = value(secret, "credentials").map(|text| profiles(&text)).unwrap_or_default();
    match all.keys().next() {
        Some(only) if all.len() == 1 => only.clone(),
        _ => "default".to_owned(),
    }
}

/// The profiles of `config`, with what `credentials` says of them instead.
#[must_use]
pub fn all_profiles(secret: &SecretMount) -> BTreeMap<String, Profile> {
    let of = |file: &str| value(secret, file).map(|text| profiles(&text)).unwrap_or_default();
    let mut all = of("config");
    for (name, entries) in of("credentials") {
        all.entry(name).or_default().extend(entries);
    }
    all
}

/// The profiles of an AWS `credentials` or `config` file.
#[must_use]
pub fn profiles(text: &str) -> BTreeMap<String, Profile> {
    let mut all: BTreeMap<String, Profile> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(name, _)| name.trim()) {
            let name = name.strip_prefix("profile ").unwrap_or(name).trim().to_owned();
            all.entry(name.clone()).or_default();
            current = Some(name);
        } else if let (Some(name), Some((key, value))) = (&current, line.split_once('=')) {
            let value = value.trim();
            if !value.is_empty() {
                all.entry(name.clone()).or_default().insert(key.trim().to_ascii_lowercase(), value.to_owned());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::fake::oci::{CONFIG, KEY};

    fn secret(kind: SecretKind, keys: &[(&str, &str)]) -> (tempfile::TempDir, SecretMount) {
        let folder = tempfile::tempdir().unwrap();
        for (key, value) in keys {
            std::fs::write(folder.path().join(key), value).unwrap();
        }
        let path = folder.path().to_str().unwrap().to_owned();
        (folder, SecretMount { name: "s".into(), kind, key: Some("K".into()), profile: None, path })
    }

    #[test]
    fn a_mount_with_only_the_kubelets_own_entries_is_a_secret_that_does_not_exist() {
        let (folder, secret) = secret(SecretKind::S3, &[]);
        std::fs::create_dir(folder.path().join("..2026_01_01")).unwrap();
        std::os::unix::fs::symlink("..2026_01_01", folder.path().join("..data")).unwrap();
        assert_eq!(lack(&secret), Some(Lack::Secret));
    }

    const GOOGLE: &str = r#"{"type":"service_account","client_email":"a@b","private_key":"p","private_key_id":"i"}"#;

    type Case = (SecretKind, &'static [(&'static str, &'static str)], Option<Lack>);

    #[test]
    fn a_secret_is_usable_exactly_with_the_keys_of_its_kind() {
        use SecretKind::{Azure, Databricks, Env, Gcp, Hf, Mlflow, Mounted, Oci, S3, Wandb};
        let keys = |said| Some(Lack::Keys(said));
        let s3 = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a file credentials)";
        let malformed = |key, wanted| Some(Lack::Malformed(key, wanted));
        let google = malformed("credentials", "the JSON key file of a service account");
        let profile = |said| Some(Lack::ProfileEntries("one".into(), said));
        let no_keys = profile("has no aws_access_key_id and aws_secret_access_key: roles, SSO and processes are not supported");
        let cases: [Case; 38] = [
            (S3, &[], Some(Lack::Secret)),
            (S3, &[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")], None),
            (S3, &[("AWS_ACCESS_KEY_ID", "a")], keys(s3)),
            (S3, &[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", " \n")], keys(s3)),
            (S3, &[("credentials", "[one]\naws_access_key_id=a\naws_secret_access_key=b")], None),
            (S3, &[("credentials", "[one]\naws_access_key_id=a"), ("config", "[profile one]\naws_secret_access_key=b")], None),
            (S3, &[("credentials", "[one]\naws_access_key_id=a")], no_keys.clone()),
            (S3, &[("credentials", "[one]"), ("config", "[profile one]\nrole_arn=r\nsource_profile=x")], no_keys),
            (
                S3,
                &[("credentials", "[one]\naws_access_key_id=a\naws_secret_access_key=b\nendpoint_url=http://x")],
                profile("names an endpoint_url, which only spec.s3.endpointUrl may"),
            ),
            (S3, &[("credentials", "[one]\n[two]")], Some(Lack::Profile("default".into()))),
            (S3, &[("config", "[default]\naws_access_key_id=a\naws_secret_access_key=b")], keys(s3)),
            (Gcp, &[("credentials", GOOGLE)], None),
            (Gcp, &[("credentials", r#"{"type":"authorized_user","client_id":"a","client_secret":"b","refresh_token":"c"}"#)], None),
            (Gcp, &[("credentials", "{}")], google.clone()),
            (Gcp, &[("credentials", r#"{"type":"external_account"}"#)], google.clone()),
            (Gcp, &[("credentials", "x")], google),
            (Azure, &[("AZURE_STORAGE_ACCOUNT_NAME", "a1"), ("AZURE_STORAGE_SAS_TOKEN", "?sv=1&sig=b")], None),
            (Azure, &[("AZURE_STORAGE_ACCOUNT_NAME", "a1"), ("AZURE_STORAGE_ACCOUNT_KEY", "YQ==")], None),
            (
                Azure,
                &[("AZURE_STORAGE_ACCOUNT_NAME", "a1"), ("AZURE_STORAGE_ACCOUNT_KEY", "a b")],
                malformed("AZURE_STORAGE_ACCOUNT_KEY", "an account key"),
            ),
            (Azure, &[("AZURE_STORAGE_ACCOUNT_NAME", "a1"), ("AZURE_STORAGE_SAS_TOKEN", "b")], malformed("AZURE_STORAGE_SAS_TOKEN", "a SAS token")),
            (
                Azure,
                &[("AZURE_STORAGE_ACCOUNT_NAME", "evil.example/"), ("AZURE_STORAGE_ACCOUNT_KEY", "YQ==")],
                malformed("AZURE_STORAGE_ACCOUNT_NAME", "the name of a storage account"),
            ),
            (Azure, &[("AZURE_STORAGE_ACCOUNT_NAME", "a1")], None),
            (
                Azure,
                &[("AZURE_STORAGE_ACCOUNT_KEY", "YQ==")],
                keys("AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_SAS_TOKEN)"),
            ),
            (Oci, &[("config", "a")], keys("config and key_file")),
            (Oci, &[("config", CONFIG), ("key_file", KEY)], None),
            (Oci, &[("config", CONFIG), ("key_file", "x")], malformed("key_file", "an RSA key in PEM without passphrase")),
            (
                Oci,
                &[("config", "[DEFAULT]\nuser=u"), ("key_file", KEY)],
                malformed("config", "a section DEFAULT with tenancy, user, fingerprint and region"),
            ),
            (Databricks, &[("DATABRICKS_HOST", "a")], keys("DATABRICKS_HOST and DATABRICKS_TOKEN")),
            (Databricks, &[("DATABRICKS_HOST", "h.example"), ("DATABRICKS_TOKEN", "t")], None),
            (
                Databricks,
                &[("DATABRICKS_HOST", "https://u:p@h.example"), ("DATABRICKS_TOKEN", "t")],
                malformed("DATABRICKS_HOST", "https:// and the host of a workspace"),
            ),
            (Hf, &[("HF_TOKEN", "hf_t")], None),
            (Hf, &[("HF_TOKEN", "t")], malformed("HF_TOKEN", "a token of the hub, which starts with hf_")),
            (Hf, &[("token", "t")], keys("HF_TOKEN")),
            (Wandb, &[("token", "t")], keys("WANDB_API_KEY")),
            (Mlflow, &[("MLFLOW_TRACKING_TOKEN", "t")], None),
            (Mlflow, &[("MLFLOW_TRACKING_USERNAME", "t")], keys("MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)")),
            (Env, &[("K", "")], None),
            (Mounted, &[("other", "x")], Some(Lack::Key("K".into()))),
        ];
        for (kind, files, expected) in cases {
            let (_folder, secret) = secret(kind, files);
            assert_eq!(lack(&secret), expected, "{kind:?} {files:?}");
        }
    }

    #[test]
    fn profiles_are_read_as_the_sdks_read_them() {
        let text = "; c\n[default]\naws_access_key_id = a=b\n[profile two]\n  region= eu-west-1 \nlost\n[empty]\n";
        let expected = [("default", vec![("aws_access_key_id", "a=b")]), ("two", vec![("region", "eu-west-1")]), ("empty", vec![])];
        let expected: BTreeMap<String, Profile> = expected
            .into_iter()
            .map(|(name, keys)| (name.to_owned(), keys.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()))
            .collect();
        assert_eq!(profiles(text), expected);
    }

    #[test]
    fn a_value_without_end_is_no_value() {
        let (_folder, secret) = secret(SecretKind::Hf, &[("HF_TOKEN", &"x".repeat(300_000))]);
        assert_eq!(value(&secret, "HF_TOKEN"), None);
    }
}
