//! What a post is answered: one closed list for the wire, the metrics and the log. No answer says anything of the body.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// An answer of the report endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The post was understood.
    Accepted,
    /// The body is no report.
    Malformed,
    /// The token proves nobody.
    Unauthenticated,
    /// The sender is no trainer of this run, or there is no such run.
    Forbidden,
    /// The request came too slowly.
    Slow,
    /// Another attempt is current.
    OtherAttempt,
    /// The run has ended.
    Ended,
    /// The body is too long.
    TooLarge,
    /// Too many posts.
    TooMany,
    /// The operator does not know yet what it must know to decide.
    NotYet,
    /// The API server could not be asked.
    Unavailable,
}

impl Answer {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Accepted,
        Self::Malformed,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::Slow,
        Self::OtherAttempt,
        Self::Ended,
        Self::TooLarge,
        Self::TooMany,
        Self::NotYet,
        Self::Unavailable,
    ];

    /// One word, for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Malformed => "malformed",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Slow => "slow",
            Self::OtherAttempt => "other_attempt",
            Self::Ended => "ended",
            Self::TooLarge => "too_large",
            Self::TooMany => "too_many",
            Self::NotYet => "not_yet",
            Self::Unavailable => "unavailable",
        }
    }

    /// The answer that has this status; of those that share one the first in `ALL`, and `NotYet` for a status of none.
    pub(crate) fn of(status: StatusCode) -> Self {
        let status = if status == StatusCode::OK { StatusCode::NO_CONTENT } else { status };
        Self::ALL.into_iter().find(|answer| answer.parts().0 == status).unwrap_or(Self::NotYet)
    }

    /// Status, words, and the seconds after which to try again.
    fn parts(self) -> (StatusCode, &'static str, Option<&'static str>) {
        match self {
            Self::Accepted => (StatusCode::NO_CONTENT, "", None),
            Self::Malformed => (StatusCode::BAD_REQUEST, "the body is not a report", None),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "send the token in FINETUNE_REPORT_TOKEN as a bearer token", None),
            Self::Forbidden => (StatusCode::FORBIDDEN, "only the training pods of a run report for it", None),
            Self::Slow => (StatusCode::REQUEST_TIMEOUT, "the request came too slowly", None),
            Self::OtherAttempt => (StatusCode::CONFLICT, "another attempt is current", None),
            Self::Ended => (StatusCode::GONE, "the run has ended", None),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 64 KiB", None),
            Self::TooMany => (StatusCode::TOO_MANY_REQUESTS, "too many posts", Some("1")),
            Self::NotYet => (StatusCode::SERVICE_UNAVAILABLE, "the operator does not know this attempt yet", Some("5")),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "the token could not be checked", Some("5")),
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let (status, words, retry_after) = self.parts();
        let mut response = (status, words).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static(seconds));
        }
        response
    }
}
