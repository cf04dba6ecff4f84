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
    for sub in ["lifecycle", "replication", "website", "logging", "notification"] {
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

/// A bucket of main's with this policy.
async fn with_policy(main: &mut Client, statements: &str) {
    main.put("/bucket", "").await;
    let policy = format!("{{\"Version\": \"2012-10-17\", \"Statement\": [{statements}]}}");
    let answer = main.put("/bucket?policy", policy).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
}

#[tokio::test]
async fn a_policy_opens_exactly_what_it_names() {
    let (_, address) = start(Settings::default()).await;
    let (mut main, mut alt, mut nobody) =
        (Client::main(address).await, Client::alt(address).await, Client::anonymous(address).await);
    with_policy(
        &mut main,
        "{\"Effect\": \"Allow\", \"Principal\": \"*\", \"Action\": \"s3:GetObject\", \"Resource\": \"arn:aws:s3:::bucket/open/*\"},
         {\"Effect\": \"Allow\", \"Principal\": {\"AWS\": \"alt-id\"}, \"Action\": [\"s3:PutObject\", \"s3:DeleteObject\"],
          \"Resource\": \"arn:aws:s3:::bucket/in/*\"},
         {\"Effect\": \"Allow\", \"Principal\": {\"AWS\": \"alt-id\"}, \"Action\": \"s3:ListBucket\",
          \"Resource\": \"arn:aws:s3:::bucket\", \"Condition\": {\"StringLike\": {\"s3:prefix\": \"in/*\"}}}",
    )
    .await;
    for key in ["open/1", "closed/1", "in/1", "in/2"] {
        main.put(&format!("/bucket/{key}"), "x").await;
    }
    for (who, method, uri, status) in [
        ("nobody", "GET", "/bucket/open/1", 200),
        ("nobody", "HEAD", "/bucket/open/1", 200),
        ("nobody", "GET", "/bucket/closed/1", 403),
        ("nobody", "PUT", "/bucket/in/3", 403),
        ("nobody", "GET", "/bucket", 403),
        ("alt", "GET", "/bucket/open/1", 200),
        ("alt", "GET", "/bucket/open/1?acl", 403),
        ("alt", "GET", "/bucket/in/1", 403),
        ("alt", "PUT", "/bucket/in/3", 200),
        ("alt", "PUT", "/bucket/open/3", 403),
        ("alt", "DELETE", "/bucket/in/1", 204),
        ("alt", "DELETE", "/bucket/closed/1", 403),
        ("alt", "GET", "/bucket", 403),
        ("alt", "GET", "/bucket?list-type=2&prefix=in%2F", 200),
        // Who may list a prefix may learn what is missing there.
        ("alt", "GET", "/bucket/open/missing", 403),
        ("nobody", "GET", "/bucket/in/missing", 403),
        ("alt", "GET", "/bucket/in/missing", 404),
        ("alt", "GET", "/bucket?policy", 403),
        ("alt", "PUT", "/bucket?tagging", 403),
    ] {
        let client = if who == "alt" { &mut alt } else { &mut nobody };
        let answer = client.send(method, uri, &[], b"").await;
        assert_eq!(answer.status, status, "{who} {method} {uri}");
    }
    // Each line of a request to delete many is judged by itself.
    let lines = "<Delete><Object><Key>in/2</Key></Object><Object><Key>closed/1</Key></Object></Delete>";
    let answer = alt.send("POST", "/bucket?delete", &[], lines.as_bytes()).await;
    assert_eq!(
        (answer.status, answer.all("Key"), answer.all("Code")),
        (200, vec!["in/2".into(), "closed/1".into()], vec!["AccessDenied".into()])
    );
    // Restricting public buckets leaves the owner alone with a bucket that everybody may read.
    assert_eq!(main.get("/bucket?policyStatus").await.get("IsPublic").as_deref(), Some("true"));
    let block = "<PublicAccessBlockConfiguration><RestrictPublicBuckets>true</RestrictPublicBuckets><BlockPublicPolicy>true</BlockPublicPolicy></PublicAccessBlockConfiguration>";
    assert_eq!(main.put("/bucket?publicAccessBlock", block).await.status, 200);
    assert_eq!(nobody.get("/bucket/open/1").await.status, 403);
    assert_eq!(main.get("/bucket/open/1").await.status, 200);
    let again = main.get("/bucket?policy").await.text();
    assert_eq!(main.put("/bucket?policy", again).await.code(), "AccessDenied");
    assert_eq!(main.delete("/bucket?policy").await.status, 204);
    assert_eq!(main.get("/bucket?policy").await.code(), "NoSuchBucketPolicy");
}

#[tokio::test]
async fn a_denial_binds_the_owner_but_not_from_the_policy_itself() {
    let (_, address) = start(Settings::default()).await;
    let (mut main, mut alt) = (Client::main(address).await, Client::alt(address).await);
    main.put("/bucket", "").await;
    main.send("PUT", "/bucket/k", &[("x-amz-acl", "public-read"), ("x-amz-tagging", "team=red")], b"x").await;
    with_policy(
        &mut main,
        "{\"Effect\": \"Deny\", \"Principal\": \"*\", \"Action\": \"s3:PutObject\", \"Resource\": \"arn:aws:s3:::bucket/*\",
          \"Condition\": {\"Null\": {\"s3:x-amz-server-side-encryption\": \"true\"}}},
         {\"Effect\": \"Deny\", \"Principal\": \"*\", \"Action\": [\"s3:GetBucketTagging\", \"s3:*Policy\"],
          \"Resource\": \"arn:aws:s3:::bucket\"},
         {\"Effect\": \"Deny\", \"Principal\": {\"AWS\": \"alt-id\"}, \"Action\": \"s3:GetObject\",
          \"Resource\": \"arn:aws:s3:::bucket/*\", \"Condition\": {\"StringEquals\": {\"s3:ExistingObjectTag/team\": \"red\"}}}",
    )
    .await;
    assert_eq!(main.put("/bucket/plain", "x").await.code(), "AccessDenied");
    let encrypted = [("x-amz-server-side-encryption", "AES256")];
    assert_eq!(main.send("PUT", "/bucket/sealed", &encrypted, b"x").await.status, 200);
    assert_eq!(main.get("/bucket?tagging").await.code(), "AccessDenied");
    // The ACL opens it, the policy closes it by its tag.
    assert_eq!(alt.get("/bucket/k").await.code(), "AccessDenied");
    main.delete("/bucket/k?tagging").await;
    assert_eq!(alt.get("/bucket/k").await.status, 200);
    // Parts are written as their upload was begun.
    let begun = main.send("POST", "/bucket/big?uploads", &encrypted, b"").await;
    let id = begun.get("UploadId").unwrap();
    assert_eq!(main.put(&format!("/bucket/big?partNumber=1&uploadId={id}"), "x").await.status, 200);
    assert_eq!(main.send("POST", "/bucket/plain?uploads", &[], b"").await.code(), "AccessDenied");
    assert_eq!(main.get("/bucket?policy").await.status, 200);
    assert_eq!(main.delete("/bucket?policy").await.status, 204);
    assert_eq!(main.put("/bucket/plain", "x").await.status, 200);
}

#[tokio::test]
async fn a_locked_version_stays_until_its_time() {
    let (_, address) = start(Settings::default()).await;
    let (mut main, mut alt) = (Client::main(address).await, Client::alt(address).await);
    let retain = |mode: &str, until: &str| {
        format!("<Retention><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>")
    };
    main.put("/plain", "").await;
    main.put("/plain/k", "x").await;
    assert_eq!(
        main.put("/plain/k?retention", retain("GOVERNANCE", "2140-01-01T00:00:00Z")).await.code(),
        "InvalidRequest"
    );
    let hold = [("x-amz-object-lock-legal-hold", "ON")];
    assert_eq!(main.send("PUT", "/plain/k", &hold, b"x").await.code(), "InvalidRequest");

    main.send("PUT", "/locked", &[("x-amz-bucket-object-lock-enabled", "true")], b"").await;
    assert_eq!(main.get("/locked?versioning").await.get("Status").as_deref(), Some("Enabled"));
    let suspend = "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>";
    assert_eq!(main.put("/locked?versioning", suspend).await.code(), "InvalidBucketState");
    let id = main.put("/locked/k", "x").await.header("x-amz-version-id").unwrap().to_owned();
    let (this, retention) = (format!("/locked/k?versionId={id}"), format!("/locked/k?retention=&versionId={id}"));
    let bypass = [("x-amz-bypass-governance-retention", "true")];

    // Governance: who bypasses it may shorten it and remove the version; nobody else.
    assert_eq!(main.put(&retention, retain("GOVERNANCE", "2140-01-01T00:00:00Z")).await.status, 200);
    assert_eq!(main.delete(&this).await.code(), "AccessDenied");
    assert_eq!(main.put(&retention, retain("GOVERNANCE", "2130-01-01T00:00:00Z")).await.code(), "AccessDenied");
    assert_eq!(
        main.send("PUT", &retention, &bypass, retain("GOVERNANCE", "2130-01-01T00:00:00Z").as_bytes()).await.status,
        200
    );
    assert_eq!(alt.send("DELETE", &this, &bypass, b"").await.code(), "AccessDenied");
    // A delete without version keeps every version.
    assert_eq!(main.delete("/locked/k").await.status, 204);
    let head = main.send("HEAD", &this, &[], b"").await;
    assert_eq!(head.header("x-amz-object-lock-mode"), Some("GOVERNANCE"));
    assert_eq!(head.header("x-amz-object-lock-retain-until-date"), Some("2130-01-01T00:00:00.000Z"));
    // A legal hold outweighs the bypass.
    let held = format!("/locked/k?legal-hold=&versionId={id}");
    assert_eq!(main.get(&held).await.code(), "NoSuchObjectLockConfiguration");
    assert_eq!(main.put(&held, "<LegalHold><Status>ON</Status></LegalHold>").await.status, 200);
    assert_eq!(main.send("DELETE", &this, &bypass, b"").await.code(), "AccessDenied");
    let lines = format!("<Delete><Object><Key>k</Key><VersionId>{id}</VersionId></Object></Delete>");
    assert_eq!(main.send("POST", "/locked?delete", &bypass, lines.as_bytes()).await.all("Code"), ["AccessDenied"]);
    assert_eq!(main.put(&held, "<LegalHold><Status>OFF</Status></LegalHold>").await.status, 200);
    assert_eq!(main.delete(&this).await.code(), "AccessDenied");
    assert_eq!(main.send("DELETE", &this, &bypass, b"").await.status, 204);

    // Compliance by the bucket's default: nobody.
    let rule = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
                <Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
    assert_eq!(main.put("/locked?object-lock", rule).await.status, 200);
    assert_eq!(main.get("/locked?object-lock").await.get("Days").as_deref(), Some("1"));
    let id = main.put("/locked/c", "x").await.header("x-amz-version-id").unwrap().to_owned();
    assert_eq!(main.send("DELETE", &format!("/locked/c?versionId={id}"), &bypass, b"").await.code(), "AccessDenied");
    let weaker = retain("GOVERNANCE", "2140-01-01T00:00:00Z");
    assert_eq!(main.send("PUT", "/locked/c?retention", &bypass, weaker.as_bytes()).await.code(), "AccessDenied");
    assert_eq!(main.delete("/locked").await.code(), "BucketNotEmpty");
}
