//! Names and labels of the objects that belong to a run: pure, and equal for equal input for ever.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::status::Stage;

/// Label that marks everything the operator made; its watches select on it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label with the run's name.
pub const RUN: &str = "finetune.dev/run";
/// Label with the run's uid.
pub const RUN_UID: &str = "finetune.dev/run-uid";
/// Label with the stage.
pub const STAGE: &str = "finetune.dev/stage";
/// Label with the number of the preflight, the attempt or the registration.
pub const NUMBER: &str = "finetune.dev/attempt";

/// `<run, cut to 38>-<12 hex of sha256(uid)>`: at most 51 characters, unique per uid, so that two runs whose long names
/// share a prefix, or a run made anew under the same name, never meet in one object. The cut leaves room for stage, number and
/// rank in the 63 characters of a pod's host name.
#[must_use]
pub fn base(run: &str, uid: &str) -> String {
    let cut = run.get(..38).unwrap_or(run).trim_end_matches('-');
    format!("{cut}-{}", hex(&Sha256::digest(uid))[..12].to_owned())
}

/// Name of the Job, and of the `ConfigMap` it mounts, of a stage's `number`-th try (from 0).
#[must_use]
pub fn job(run: &str, uid: &str, stage: Stage, number: i64) -> String {
    let letter = match stage {
        Stage::Preflight => 'p',
        Stage::Convert => 'c',
        Stage::Train => 'a',
        Stage::Register => 'r',
    };
    format!("{}-{letter}{number}", base(run, uid))
}

/// Name of the immutable `ConfigMap` that holds the model and the runtime as they were resolved.
#[must_use]
pub fn snapshot(run: &str, uid: &str) -> String {
    format!("{}-snapshot", base(run, uid))
}

/// Name of the mutable `ConfigMap` with the report endpoint's CA.
#[must_use]
pub fn ca(run: &str, uid: &str) -> String {
    format!("{}-ca", base(run, uid))
}

/// Name of the headless Service of a run of several nodes. A Service's name begins with a letter, which a run's need not.
#[must_use]
pub fn peers(run: &str, uid: &str) -> String {
    format!("peers-{}", base(run, uid))
}

/// Labels of every object of a run.
#[must_use]
pub fn labels(run: &str, uid: &str) -> BTreeMap<String, String> {
    [(MANAGED_BY, super::MANAGER), (RUN, run), (RUN_UID, uid)].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// Labels of a stage's Job and pods.
#[must_use]
pub fn stage_labels(run: &str, uid: &str, stage: Stage, number: i64) -> BTreeMap<String, String> {
    let mut labels = labels(run, uid);
    labels.insert(STAGE.to_owned(), stage.as_str().to_owned());
    labels.insert(NUMBER.to_owned(), number.to_string());
    labels
}

/// Lower-case hexadecimal of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_hundred_runs_with_one_long_prefix_get_five_hundred_job_names() {
        let names: std::collections::BTreeSet<_> =
            (0..500).map(|i| job(&format!("{}{i:03}", "x".repeat(60)), &format!("uid-{i}"), Stage::Train, 0)).collect();
        assert_eq!(names.len(), 500);
    }

    #[test]
    fn the_longest_run_name_and_attempt_still_make_a_valid_label() {
        let name = job(&"a".repeat(63), "uid", Stage::Register, 999_999);
        assert_eq!(name.len(), 59);
    }

    #[test]
    fn a_cut_never_leaves_two_dashes_in_a_row_at_the_seam() {
        let run = format!("{}-b", "a".repeat(37));
        assert!(base(&run, "uid").starts_with(&format!("{}-", "a".repeat(37))));
        assert!(!base(&run, "uid").contains("--"));
    }
}
