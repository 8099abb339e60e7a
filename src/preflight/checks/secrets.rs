//! `Secrets`: every Secret that the run names is mounted and has the keys of its kind. Reads files only.

use super::Outcome;
use crate::preflight::failure::Failure;
use crate::preflight::mounted::{self, Lack, Mounted};

/// All that is wrong with the Secrets, under the reason of the worst.
pub(super) fn check(secrets: &Mounted) -> Outcome {
    let mut lacks: Vec<_> = secrets.iter().filter_map(|secret| mounted::lack(secret).map(|lack| (secret, lack))).collect();
    lacks.sort_by_key(|(_, lack)| rank(lack));
    let Some((_, worst)) = lacks.first() else { return Ok(()) };
    let reason = match worst {
        Lack::Secret => "SecretMissing",
        Lack::Keys(_) | Lack::Key(_) => "SecretKeyMissing",
        Lack::Profile(_) => "ProfileMissing",
        Lack::ProfileEntries(..) => "ProfileUnsupported",
        Lack::Malformed(..) => "SecretMalformed",
    };
    let sentences: Vec<_> = lacks
        .iter()
        .map(|(secret, lack)| {
            let name = &secret.name;
            match lack {
                Lack::Secret => format!("Secret {name} does not exist in this namespace or is empty; make it"),
                Lack::Keys(keys) => format!("Secret {name} lacks {keys}; add what is missing"),
                Lack::Key(key) => format!("Secret {name} lacks the key {key}; add it"),
                Lack::Profile(profile) => format!("Secret {name} has no profile {profile} in its file credentials; add it or set profile"),
                Lack::ProfileEntries(profile, said) => format!("the profile {profile} of Secret {name} {said}"),
                Lack::Malformed(key, wanted) => format!("{key} of Secret {name} is not {wanted}; put that there"),
            }
        })
        .collect();
    Err(Failure::credential(reason, sentences.join(". ")))
}

fn rank(lack: &Lack) -> u8 {
    match lack {
        Lack::Secret => 0,
        Lack::Keys(_) | Lack::Key(_) => 1,
        Lack::Profile(_) | Lack::ProfileEntries(..) | Lack::Malformed(..) => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::secret_ref::SecretKind;
    use crate::preflight::plan::SecretMount;

    #[test]
    fn all_lacks_are_named_and_a_missing_secret_gives_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "canary-of-a-secret").unwrap();
        let mount = |name: &str, path: &str| SecretMount { name: name.into(), kind: SecretKind::Hf, key: None, profile: None, path: path.into() };
        let here = folder.path().to_str().unwrap();
        let secrets = Mounted::new(&[mount("hub", here), mount("gone", "/nowhere")]);
        let message = "Secret gone does not exist in this namespace or is empty; make it. Secret hub lacks HF_TOKEN; add what is missing";
        assert_eq!(check(&secrets), Err(Failure::credential("SecretMissing", message.to_owned())));
        std::fs::write(folder.path().join("HF_TOKEN"), "hf_t").unwrap();
        assert_eq!(check(&Mounted::new(&[mount("hub", here)])), Ok(()));
    }
}
