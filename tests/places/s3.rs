//! An S3 server, with keys that may do everything, only read, or not delete.

use std::fmt::Write as _;

use ring::hmac;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::server::{Server, client};
use crate::testbed;
use crate::{context, exercise, expect, plan, reasons};

const ADMIN: (&str, &str) = ("the-key-id", "canary-of-a-secret");

async fn server(folder: &std::path::Path) -> Server {
    let minio = testbed::program().with_file_name("minio");
    let environment = [("MINIO_ROOT_USER", ADMIN.0), ("MINIO_ROOT_PASSWORD", ADMIN.1)];
    // A folder is a bucket.
    std::fs::create_dir_all(folder.join("data")).expect("the folder is ours");
    let folder = folder.display().to_string();
    let arguments = move |port: u16| ["server", "--quiet", "--address", &format!("127.0.0.1:{port}"), &folder].map(str::to_owned).to_vec();
    Server::start(&minio, &environment, arguments, "/minio/health/ready").await
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A session of the administrator that may do only what `actions` name.
async fn session(server: &Server, actions: &[&str]) -> [(&'static str, String); 3] {
    let policy = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": ["arn:aws:s3:::*"]}]}).to_string();
    let form = [("Action", "AssumeRole"), ("Version", "2011-06-15"), ("Policy", &policy), ("DurationSeconds", "3600")];
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let now: chrono::DateTime<chrono::Utc> = std::time::SystemTime::now().into();
    let (day, time) = (now.format("%Y%m%d").to_string(), now.format("%Y%m%dT%H%M%SZ").to_string());
    let host = server.address.trim_start_matches("http://");
    let digest = hex(&Sha256::digest(&body));
    let signed = "content-type;host;x-amz-date";
    let request = format!("POST\n/\n\ncontent-type:application/x-www-form-urlencoded\nhost:{host}\nx-amz-date:{time}\n\n{signed}\n{digest}");
    let scope = format!("{day}/us-east-1/sts/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(request)));
    let sign = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let key = [&day, "us-east-1", "sts", "aws4_request"]
        .iter()
        .fold(format!("AWS4{}", ADMIN.1).into_bytes(), |key, part| sign(&key, part).as_ref().to_vec());
    let signature = hex(sign(&key, &text).as_ref());
    let answer = client()
        .post(format!("{}/", server.address))
        .header("content-type", "application/x-www-form-urlencoded")
        .header("x-amz-date", time)
        .header("authorization", format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}", ADMIN.0))
        .body(body);
    let answer = answer.send().await.expect("it answers").text().await.expect("it answers in text");
    let field = |name: &str| {
        let rest = answer.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name}: {answer}")).1;
        rest.split_once('<').expect("it ends").0.to_owned()
    };
    [("AWS_ACCESS_KEY_ID", field("AccessKeyId")), ("AWS_SECRET_ACCESS_KEY", field("SecretAccessKey")), ("AWS_SESSION_TOKEN", field("SessionToken"))]
}

#[tokio::test]
async fn a_bucket_is_read_written_and_claimed_and_each_refusal_has_its_reason() {
    let folder = tempfile::tempdir().expect("there is room");
    let server = server(&folder.path().join("server")).await;
    let at = |root: &str, keys: &[(&str, &str)]| {
        let mut plan = plan(folder.path(), root, "s3", keys);
        plan["s3"] = json!({"endpointUrl": server.address, "region": "us-east-1"});
        context(&plan)
    };
    let admin = [("AWS_ACCESS_KEY_ID", ADMIN.0), ("AWS_SECRET_ACCESS_KEY", ADMIN.1)];
    let all = at("s3://data/x", &admin);
    let file = all.stores.open("s3://data/x/data/train.jsonl").expect("it opens");
    object_store::ObjectStoreExt::put(&*file.store, &file.path, "{\"prompt\":\"a\",\"response\":\"b\"}\n".into()).await.expect("it is written");
    exercise(&all, "s3://data/x").await;

    let both = |reason| expect(&[("SaveFolder", reason), ("TrainData", reason)]);
    for (root, keys, expected) in [
        ("s3://none/x", admin, both("BucketMissing")),
        ("s3://data/x", [admin[0], ("AWS_SECRET_ACCESS_KEY", "canary-of-another")], both("SignatureDoesNotMatch")),
        ("s3://data/x", [("AWS_ACCESS_KEY_ID", "nobody"), admin[1]], both("InvalidAccessKeyId")),
    ] {
        let (failed, said) = reasons(&at(root, &keys)).await;
        assert_eq!(failed, expected, "{said}");
        assert!(!said.contains("canary") && !said.contains("the-key-id"), "{said}");
    }

    for (actions, expected) in [
        (&["s3:GetObject", "s3:ListBucket"][..], &[("SaveFolder", "AccessDenied")][..]),
        (&["s3:PutObject", "s3:GetObject"], &[("SaveFolder", "AccessDenied")]),
        (&["s3:PutObject", "s3:DeleteObject"], &[("SaveFolder", "AccessDenied"), ("TrainData", "AccessDenied")]),
        (&["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], &[]),
    ] {
        let session = session(&server, actions).await;
        let keys = session.each_ref().map(|(key, value)| (*key, value.as_str()));
        let (failed, said) = reasons(&at("s3://data/x", &keys)).await;
        assert_eq!(failed, expect(expected), "{actions:?}: {said}");
        assert!(!said.contains(&session[1].1) && !said.contains(&session[2].1), "{said}");
    }
}
