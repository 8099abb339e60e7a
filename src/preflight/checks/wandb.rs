//! `Wandb`: the key is that of somebody who may log for the entity. Asks who the key belongs to.

use reqwest::Method;
use serde_json::json;

use super::{Context, Outcome};
use crate::api::secret_ref::SecretKind;
use crate::preflight::dial::Login;
use crate::preflight::failure::Failure;
use crate::preflight::plan::WandbTarget;

const MAX_PROJECT: usize = 128;
const NOT_IN_PROJECT: [char; 6] = ['/', '\\', '#', '?', '%', ':'];
const PUBLIC: &str = "https://api.wandb.ai";
const QUERY: &str = "query { viewer { username entity teams { edges { node { name } } } } }";

pub(super) async fn check(context: &Context, target: &WandbTarget) -> Outcome {
    // The client refuses it when training starts. A project that is not there is made by the first run.
    if target.project.chars().count() > MAX_PROJECT || target.project.contains(NOT_IN_PROJECT) {
        let message = format!("{} is no name of a project: at most {MAX_PROJECT} characters, and none of / \\ # ? % :", target.project);
        return Err(Failure::user("ProjectNameInvalid", message));
    }
    let Some(secret) = context.secrets.of(SecretKind::Wandb) else {
        let message = "logging to Weights & Biases needs a key: name a Secret of kind wandb in spec.secrets".to_owned();
        return Err(Failure::credential("NoCredentials", message));
    };
    let key = context.secrets.value(SecretKind::Wandb, "WANDB_API_KEY").unwrap_or_default();
    let address = context.environment.get("WANDB_BASE_URL").map_or(PUBLIC, String::as_str).trim_end_matches('/');
    let doing = format!("log in at {address}");
    let login = Login::User("api".to_owned(), key);
    let answer = context.dialer.ask(Method::POST, &format!("{address}/graphql"), &login, Some(&json!({"query": QUERY}))).await;
    let answer = answer.map_err(|silence| Failure::of_silence(&doing, &silence))?;
    if answer.status != 200 {
        return Err(Failure::of_answer(&doing, &answer, &format!("the key of Secret {}", secret.name)));
    }
    let viewer = &answer.body["data"]["viewer"];
    if !viewer.is_object() {
        let message = format!("cannot {doing}: WANDB_API_KEY in Secret {} belongs to nobody; put a valid key there", secret.name);
        return Err(Failure::credential("Unauthenticated", message));
    }
    let teams = viewer["teams"]["edges"].as_array().into_iter().flatten().map(|edge| &edge["node"]["name"]);
    let may = [&viewer["username"], &viewer["entity"]].into_iter().chain(teams).any(|name| name.as_str() == Some(&target.entity));
    if !may {
        let message = format!("the key of Secret {} may not log for the entity {}: join that team or set another entity", secret.name, target.entity);
        return Err(Failure::credential("EntityNotAccessible", message));
    }
    Ok(())
}
