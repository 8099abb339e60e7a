//! The Secrets that a run names, as files in the pod: reads them, and nothing else.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::plan::SecretMount;
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
    /// Its `credentials` file has no such profile.
    Profile(String),
    /// A key holds something else than it should.
    Malformed(&'static str),
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
        SecretKind::S3 => match value(secret, "credentials") {
            None => Some(Lack::Keys("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a file credentials)")),
            Some(text) => {
                let profile = profile_name(secret);
                (!profiles(&text).contains_key(&profile)).then_some(Lack::Profile(profile))
            }
        },
        SecretKind::Gcp => match value(secret, "credentials") {
            None => Some(Lack::Keys("credentials")),
            Some(text) => serde_json::from_str::<serde_json::Map<_, _>>(&text).is_err().then_some(Lack::Malformed("credentials")),
        },
        SecretKind::Azure if has("AZURE_STORAGE_ACCOUNT_NAME") && (has("AZURE_STORAGE_ACCOUNT_KEY") || has("AZURE_STORAGE_SAS_TOKEN")) => None,
        SecretKind::Azure => Some(Lack::Keys("AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_SAS_TOKEN)")),
        SecretKind::Oci => all(&["config", "key_file"], "config and key_file"),
        SecretKind::Databricks => all(&["DATABRICKS_HOST", "DATABRICKS_TOKEN"], "DATABRICKS_HOST and DATABRICKS_TOKEN"),
        SecretKind::Hf => all(&["HF_TOKEN"], "HF_TOKEN"),
        SecretKind::Wandb => all(&["WANDB_API_KEY"], "WANDB_API_KEY"),
        SecretKind::Mlflow if has("MLFLOW_TRACKING_TOKEN") || (has("MLFLOW_TRACKING_USERNAME") && has("MLFLOW_TRACKING_PASSWORD")) => None,
        SecretKind::Mlflow => Some(Lack::Keys("MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)")),
        SecretKind::Env | SecretKind::Mounted => {
            let key = secret.key.clone().unwrap_or_default();
            (!file(secret, &key).is_file()).then_some(Lack::Key(key))
        }
    }
}

/// Keys of an AWS profile.
pub type Profile = BTreeMap<String, String>;

/// The profile that a Secret's `credentials` file is read for: the named one, the only one, or `default`.
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

    type Case = (SecretKind, &'static [(&'static str, &'static str)], Option<Lack>);

    #[test]
    fn a_secret_is_usable_exactly_with_the_keys_of_its_kind() {
        use SecretKind::{Azure, Databricks, Env, Gcp, Hf, Mlflow, Mounted, Oci, S3, Wandb};
        let keys = |said| Some(Lack::Keys(said));
        let s3 = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a file credentials)";
        let cases: [Case; 18] = [
            (S3, &[], Some(Lack::Secret)),
            (S3, &[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")], None),
            (S3, &[("AWS_ACCESS_KEY_ID", "a")], keys(s3)),
            (S3, &[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", " \n")], keys(s3)),
            (S3, &[("credentials", "[one]\naws_access_key_id=a")], None),
            (S3, &[("credentials", "[one]\n[two]")], Some(Lack::Profile("default".into()))),
            (Gcp, &[("credentials", "{}")], None),
            (Gcp, &[("credentials", "x")], Some(Lack::Malformed("credentials"))),
            (Azure, &[("AZURE_STORAGE_ACCOUNT_NAME", "a"), ("AZURE_STORAGE_SAS_TOKEN", "b")], None),
            (Oci, &[("config", "a")], keys("config and key_file")),
            (Databricks, &[("DATABRICKS_HOST", "a")], keys("DATABRICKS_HOST and DATABRICKS_TOKEN")),
            (Hf, &[("HF_TOKEN", "t")], None),
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
