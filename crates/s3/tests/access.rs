//! Who may do what, and what a bucket says of itself.
#![allow(clippy::unwrap_used)]

#[path = "support/client.rs"]
mod client;
#[path = "support/memory.rs"]
mod memory;

use client::{Client, start};
use s3::Settings;

#[tokio::test]
async fn strangers_see_only_what_acls_open() {
    let (_, address) = start(Settings::default()).await;
    let (mut main, mut alt, mut nobody) =
        (Client::main(address).await, Client::alt(address).await, Client::anonymous(address).await);
    main.put("/bucket", "").await;
    main.put("/bucket/private", "1").await;
    main.send("PUT", "/bucket/public", &[("x-amz-acl", "public-read")], b"2").await;
    main.send("PUT", "/bucket/signed", &[("x-amz-acl", "authenticated-read")], b"3").await;
    main.send("PUT", "/bucket/granted", &[("x-amz-grant-read", "id=\"alt-id\"")], b"4").await;
    for (key, alt_may, nobody_may) in
        [("private", false, false), ("public", true, true), ("signed", true, false), ("granted", true, false)]
    {
        let uri = format!("/bucket/{key}");
        assert_eq!(main.get(&uri).await.status, 200);
        assert_eq!(alt.get(&uri).await.status == 200, alt_may, "{key}");
        assert_eq!(nobody.get(&uri).await.status == 200, nobody_may, "{key}");
    }
    // Who may not list doesn't learn what is missing.
    for client in [&mut alt, &mut nobody] {
        assert_eq!(client.get("/bucket/missing").await.code(), "AccessDenied");
        for (method, uri) in [
            ("GET", "/bucket"),
            ("PUT", "/bucket/k"),
            ("DELETE", "/bucket/public"),
            ("PUT", "/bucket?versioning"),
            ("GET", "/bucket?acl"),
            ("GET", "/bucket?policy"),
            ("PUT", "/bucket/public?tagging"),
            ("POST", "/bucket/k?uploads"),
            ("DELETE", "/bucket"),
        ] {
            let answer = client.send(method, uri, &[], b"").await;
            assert_eq!(answer.status, 403, "{method} {uri}: {}", answer.text());
        }
    }
    assert_eq!(alt.put("/bucket", "").await.code(), "BucketAlreadyExists");
    assert_eq!(main.put("/bucket", "").await.status, 200);
    assert_eq!(nobody.get("/").await.code(), "AccessDenied");
    assert_eq!(alt.get("/").await.all("Name").len(), 0);
    assert_eq!(main.get("/").await.all("Name"), ["bucket"]);
    // A public access block takes back what groups were granted.
    let block = "<PublicAccessBlockConfiguration><IgnorePublicAcls>true</IgnorePublicAcls><BlockPublicAcls>true</BlockPublicAcls></PublicAccessBlockConfiguration>";
    assert_eq!(main.put("/bucket?publicAccessBlock", block).await.status, 200);
    assert_eq!(nobody.get("/bucket/public").await.status, 403);
    assert_eq!(alt.get("/bucket/granted").await.status, 200);
    let refused = main.send("PUT", "/bucket/k", &[("x-amz-acl", "public-read")], b"").await;
    assert_eq!(refused.code(), "AccessDenied");
}

#[tokio::test]
async fn an_object_written_by_another_user_is_theirs_until_acls_are_off() {
    let (_, address) = start(Settings::default()).await;
    let (mut main, mut alt) = (Client::main(address).await, Client::alt(address).await);
    main.send("PUT", "/bucket", &[("x-amz-acl", "public-read-write")], b"").await;
    assert_eq!(alt.put("/bucket/k", "theirs").await.status, 200);
    assert_eq!(main.get("/bucket/k").await.code(), "AccessDenied");
    assert_eq!(alt.get("/bucket/k?acl").await.all("ID"), ["alt-id", "alt-id"]);
    let enforced =
        "<OwnershipControls><Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule></OwnershipControls>";
    assert_eq!(main.put("/bucket?ownershipControls", enforced).await.code(), "InvalidBucketAclWithObjectOwnership");
    main.send("PUT", "/bucket?acl", &[("x-amz-acl", "private")], b"").await;
    assert_eq!(main.put("/bucket?ownershipControls", enforced).await.status, 200);
    assert_eq!(main.get("/bucket/k").await.text(), "theirs");
    assert_eq!(alt.get("/bucket/k").await.code(), "AccessDenied");
    let refused = main.send("PUT", "/bucket/x", &[("x-amz-acl", "public-read")], b"").await;
    assert_eq!(refused.code(), "AccessControlListNotSupported");
}

#[tokio::test]
async fn acls_are_set_by_document_and_read_back() {
    let (_, address) = start(Settings::default()).await;
    let mut main = Client::main(address).await;
    main.put("/bucket", "").await;
    let policy = |owner: &str, grantee: &str| {
        format!(
            "<AccessControlPolicy><Owner><ID>{owner}</ID></Owner><AccessControlList><Grant>\
             <Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"CanonicalUser\">{grantee}</Grantee>\
             <Permission>READ</Permission></Grant></AccessControlList></AccessControlPolicy>"
        )
    };
    for (owner, grantee, status) in [
        ("main-id", "<ID>alt-id</ID>", 200),
        ("main-id", "<EmailAddress>alt@test</EmailAddress>", 200),
        ("main-id", "<URI>http://acs.amazonaws.com/groups/global/AllUsers</URI>", 200),
        ("main-id", "<ID>nobody</ID>", 400),
        ("main-id", "<EmailAddress>nobody@test</EmailAddress>", 400),
        ("main-id", "<URI>http://x</URI>", 400),
        ("main-id", "", 400),
        ("alt-id", "<ID>alt-id</ID>", 403),
    ] {
        let answer = main.put("/bucket?acl", policy(owner, grantee)).await;
        assert_eq!(answer.status, status, "{grantee}: {}", answer.text());
    }
    assert_eq!(main.get("/bucket?acl").await.all("URI"), ["http://acs.amazonaws.com/groups/global/AllUsers"]);
    assert_eq!(main.put("/bucket?acl", "").await.code(), "MissingSecurityHeader");
}

#[tokio::test]
async fn what_was_never_configured_answers_as_at_amazon() {
    let (_, address) = start(Settings::default()).await;
    let mut main = Client::main(address).await;
    main.put("/bucket", "").await;
    for (sub, status, code) in [
        ("policy", 404, "NoSuchBucketPolicy"),
        ("lifecycle", 404, "NoSuchLifecycleConfiguration"),
        ("replication", 404, "ReplicationConfigurationNotFoundError"),
        ("encryption", 404, "ServerSideEncryptionConfigurationNotFoundError"),
        ("website", 404, "NoSuchWebsiteConfiguration"),
        ("object-lock", 404, "ObjectLockConfigurationNotFoundError"),
        ("cors", 404, "NoSuchCORSConfiguration"),
        ("tagging", 404, "NoSuchTagSet"),
        ("ownershipControls", 404, "OwnershipControlsNotFoundError"),
        ("publicAccessBlock", 404, "NoSuchPublicAccessBlockConfiguration"),
        ("inventory&id=x", 404, "NoSuchConfiguration"),
        ("logging", 200, ""),
        ("notification", 200, ""),
        ("accelerate", 200, ""),
        ("requestPayment", 200, ""),
        ("versioning", 200, ""),
        ("location", 200, ""),
        ("policyStatus", 200, ""),
        ("acl", 200, ""),
        ("inventory", 200, ""),
        ("metrics", 200, ""),
        ("analytics", 200, ""),
        ("intelligent-tiering", 200, ""),
    ] {
        let answer = main.get(&format!("/bucket?{sub}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{sub}");
    }
    for sub in ["policy", "lifecycle", "replication", "website", "object-lock", "logging", "notification"] {
        assert_eq!(main.put(&format!("/bucket?{sub}"), "<X/>").await.status, 501, "{sub}");
    }
    assert_eq!(main.delete("/bucket?policy").await.status, 204);
}

#[tokio::test]
async fn settings_read_back_and_go() {
    let (_, address) = start(Settings::default()).await;
    let mut main = Client::main(address).await;
    main.put("/bucket", "").await;
    main.put("/bucket/k", "").await;
    let tags = "<Tagging><TagSet><Tag><Key>b</Key><Value>2</Value></Tag><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>";
    let twice = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag><Tag><Key>a</Key><Value>2</Value></Tag></TagSet></Tagging>";
    for uri in ["/bucket?tagging", "/bucket/k?tagging"] {
        assert!(main.put(uri, tags).await.status < 300);
        assert_eq!(main.get(uri).await.all("Key"), ["a", "b"]);
        assert_eq!(main.put(uri, twice).await.code(), "InvalidTag");
        assert_eq!(main.delete(uri).await.status, 204);
    }
    let cors = "<CORSConfiguration><CORSRule><AllowedOrigin>http://*.test</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>";
    assert_eq!(main.put("/bucket?cors", cors).await.status, 200);
    let origin = ("origin", "http://a.test");
    let got = main.send("GET", "/bucket/k", &[origin], b"").await;
    assert_eq!(got.header("access-control-allow-origin"), Some("http://a.test"));
    let mut nobody = Client::anonymous(address).await;
    let asked = nobody.send("OPTIONS", "/bucket/k", &[origin, ("access-control-request-method", "GET")], b"").await;
    assert_eq!((asked.status, asked.header("access-control-allow-methods")), (200, Some("GET")));
    let asked = nobody.send("OPTIONS", "/bucket/k", &[origin, ("access-control-request-method", "PUT")], b"").await;
    assert_eq!(asked.status, 403);
    let encryption = "<X><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></X>";
    assert_eq!(main.put("/bucket?encryption", encryption).await.status, 200);
    let put = main.put("/bucket/k", "").await;
    assert_eq!(put.header("x-amz-server-side-encryption"), Some("AES256"));
}
