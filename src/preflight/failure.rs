//! What a store's or a service's answer means for the person who made the run; pure. Bodies of answers never pass.

use object_store::client::{HttpError, HttpErrorKind};

use super::connector::{self, METADATA_HOSTS};
use super::dial::{self, Answer, Silence};
use super::remote::RemoteError;
use super::verdict::{Check, CheckName};
use crate::api::status::FailureClass;

/// Reason of a model whose tokenizer is not in the form that is read here; the runtime can make it.
pub const TOKENIZER_MISSING: &str = "TokenizerMissing";

/// Why a check failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Whose fault it is.
    pub class: FailureClass,
    /// Stable `CamelCase` word.
    pub reason: String,
    /// What happened and what to do.
    pub message: String,
}

impl Failure {
    /// The run asks for something that cannot work.
    #[must_use]
    pub fn user(reason: &str, message: String) -> Self {
        Self { class: FailureClass::UserError, reason: reason.to_owned(), message }
    }

    /// The data are bad.
    #[must_use]
    pub fn data(reason: &str, message: String) -> Self {
        Self { class: FailureClass::DataError, reason: reason.to_owned(), message }
    }

    /// A credential is missing or refused.
    #[must_use]
    pub fn credential(reason: &str, message: String) -> Self {
        Self { class: FailureClass::CredentialError, reason: reason.to_owned(), message }
    }

    /// A service or the network failed.
    #[must_use]
    pub fn infrastructure(reason: &str, message: String) -> Self {
        Self { class: FailureClass::Infrastructure, reason: reason.to_owned(), message }
    }

    /// The failed check.
    #[must_use]
    pub fn into_check(self, name: CheckName, field: &str) -> Check {
        let Self { class, reason, message } = self;
        let message = format!("{field}: {message}");
        Check { name, passed: false, class: Some(class), reason: Some(reason), field: Some(field.to_owned()), message: Some(message) }
    }

    /// A service did not answer.
    #[must_use]
    pub fn of_silence(doing: &str, silence: &Silence) -> Self {
        let message = format!("cannot {doing}: {silence}");
        match silence {
            Silence::Denied(_) => Self::user("AddressDenied", message),
            Silence::Address => Self::user("AddressInvalid", message),
            Silence::Unreachable(_) => Self::infrastructure("Unreachable", message),
            Silence::TimedOut(_) => Self::infrastructure("TimedOut", message),
            Silence::TooLarge(_) => Self::infrastructure("AnswerTooLarge", message),
        }
    }

    /// A service answered with something else than success; `credential` says what it was asked with.
    #[must_use]
    pub fn of_answer(doing: &str, answer: &Answer, credential: &str) -> Self {
        let status = answer.status;
        let code = error_code(answer).map(|code| format!(" {code}")).unwrap_or_default();
        match status {
            401 => Self::credential("Unauthenticated", format!("cannot {doing}: the server answered {status}{code} to {credential}; check it")),
            403 => Self::credential("AccessDenied", format!("cannot {doing}: the server answered {status}{code} to {credential}; give it access")),
            300..=399 => Self::user(
                "Redirected",
                format!("cannot {doing}: the server redirects elsewhere ({status}), which is not followed; name the final address"),
            ),
            _ if answer.is_transient() => {
                Self::infrastructure("ServiceUnavailable", format!("cannot {doing}: the server answered {status}{code} each time it was asked"))
            }
            _ => Self::user("RequestRefused", format!("cannot {doing}: the server answered {status}{code}")),
        }
    }
}

/// The error's name in the JSON of MLflow and Databricks: letters and underscores only, anything else could be a secret.
#[must_use]
pub fn error_code(answer: &Answer) -> Option<&str> {
    let code = answer.body.get("error_code")?.as_str()?;
    (!code.is_empty() && code.len() <= 64 && code.chars().all(|c| c.is_ascii_uppercase() || c == '_')).then_some(code)
}

/// Which object store was asked for what, with whose credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The place as the run spells it.
    pub place: String,
    /// The bucket, or what the store calls it.
    pub bucket: String,
    /// Secret of the credential; none: the pod's own identity.
    pub secret: Option<String>,
    /// Keys in that Secret, to say which to look at.
    pub keys: &'static str,
}

/// Codes that speak of the credential, as they become the reason.
const CREDENTIAL_CODES: [&str; 16] = [
    "AccessDenied",
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
    "ExpiredToken",
    "InvalidToken",
    "InvalidSecurity",
    "TokenRefreshRequired",
    "AccountProblem",
    "AllAccessDisabled",
    "NotSignedUp",
    "AuthenticationFailed",
    "AuthorizationFailure",
    "AuthorizationPermissionMismatch",
    "InsufficientAccountPermissions",
    "InvalidIdentityToken",
    "NotAuthorizedOrNotFound",
];
const REGION_CODES: [&str; 5] =
    ["AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "IllegalLocationConstraintException", "IncorrectEndpoint"];
const NO_BUCKET_CODES: [&str; 4] = ["NoSuchBucket", "ContainerNotFound", "InvalidBucketName", "BucketNotFound"];

impl Asked {
    /// What an error of the store means. `doing` ends a sentence: "read", "write to".
    #[must_use]
    pub fn failure(&self, doing: &str, error: &object_store::Error) -> Failure {
        let Self { place, bucket, .. } = self;
        let seen = Evidence::of(error);
        let cannot = format!("cannot {doing} {place}");
        if let Some(denied) = dial::denied_in(error) {
            return Failure::user("AddressDenied", format!("{cannot}: {denied}"));
        }
        if let Some(silence) = &seen.silence {
            return Failure::of_silence(&format!("{doing} {place}"), silence);
        }
        if self.secret.is_none() && seen.asked_for_identity {
            let message = format!("{cannot}: the run names no Secret for it and its pod has no identity of its own; name a Secret in spec.secrets");
            return Failure::credential("NoCredentials", message);
        }
        let code = seen.code.as_deref().unwrap_or_default();
        let answered = match (seen.status, code) {
            (Some(status), "") => format!("the store answered {status}"),
            (Some(status), code) => format!("the store answered {status} {code}"),
            (None, "") => "the store gave no answer".to_owned(),
            (None, code) => format!("the store answered {code}"),
        };
        if CREDENTIAL_CODES.contains(&code) || matches!(seen.status, Some(401 | 403)) {
            let reason = CREDENTIAL_CODES.iter().find(|&&known| known == code).copied();
            let reason = reason.unwrap_or(if seen.status == Some(401) { "Unauthenticated" } else { "AccessDenied" });
            return Failure::credential(reason, format!("{cannot} (bucket {bucket}): {answered} to {}; {}", self.credential(), self.hint(reason)));
        }
        if NO_BUCKET_CODES.contains(&code) {
            return Failure::user("BucketMissing", format!("{cannot}: there is no bucket {bucket}; make it or name another"));
        }
        if REGION_CODES.contains(&code) || matches!(seen.status, Some(300..=399)) || seen.redirect {
            let message = format!("{cannot}: bucket {bucket} is in another region or at another address; set spec.s3.region and spec.s3.endpointUrl");
            return Failure::user("RegionMismatch", message);
        }
        if std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |&error| error.source())
            .any(<dyn std::error::Error>::is::<object_store::path::Error>)
        {
            let message = format!("{cannot}: it has an object whose name has an empty part, `.` or `..`; rename or remove it");
            return Failure::user("ObjectNameInvalid", message);
        }
        match (error, seen.status, seen.transport) {
            (object_store::Error::NotFound { .. }, ..) => {
                Failure::user("ObjectMissing", format!("{place} does not exist; upload it or name another"))
            }
            (_, Some(408 | 429 | 500..=599), _) => {
                Failure::infrastructure("ServiceUnavailable", format!("{cannot}: {answered} each time it was asked"))
            }
            (_, Some(_), _) => Failure::user("RequestRefused", format!("{cannot}: {answered}; check the bucket, the path and spec.s3")),
            (_, None, Some(HttpErrorKind::Timeout)) => Failure::infrastructure("TimedOut", format!("{cannot}: the store did not answer in time")),
            (_, None, Some(_)) => Failure::infrastructure("Unreachable", format!("{cannot}: no connection to the store")),
            (_, None, None) => Failure::infrastructure("StoreFailed", format!("{cannot}: {}", local_cause(error))),
        }
    }

    fn credential(&self) -> String {
        self.secret.as_ref().map_or_else(|| "the pod's own identity".to_owned(), |secret| format!("the key of Secret {secret}"))
    }

    fn hint(&self, reason: &str) -> String {
        let keys = self.keys;
        match (&self.secret, reason) {
            (None, _) => "allow the run's ServiceAccount to use the bucket, or name a Secret in spec.secrets".to_owned(),
            (Some(secret), "AccessDenied" | "AuthorizationPermissionMismatch" | "InsufficientAccountPermissions") => {
                format!("allow that key to use the bucket, or check {keys} in Secret {secret}")
            }
            (Some(secret), "ExpiredToken" | "TokenRefreshRequired") => format!("put a new session token into Secret {secret}"),
            (Some(secret), _) => format!("check {keys} in Secret {secret}"),
        }
    }
}

/// The cause of an error that no server gave: of this machine's disk for example.
fn local_cause(error: &object_store::Error) -> &'static str {
    let causes = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |&error| error.source());
    let io = causes.filter_map(|error| error.downcast_ref::<std::io::Error>()).last();
    match io.map(std::io::Error::kind) {
        Some(std::io::ErrorKind::PermissionDenied) => "permission denied",
        Some(std::io::ErrorKind::ReadOnlyFilesystem) => "the volume is read-only",
        Some(std::io::ErrorKind::StorageFull) => "the volume is full",
        Some(_) => "the volume failed",
        None => "the store's answer makes no sense",
    }
}

/// What the chain of causes shows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Evidence {
    status: Option<u16>,
    code: Option<String>,
    transport: Option<HttpErrorKind>,
    redirect: bool,
    asked_for_identity: bool,
    silence: Option<Silence>,
}

impl Evidence {
    fn of(error: &object_store::Error) -> Self {
        let mut seen = Self::default();
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(cause) = next {
            let text = cause.to_string();
            if let Some(rest) = text.strip_prefix("Server returned non-2xx status code: ") {
                seen.status = rest.get(..3).and_then(|digits| digits.parse().ok());
            } else if text.starts_with("Server returned error response: ") {
                seen.status = Some(500);
            }
            // S3 and Azure delete in bulk: each object has its own answer, within one that is a success.
            let in_bulk = ["DeleteObjects request failed", "Bulk delete request failed"].iter().any(|start| text.starts_with(start));
            if let Some((_, code)) = text.rsplit_once("(code: ").filter(|_| in_bulk) {
                let code = code.trim_end_matches(')');
                seen.status = code.parse().ok();
                seen.code = code.chars().all(|c| c.is_ascii_alphanumeric()).then(|| code.to_owned()).filter(|_| seen.status.is_none());
            }
            seen.redirect |= text.starts_with("Received redirect without LOCATION");
            if let Some(url) = text.strip_prefix("Error performing ").and_then(|rest| rest.split("://").nth(1)) {
                seen.asked_for_identity |= METADATA_HOSTS.iter().any(|host| url.starts_with(host));
            }
            if seen.status.is_some() && seen.code.is_none() {
                seen.code = connector::code_of(&text).map(str::to_owned);
            }
            if let Some(RemoteError::Refused { status, code }) = cause.downcast_ref::<RemoteError>() {
                (seen.status, seen.code) = (Some(*status), code.clone());
            }
            if let Some(error) = cause.downcast_ref::<HttpError>() {
                seen.transport = Some(error.kind());
            }
            seen.silence = seen.silence.take().or_else(|| cause.downcast_ref::<Silence>().cloned());
            next = cause.source();
        }
        seen
    }
}
