//! A web service with an API of its own and who asks it: turns answers into failures that name both.

use reqwest::Method;
use serde_json::Value;

use super::Context;
use crate::api::secret_ref::SecretKind;
use crate::preflight::dial::{Answer, Dialer, Login};
use crate::preflight::failure::Failure;
use crate::preflight::workspace::Workspace;

/// A service, and who asks it.
#[derive(Clone)]
pub(super) struct Service {
    dialer: Dialer,
    /// Where it is, without a slash at its end.
    pub(super) address: String,
    login: Login,
    /// Who asks, for people: `the token of Secret s`.
    credential: String,
}

impl Service {
    pub(super) fn new(context: &Context, address: &str, login: Login, credential: String) -> Self {
        Self { dialer: context.dialer.clone(), address: address.trim_end_matches('/').to_owned(), login, credential }
    }

    /// The Databricks workspace of the run's Secret.
    pub(super) fn databricks(context: &Context) -> Result<Self, Failure> {
        let secret = context.secrets.of(SecretKind::Databricks).map(|secret| &secret.name);
        let (Some(workspace), Some(secret)) = (Workspace::of(&context.secrets), secret) else {
            let message = "a Databricks workspace is needed: name a Secret of kind databricks in spec.secrets".to_owned();
            return Err(Failure::credential("NoCredentials", message));
        };
        Ok(Self::new(context, workspace.address(), workspace.login.clone(), format!("the token of Secret {secret}")))
    }

    /// Asks `path` below the address, which begins with a slash. What will be another answer a moment later was asked again before it is a
    /// failure; a redirect and a refused login are failures at once.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Value>, doing: &str) -> Result<Answer, Failure> {
        let answer = self.dialer.ask(method, &format!("{}{path}", self.address), &self.login, body).await;
        let answer = answer.map_err(|silence| Failure::of_silence(doing, &silence))?;
        if answer.is_transient() || matches!(answer.status, 300..=399 | 401) {
            return Err(self.failure(doing, &answer));
        }
        Ok(answer)
    }

    pub(super) async fn get(&self, path: &str, query: &[(&str, &str)], doing: &str) -> Result<Answer, Failure> {
        let query: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let mark = if query.is_empty() { "" } else { "?" };
        self.ask(Method::GET, &format!("{path}{mark}{query}"), None, doing).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value, doing: &str) -> Result<Answer, Failure> {
        self.ask(Method::POST, path, Some(body), doing).await
    }

    /// What an answer that is no success means.
    pub(super) fn failure(&self, doing: &str, answer: &Answer) -> Failure {
        Failure::of_answer(doing, answer, &self.credential)
    }

    /// The items of a list that comes in pages, under `key` of each; at most `pages` of them are read.
    pub(super) async fn all(
        &self,
        path: &str,
        query: &[(&str, &str)],
        key: &str,
        pages: usize,
        doing: &str,
    ) -> Result<Result<Vec<Value>, Answer>, Failure> {
        let mut items = Vec::new();
        let mut token = String::new();
        for _ in 0..pages {
            let page = (!token.is_empty()).then_some(("page_token", token.as_str()));
            let query: Vec<_> = query.iter().copied().chain(page).collect();
            let mut answer = self.get(path, &query, doing).await?;
            if answer.status != 200 {
                return Ok(Err(answer));
            }
            if let Value::Array(found) = answer.body[key].take() {
                items.extend(found);
            }
            match answer.body["next_page_token"].as_str() {
                Some(next) if !next.is_empty() => next.clone_into(&mut token),
                _ => break,
            }
        }
        Ok(Ok(items))
    }
}

/// A text as one part of a path.
pub(super) fn escaped(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}
