//! A Databricks workspace as a Secret names it, and the files of its volumes as an object store.

use object_store::ObjectMeta;
use object_store::path::Path;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use url::Url;

use super::dial::{Dialer, Login, Silence};
use super::mounted::Mounted;
use super::remote::{Page, Protocol, time};
use crate::api::secret_ref::SecretKind;

/// A workspace, and who speaks to it.
#[derive(Clone)]
pub(super) struct Workspace {
    address: Url,
    pub(super) login: Login,
}

impl std::fmt::Debug for Workspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Workspace({})", self.address)
    }
}

impl Workspace {
    /// The workspace of the Secret of kind databricks.
    pub(super) fn of(secrets: &Mounted) -> Option<Self> {
        let value = |key| secrets.value(SecretKind::Databricks, key);
        Some(Self { address: address(&value("DATABRICKS_HOST")?)?, login: Login::Token(value("DATABRICKS_TOKEN")?) })
    }

    /// `https://host`, without a slash.
    pub(super) fn address(&self) -> &str {
        self.address.as_str().trim_end_matches('/')
    }

    fn at(&self, kind: &str, path: &Path) -> Url {
        let mut url = self.address.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(["api", "2.0", "fs", kind]).extend(path.parts().map(|part| part.as_ref().to_owned()));
        }
        url
    }
}

/// The address of a workspace: of a host or a URL only the host counts. Without a scheme it is spoken to over TLS.
pub(super) fn address(text: &str) -> Option<Url> {
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url =
        Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none())?;
    Url::parse(&url[..url::Position::BeforePath]).ok()
}

/// The Files API. Paths begin with `Volumes`.
#[async_trait::async_trait]
impl Protocol for Workspace {
    const NAME: &'static str = "volumes";

    fn object(&self, path: &Path) -> Url {
        self.at("files", path)
    }

    fn target(&self, path: &Path, only_new: bool) -> Url {
        let mut url = self.at("files", path);
        url.query_pairs_mut().append_pair("overwrite", if only_new { "false" } else { "true" });
        url
    }

    fn listing(&self, folder: &Path, page: Option<&str>) -> Url {
        let mut url = self.at("directories", folder);
        url.query_pairs_mut().append_pair("page_size", "1000").extend_pairs(page.map(|page| ("page_token", page)));
        url
    }

    fn page(&self, folder: &Path, body: &Value) -> Option<Page> {
        let mut page = Page { next: body["next_page_token"].as_str().filter(|token| !token.is_empty()).map(str::to_owned), ..Page::default() };
        for entry in body.get("contents").and_then(Value::as_array).into_iter().flatten() {
            let path = Path::parse(entry["path"].as_str()?).ok()?;
            // Only what lies in the folder: else a service could lead the walk in a circle.
            if path.prefix_match(folder)?.count() != 1 {
                return None;
            }
            if entry["is_directory"] == true {
                page.folders.push(path);
            } else {
                let size = entry["file_size"].as_u64().unwrap_or_default();
                page.objects.push(ObjectMeta { location: path, last_modified: time(&entry["last_modified"]), size, e_tag: None, version: None });
            }
        }
        Some(page)
    }

    fn request(&self, dialer: &Dialer, method: Method, url: &Url) -> Result<RequestBuilder, Silence> {
        dialer.request(method, url, &self.login)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn a_workspace_is_a_host() {
        for text in ["dbc-1.cloud.databricks.com", "https://dbc-1.cloud.databricks.com/", "https://dbc-1.cloud.databricks.com/?o=12#job/1"] {
            assert_eq!(address(text).unwrap().as_str(), "https://dbc-1.cloud.databricks.com/", "{text}");
        }
        for text in ["https://u:p@h", "", "https://", "file:///x"] {
            assert_eq!(address(text), None, "{text}");
        }
    }

    #[test]
    fn a_page_is_of_its_folder_only() {
        let workspace = Workspace { address: address("h").unwrap(), login: Login::Nobody };
        let folder = Path::parse("Volumes/a/b/c").unwrap();
        let body = serde_json::json!({"contents": [
            {"path": "/Volumes/a/b/c/x y.txt", "is_directory": false, "file_size": 5, "last_modified": 1_000},
            {"path": "/Volumes/a/b/c/d", "is_directory": true}], "next_page_token": "t"});
        let object = ObjectMeta {
            location: Path::parse("Volumes/a/b/c/x y.txt").unwrap(),
            last_modified: DateTime::from_timestamp_millis(1_000).unwrap(),
            size: 5,
            e_tag: None,
            version: None,
        };
        let expected = Page { objects: vec![object], folders: vec![Path::parse("Volumes/a/b/c/d").unwrap()], next: Some("t".into()) };
        assert_eq!(workspace.page(&folder, &body), Some(expected));
        assert_eq!(workspace.page(&folder, &serde_json::json!({})), Some(Page::default()));
        for path in ["/Volumes/a/b", "/Volumes/a/b/c", "/Volumes/a/b/c/d/e", "/Volumes/a/b/x", "/Volumes/a/b/c/../x"] {
            assert_eq!(workspace.page(&folder, &serde_json::json!({"contents": [{"path": path, "is_directory": true}]})), None, "{path}");
        }
        assert_eq!(workspace.object(&Path::parse("Volumes/a/ü %2F/c").unwrap()).path(), "/api/2.0/fs/files/Volumes/a/%C3%BC%20%252F/c");
    }
}
