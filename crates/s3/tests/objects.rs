//! Objects through the wire: writing, reading, conditions, ranges, copies, deletes, uploads.
#![allow(clippy::unwrap_used)]

#[path = "support/client.rs"]
mod client;
#[path = "support/memory.rs"]
mod memory;

use client::{Client, start};
use s3::Settings;

async fn with_bucket() -> (Client, std::net::SocketAddr) {
    let (_, address) = start(Settings::default()).await;
    let mut main = Client::main(address).await;
    assert_eq!(main.put("/bucket", "").await.status, 200);
    (main, address)
}

#[tokio::test]
async fn what_was_put_is_got_with_its_headers() {
    let (mut main, _) = with_bucket().await;
    let headers = [
        ("content-type", "text/plain"),
        ("cache-control", "no-cache"),
        ("content-encoding", "gzip, aws-chunked"),
        ("x-amz-meta-colour", "blue"),
        ("x-amz-tagging", "a=b"),
    ];
    for size in [0, 1, 4096, 4097, 300_000, 1_000_000] {
        let body: Vec<u8> = (0..size).map(|at| (at * 7 % 251) as u8).collect();
        let put = main.send("PUT", "/bucket/a%20b/%C3%BC", &headers, &body).await;
        assert_eq!(put.status, 200, "{}", put.text());
        let got = main.get("/bucket/a%20b/%C3%BC").await;
        assert_eq!((got.status, got.body == body), (200, true), "{size}");
        for (name, value) in [
            ("content-type", "text/plain"),
            ("cache-control", "no-cache"),
            ("content-encoding", "gzip"),
            ("x-amz-meta-colour", "blue"),
            ("x-amz-tagging-count", "1"),
        ] {
            assert_eq!(got.header(name), Some(value));
        }
        assert_eq!(got.header("etag"), put.header("etag"));
        assert!(got.header("x-amz-request-id").is_some() && got.header("date").is_some());
        let head = main.send("HEAD", "/bucket/a%20b/%C3%BC", &[], b"").await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), Some(size.to_string().as_str()));
    }
    assert_eq!(main.get("/bucket/none").await.code(), "NoSuchKey");
    assert_eq!(main.get("/nobucket/none").await.code(), "NoSuchBucket");
}

#[tokio::test]
async fn ranges_and_overrides_answer_as_s3() {
    let (mut main, _) = with_bucket().await;
    main.put("/bucket/k", "0123456789").await;
    for (range, status, body) in [
        ("bytes=2-4", 206, "234"),
        ("bytes=7-", 206, "789"),
        ("bytes=-3", 206, "789"),
        ("bytes=0-100", 206, "0123456789"),
        ("bytes=4-2", 200, "0123456789"),
    ] {
        let got = main.send("GET", "/bucket/k", &[("range", range)], b"").await;
        assert_eq!((got.status, got.text().as_str()), (status, body), "{range}");
    }
    let got = main.send("GET", "/bucket/k", &[("range", "bytes=2-4")], b"").await;
    assert_eq!(got.header("content-range"), Some("bytes 2-4/10"));
    let got = main.send("GET", "/bucket/k", &[("range", "bytes=10-")], b"").await;
    assert_eq!((got.status, got.code().as_str()), (416, "InvalidRange"));
    let got = main.get("/bucket/k?response-content-type=text%2Fx").await;
    assert_eq!(got.header("content-type"), Some("text/x"));
    assert_eq!(main.get("/bucket/k?partNumber=1").await.status, 206);
    assert_eq!(main.get("/bucket/k?partNumber=2").await.code(), "InvalidPart");
}

#[tokio::test]
async fn conditional_writes_have_amazons_codes() {
    let (mut main, _) = with_bucket().await;
    let mut put = async |headers: &[(&str, &str)], body: &[u8]| {
        let answer = main.send("PUT", "/bucket/k", headers, body).await;
        (answer.status, answer.code(), answer.header("etag").map(str::to_owned))
    };
    assert_eq!(put(&[("if-match", "\"x\"")], b"0").await.0, 404, "If-Match on a missing key");
    let (status, _, etag) = put(&[("if-none-match", "*")], b"1").await;
    assert_eq!(status, 200);
    assert_eq!(put(&[("if-none-match", "*")], b"2").await.1, "PreconditionFailed");
    assert_eq!(put(&[("if-match", "\"x\"")], b"3").await.0, 412);
    assert_eq!(put(&[("if-match", &etag.unwrap())], b"4").await.0, 200);
    assert_eq!(main.get("/bucket/k").await.text(), "4");
    let got = main.send("GET", "/bucket/k", &[("if-none-match", "*")], b"").await;
    assert_eq!((got.status, got.body.len()), (304, 0));
    let got = main.send("GET", "/bucket/k", &[("if-match", "\"x\"")], b"").await;
    assert_eq!(got.status, 412);
}

#[tokio::test]
async fn copies_keep_or_replace_what_was_beside_the_bytes() {
    let (mut main, _) = with_bucket().await;
    let body = vec![7; 10_000];
    main.send("PUT", "/bucket/a", &[("x-amz-meta-m", "1"), ("content-type", "text/a")], &body).await;
    let source = ("x-amz-copy-source", "/bucket/a");
    assert_eq!(main.send("PUT", "/bucket/b", &[source], b"").await.status, 200);
    let got = main.get("/bucket/b").await;
    assert_eq!(
        (got.body == body, got.header("x-amz-meta-m"), got.header("content-type")),
        (true, Some("1"), Some("text/a"))
    );
    let replace = ("x-amz-metadata-directive", "REPLACE");
    assert_eq!(main.send("PUT", "/bucket/a", &[source, replace, ("x-amz-meta-n", "2")], b"").await.status, 200);
    let got = main.get("/bucket/a").await;
    assert_eq!((got.body == body, got.header("x-amz-meta-m"), got.header("x-amz-meta-n")), (true, None, Some("2")));
    assert_eq!(main.send("PUT", "/bucket/a", &[source], b"").await.code(), "InvalidRequest");
    let unmet = ("x-amz-copy-source-if-match", "\"x\"");
    assert_eq!(main.send("PUT", "/bucket/c", &[source, unmet], b"").await.status, 412);
    let missing = ("x-amz-copy-source", "/bucket/zzz");
    assert_eq!(main.send("PUT", "/bucket/c", &[missing], b"").await.code(), "NoSuchKey");
    // Another bucket has other keys: the bytes are written again.
    main.put("/other", "").await;
    assert_eq!(main.send("PUT", "/other/a", &[source], b"").await.status, 200);
    assert_eq!(main.get("/other/a").await.body, body);
}

fn complete(parts: &[(u16, &str)]) -> String {
    let part =
        |(number, etag): &(u16, &str)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    format!("<CompleteMultipartUpload>{}</CompleteMultipartUpload>", parts.iter().map(part).collect::<String>())
}

#[tokio::test]
async fn an_upload_in_parts_becomes_one_object() {
    let (mut main, _) = with_bucket().await;
    let begun = main.send("POST", "/bucket/k?uploads", &[("x-amz-meta-m", "1")], b"").await;
    let id = begun.get("UploadId").unwrap();
    let (first, last) = (vec![1; 5 << 20], vec![2; 1000]);
    let mut etags = Vec::new();
    for (number, bytes) in [(1, &first), (3, &last)] {
        let put = main.put(&format!("/bucket/k?partNumber={number}&uploadId={id}"), bytes).await;
        etags.push(put.header("etag").unwrap().to_owned());
    }
    let listed = main.get(&format!("/bucket/k?uploadId={id}")).await;
    assert_eq!(listed.all("PartNumber"), ["1", "3"]);
    assert_eq!(main.get("/bucket?uploads").await.all("UploadId"), std::slice::from_ref(&id));
    let uri = format!("/bucket/k?uploadId={id}");
    for (parts, code) in [
        (vec![(1, etags[0].as_str()), (2, "x")], "InvalidPart"),
        (vec![(3, etags[1].as_str()), (1, etags[0].as_str())], "InvalidPartOrder"),
        (vec![], "MalformedXML"),
    ] {
        let answer = main.send("POST", &uri, &[], complete(&parts).as_bytes()).await;
        assert_eq!(answer.code(), code);
    }
    let many: Vec<_> = (1..=10_001).map(|number| (number, "x")).collect();
    assert_eq!(main.send("POST", &uri, &[], complete(&many).as_bytes()).await.status, 400);
    let parts = complete(&[(1, &etags[0]), (3, &etags[1])]);
    for _ in 0..2 {
        // The second time is a client whose first answer was lost.
        let done = main.send("POST", &uri, &[], parts.as_bytes()).await;
        assert_eq!(done.status, 200, "{}", done.text());
        assert!(done.get("ETag").unwrap().ends_with("-2&quot;"));
    }
    let got = main.get("/bucket/k").await;
    assert_eq!((got.body == [first.clone(), last.clone()].concat(), got.header("x-amz-meta-m")), (true, Some("1")));
    let part = main.get("/bucket/k?partNumber=3").await;
    assert_eq!((part.status, part.body == last, part.header("x-amz-mp-parts-count")), (206, true, Some("2")));
    let range = format!("bytes={}-{}", (5 << 20) - 2, (5 << 20) + 1);
    assert_eq!(main.send("GET", "/bucket/k", &[("range", &range)], b"").await.body, [1, 1, 2, 2]);
    assert_eq!(main.get("/bucket?uploads").await.all("UploadId").len(), 0);
}

#[tokio::test]
async fn parts_too_small_are_refused_and_an_upload_can_be_dropped() {
    let (mut main, _) = with_bucket().await;
    let id = main.send("POST", "/bucket/k?uploads", &[], b"").await.get("UploadId").unwrap();
    let mut etags = Vec::new();
    for number in 1..=2 {
        let put = main.put(&format!("/bucket/k?partNumber={number}&uploadId={id}"), "small").await;
        etags.push(put.header("etag").unwrap().to_owned());
    }
    let uri = format!("/bucket/k?uploadId={id}");
    let parts = complete(&[(1, &etags[0]), (2, &etags[1])]);
    assert_eq!(main.send("POST", &uri, &[], parts.as_bytes()).await.code(), "EntityTooSmall");
    assert_eq!(main.put(&format!("/bucket/k?partNumber=10001&uploadId={id}"), "x").await.code(), "InvalidArgument");
    assert_eq!(main.put("/bucket/k?partNumber=1&uploadId=nonsense", "x").await.code(), "NoSuchUpload");
    assert_eq!(main.delete(&uri).await.status, 204);
    assert_eq!(main.delete(&uri).await.code(), "NoSuchUpload");
}

#[tokio::test]
async fn a_part_can_be_copied_from_a_range() {
    let (mut main, _) = with_bucket().await;
    main.put("/bucket/source", "0123456789").await;
    let id = main.send("POST", "/bucket/k?uploads", &[], b"").await.get("UploadId").unwrap();
    let uri = format!("/bucket/k?partNumber=1&uploadId={id}");
    let source = ("x-amz-copy-source", "bucket/source");
    let copied = main.send("PUT", &uri, &[source, ("x-amz-copy-source-range", "bytes=2-5")], b"").await;
    let etag = copied.get("ETag").unwrap();
    let bad = main.send("PUT", &uri, &[source, ("x-amz-copy-source-range", "bytes=2-50")], b"").await;
    assert_eq!(bad.code(), "InvalidRange");
    let done = main.send("POST", &format!("/bucket/k?uploadId={id}"), &[], complete(&[(1, &etag)]).as_bytes()).await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(main.get("/bucket/k").await.text(), "2345");
}

#[tokio::test]
async fn versions_and_markers_can_be_listed_read_and_removed() {
    let (mut main, _) = with_bucket().await;
    let on = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    assert_eq!(main.put("/bucket?versioning", on).await.status, 200);
    assert_eq!(main.get("/bucket?versioning").await.get("Status").as_deref(), Some("Enabled"));
    let first = main.put("/bucket/k", "1").await.header("x-amz-version-id").unwrap().to_owned();
    main.put("/bucket/k", "2").await;
    let deleted = main.delete("/bucket/k").await;
    assert_eq!(deleted.header("x-amz-delete-marker"), Some("true"));
    let marker = deleted.header("x-amz-version-id").unwrap().to_owned();
    let gone = main.get("/bucket/k").await;
    assert_eq!((gone.status, gone.header("x-amz-delete-marker")), (404, Some("true")));
    assert_eq!(main.get(&format!("/bucket/k?versionId={marker}")).await.status, 405);
    assert_eq!(main.get(&format!("/bucket/k?versionId={first}")).await.text(), "1");
    let listed = main.get("/bucket?versions").await;
    assert_eq!(listed.all("IsLatest"), ["true", "false", "false"]);
    let page = main.get("/bucket?versions&max-keys=2").await;
    let next = page.get("NextVersionIdMarker").unwrap();
    let page = main.get(&format!("/bucket?versions&key-marker=k&version-id-marker={next}")).await;
    assert_eq!(page.all("VersionId"), std::slice::from_ref(&first));
    assert_eq!(main.delete("/bucket").await.code(), "BucketNotEmpty");
    main.delete(&format!("/bucket/k?versionId={marker}")).await;
    assert_eq!(main.get("/bucket/k").await.text(), "2");
    assert_eq!(main.get("/bucket/k?versionId=nonsense").await.code(), "InvalidArgument");
}

#[tokio::test]
async fn many_are_deleted_at_once_each_with_its_answer() {
    let (mut main, _) = with_bucket().await;
    for key in ["a", "b", "c"] {
        main.put(&format!("/bucket/{key}"), key).await;
    }
    let object = |key: &str| format!("<Object><Key>{key}</Key></Object>");
    let body = format!(
        "<Delete>{}{}<Object><Key>c</Key><VersionId>bad</VersionId></Object></Delete>",
        object("a"),
        object("x")
    );
    let done = main.send("POST", "/bucket?delete", &[], body.as_bytes()).await;
    assert_eq!(done.all("Key"), ["a", "x", "c"]);
    assert_eq!(done.all("Code"), ["InvalidArgument"]);
    let quiet = format!("<Delete><Quiet>true</Quiet>{}</Delete>", object("b"));
    assert_eq!(main.send("POST", "/bucket?delete", &[], quiet.as_bytes()).await.all("Key").len(), 0);
    assert_eq!(main.get("/bucket").await.all("Key"), ["c"]);
    let many = format!("<Delete>{}</Delete>", object("k").repeat(1001));
    assert_eq!(main.send("POST", "/bucket?delete", &[], many.as_bytes()).await.code(), "MalformedXML");
    assert_eq!(main.send("POST", "/bucket?delete", &[], b"<Delete>").await.code(), "MalformedXML");
}

#[tokio::test]
async fn listings_page_roll_up_and_encode() {
    let (mut main, _) = with_bucket().await;
    for key in ["a/1", "a/2", "b", "c%20d", "e/1", "f"] {
        main.put(&format!("/bucket/{key}"), "x").await;
    }
    let listed = main.get("/bucket?delimiter=%2F").await;
    assert_eq!(listed.all("Key"), ["b", "c d", "f"]);
    assert_eq!(listed.all("Prefix"), ["", "a/", "e/"]);
    let page = main.get("/bucket?list-type=2&delimiter=%2F&max-keys=2&encoding-type=url").await;
    assert_eq!((page.all("Key"), page.get("KeyCount").as_deref()), (vec!["b".to_owned()], Some("2")));
    let token = page.get("NextContinuationToken").unwrap();
    let uri = format!("/bucket?list-type=2&delimiter=%2F&encoding-type=url&continuation-token={token}");
    let page = main.get(&uri).await;
    assert_eq!(
        (page.all("Key"), page.all("Prefix")),
        (vec!["c%20d".to_owned(), "f".into()], vec![String::new(), "e/".into()])
    );
    assert_eq!(main.get("/bucket?max-keys=0").await.get("IsTruncated").as_deref(), Some("false"));
    for bad in ["max-keys=x", "max-keys=-1", "encoding-type=x", "list-type=2&continuation-token=zz"] {
        assert_eq!(main.get(&format!("/bucket?{bad}")).await.code(), "InvalidArgument", "{bad}");
    }
    assert_eq!(main.get("/bucket?list-type=2&start-after=e").await.all("Key"), ["e/1", "f"]);
}
