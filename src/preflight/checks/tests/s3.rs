use axum::body::{Body, Bytes};
use futures::stream;
use serde_json::json;

use crate::preflight::fake::{CANARY, Server, answer, context, failed, failures, plan, redirect};

fn s3_plan(folder: &std::path::Path, server: &Server) -> serde_json::Value {
    let mut plan = plan(folder);
    plan["train"] = json!("s3://data/train.jsonl");
    plan["s3"] = json!({"endpointUrl": server.address, "region": "eu-west-1"});
    plan
}

fn error(code: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message><AWSAccessKeyId>the-key-id</AWSAccessKeyId><X>{CANARY}</X></Error>"
    )
}

#[tokio::test]
async fn a_refused_key_is_a_credential_error_that_names_bucket_and_secret() {
    for (status, code, reason, hint) in [
        (403, "SignatureDoesNotMatch", "SignatureDoesNotMatch", "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in Secret my-s3"),
        (403, "InvalidAccessKeyId", "InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in Secret my-s3"),
        (
            403,
            "AccessDenied",
            "AccessDenied",
            "allow that key to use the bucket, or check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in Secret my-s3",
        ),
        (400, "ExpiredToken", "ExpiredToken", "put a new session token into Secret my-s3"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::answering(move |_| answer(status, error(code))).await;
        let message = format!(
            "spec.trainDataPath: cannot read s3://data/train.jsonl (bucket data): the store answered {status} {code} to the key of Secret my-s3; {hint}"
        );
        let expected = vec![failed("TrainData", "CredentialError", reason, &message)];
        assert_eq!(failures(&context(&s3_plan(folder.path(), &server), &[])).await, expected);
        // HEAD has no body: the second request asks why.
        assert_eq!(server.asked(), ["HEAD /data/train.jsonl", "GET /data/train.jsonl"]);
    }
}

#[tokio::test]
async fn requests_are_signed_for_the_region_with_key_and_session_token() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering(|_| answer(200, "x")).await;
    let plan = s3_plan(folder.path(), &server);
    std::fs::remove_file(folder.path().join("s3/AWS_ACCESS_KEY_ID")).unwrap();
    let profiles = "[other]\naws_access_key_id=no\n[mine]\naws_access_key_id=the-key-id\naws_secret_access_key=canary-of-a-secret\n";
    std::fs::write(folder.path().join("s3/credentials"), profiles).unwrap();
    let mut plan = plan;
    plan["secrets"][0]["profile"] = json!("mine");
    let _ = failures(&context(&plan, &[])).await;
    let authorization = server.seen()[0].authorization.clone().unwrap();
    assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=the-key-id/"), "{authorization}");
    assert!(authorization.contains("/eu-west-1/s3/aws4_request"), "{authorization}");
}

#[tokio::test]
async fn what_is_not_there_is_the_users_to_mend() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering(|seen| match seen.method.as_str() {
        "HEAD" => answer(404, ""),
        _ => answer(200, "<ListBucketResult></ListBucketResult>"),
    })
    .await;
    let message = "spec.trainDataPath: s3://data/train.jsonl does not exist; upload it or name another";
    let expected = vec![failed("TrainData", "UserError", "ObjectMissing", message)];
    assert_eq!(failures(&context(&s3_plan(folder.path(), &server), &[])).await, expected);

    let server = Server::answering(|_| answer(404, error("NoSuchBucket"))).await;
    let message = "spec.trainDataPath: cannot read s3://data/train.jsonl: there is no bucket data; make it or name another";
    let expected = vec![failed("TrainData", "UserError", "BucketMissing", message)];
    assert_eq!(failures(&context(&s3_plan(folder.path(), &server), &[])).await, expected);
}

#[tokio::test]
async fn a_store_that_is_busy_is_asked_again_and_is_never_the_users_fault() {
    for status in [500, 503, 429] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::answering(move |_| answer(status, error("SlowDown"))).await;
        let message = format!("spec.trainDataPath: cannot read s3://data/train.jsonl: the store answered {status} SlowDown each time it was asked");
        let expected = vec![failed("TrainData", "Infrastructure", "ServiceUnavailable", &message)];
        assert_eq!(failures(&context(&s3_plan(folder.path(), &server), &[])).await, expected);
        assert_eq!(server.seen().len(), 8, "four times HEAD, four times GET");
    }
}

#[tokio::test]
async fn a_busy_store_that_recovers_passes() {
    let folder = tempfile::tempdir().unwrap();
    let tries = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let server = Server::answering(move |_| {
        let number = tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let mut response = if number < 2 { answer(503, "") } else { answer(200, "xyz") };
        response.headers_mut().insert("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT".parse().unwrap());
        response
    })
    .await;
    assert_eq!(failures(&context(&s3_plan(folder.path(), &server), &[])).await, Vec::<[String; 4]>::new());
    assert_eq!(server.asked(), ["HEAD /data/train.jsonl"; 3]);
}

#[tokio::test]
async fn an_endless_error_is_read_to_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering(|_| {
        let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 4096])));
        answer(403, Body::from_stream(endless))
    })
    .await;
    let failures = failures(&context(&s3_plan(folder.path(), &server), &[])).await;
    assert_eq!(failures[0][2], "AccessDenied");
}

#[tokio::test]
async fn a_redirect_is_never_followed() {
    let folder = tempfile::tempdir().unwrap();
    let target = Server::answering(|_| answer(200, "x")).await;
    let to = target.address.clone();
    let server = Server::answering(move |_| redirect(307, &to)).await;
    let message = "spec.trainDataPath: cannot read s3://data/train.jsonl: bucket data is in another region or at another address; set spec.s3.region and \
                   spec.s3.endpointUrl";
    let expected = vec![failed("TrainData", "UserError", "RegionMismatch", message)];
    assert_eq!(failures(&context(&s3_plan(folder.path(), &server), &[])).await, expected);
    assert_eq!(target.seen(), []);
}

#[tokio::test]
async fn a_folder_of_text_needs_a_text_file_at_any_depth() {
    let folder = tempfile::tempdir().unwrap();
    let page = |entries: &[(&str, u64)]| {
        let entries = entries.iter().map(|(key, size)| {
            format!("<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag><Size>{size}</Size></Contents>")
        });
        format!("<ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>", entries.collect::<String>())
    };
    for (entries, reason) in [
        (vec![], Some(("UserError", "ObjectMissing"))),
        (vec![("text/a.md", 5)], Some(("DataError", "NoTextFiles"))),
        (vec![("text/a.txt", 0)], Some(("DataError", "EmptyData"))),
        (vec![("text/a.md", 5), ("text/b/c.txt", 1)], None),
    ] {
        let body = page(&entries);
        let server = Server::answering(move |_| answer(200, body.clone())).await;
        let mut plan = s3_plan(folder.path(), &server);
        plan["train"] = json!("s3://data/text/");
        plan["taskType"] = json!("CONTINUED_PRETRAIN");
        let found: Vec<_> = failures(&context(&plan, &[])).await.into_iter().map(|[_, class, reason, _]| (class, reason)).collect();
        let expected: Vec<_> = reason.into_iter().map(|(class, reason)| (class.to_owned(), reason.to_owned())).collect();
        assert_eq!(found, expected, "{entries:?}");
    }
}
