//! What the server does with connections: limits, keep-alive, refusals, its end.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "support/client.rs"]
mod client;
#[path = "support/memory.rs"]
mod memory;

use std::sync::Arc;
use std::time::Duration;

use client::{Client, USERS, start};
use env::Env;
use s3::Settings;

#[tokio::test]
async fn a_head_too_big_is_refused() {
    let (_, address) = start(Settings::default()).await;
    let mut client = Client::anonymous(address).await;
    client.raw(format!("GET /{} HTTP/1.1\r\nhost: x\r\nx-big: {}\r\n\r\n", "k", "v".repeat(100_000)).as_bytes()).await;
    let answer = client.rest().await;
    assert!(answer.starts_with(b"HTTP/1.1 431"), "{:?}", String::from_utf8_lossy(&answer[..40.min(answer.len())]));
}

#[tokio::test]
async fn a_head_that_dribbles_or_never_comes_is_cut() {
    let settings = Settings { idle: Duration::from_millis(200), ..Settings::default() };
    let (face, address) = start(settings).await;
    for begun in ["", "GET / HT"] {
        let mut client = Client::anonymous(address).await;
        client.raw(begun.as_bytes()).await;
        // Ends only because the server closes.
        client.rest().await;
    }
    // An answered request does not keep its connection for ever either.
    let mut client = Client::anonymous(address).await;
    assert_eq!(client.get("/").await.status, 403);
    assert!(client.rest().await.is_empty());
    while face.metrics().connections() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up() {
    let settings = Settings { stall: Duration::from_millis(200), ..Settings::default() };
    let (_, address) = start(settings).await;
    let mut main = Client::main(address).await;
    main.put("/bucket", "").await;
    main.send("PUT", "/bucket?acl", &[("x-amz-acl", "public-read-write")], b"").await;
    let mut client = Client::anonymous(address).await;
    client.raw(b"PUT /bucket/k HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nbut only these").await;
    let answer = client.read(false).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "RequestTimeout"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(main.get("/bucket/k").await.code(), "NoSuchKey");
}

#[tokio::test]
async fn a_truncated_body_stores_nothing() {
    let (_, address) = start(Settings::default()).await;
    let mut main = Client::main(address).await;
    main.put("/bucket", "").await;
    main.send("PUT", "/bucket?acl", &[("x-amz-acl", "public-read-write")], b"").await;
    let mut client = Client::anonymous(address).await;
    client.raw(b"PUT /bucket/k HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nbut only these").await;
    drop(client);
    let mut other = Client::anonymous(address).await;
    client_sends_whole(&mut other).await;
    assert_eq!(main.get("/bucket").await.all("Key"), ["whole"]);
}

async fn client_sends_whole(client: &mut Client) {
    assert_eq!(client.put("/bucket/whole", "whole").await.status, 200);
}

#[tokio::test]
async fn refusals_keep_the_connection_after_small_bodies_and_close_it_after_big_ones() {
    let (_, address) = start(Settings::default()).await;
    let mut client = Client::anonymous(address).await;
    for _ in 0..2 {
        let answer = client.put("/nobucket/k", vec![0; 10_000]).await;
        assert_eq!((answer.code().as_str(), answer.header("connection")), ("NoSuchBucket", None));
    }
    client.raw(b"PUT /nobucket/k HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n").await;
    assert_eq!(client.read(false).await.header("connection"), Some("close"));
    // Who asks first isn't invited.
    let mut client = Client::anonymous(address).await;
    client.raw(b"PUT /nobucket/k HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.read(false).await.status, 404);
}

#[tokio::test]
async fn an_xml_body_too_big_is_refused() {
    let (_, address) = start(Settings { xml_bytes_max: 1000, ..Settings::default() }).await;
    let mut main = Client::main(address).await;
    main.put("/bucket", "").await;
    let answer = main.put("/bucket?tagging", "<".repeat(1001)).await;
    assert_eq!(answer.code(), "MaxMessageLengthExceeded");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let (face, address) = start(Settings { connections_max: 2, ..Settings::default() }).await;
    let mut kept = vec![Client::anonymous(address).await, Client::anonymous(address).await];
    for client in &mut kept {
        client.get("/").await;
    }
    assert!(Client::anonymous(address).await.rest().await.is_empty());
    assert_eq!((face.metrics().connections(), face.metrics().connections_refused()), (2, 1));
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_closes_what_is_idle() {
    let env = Env::real();
    let listener = env.net.bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.address().unwrap();
    let store = Arc::new(memory::Memory::new(env.clone(), USERS));
    let face = Arc::new(s3::Face::new(env, store, Settings::default()));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(s3::serve(listener, face, async {
        let _ = stopped.await;
    }));
    let mut main = Client::main(address).await;
    main.put("/bucket", "").await;
    main.send("PUT", "/bucket?acl", &[("x-amz-acl", "public-read-write")], b"").await;
    let mut idle = Client::anonymous(address).await;
    idle.get("/").await;
    let mut busy = Client::anonymous(address).await;
    busy.raw(b"PUT /bucket/k HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n12").await;
    // A second answer on the same path proves that the server has the request's head.
    main.get("/bucket").await;
    stop.send(()).unwrap();
    assert!(idle.rest().await.is_empty());
    busy.raw(b"34").await;
    assert_eq!(busy.read(false).await.status, 200);
    serving.await.unwrap();
}

#[tokio::test]
async fn what_is_not_s3_is_asked_aside() {
    let env = Env::real();
    let listener = env.net.bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.address().unwrap();
    let store = Arc::new(memory::Memory::new(env.clone(), USERS));
    let aside: s3::Aside = Arc::new(|_, path| {
        (path == "/health")
            .then(|| s3::response::with_body(hyper::StatusCode::OK, s3::response::Body::Full("well".into())))
    });
    let face = Arc::new(s3::Face::new(env, store, Settings::default()).with_aside(aside));
    tokio::spawn(s3::serve(listener, face, std::future::pending()));
    let mut client = Client::anonymous(address).await;
    assert_eq!(client.get("/health").await.text(), "well");
    assert_eq!(client.get("/healthy").await.code(), "NoSuchBucket");
}

#[tokio::test]
async fn requests_are_counted() {
    let (face, address) = start(Settings::default()).await;
    let mut main = Client::main(address).await;
    main.put("/bucket", "").await;
    main.put("/bucket/k", "12345").await;
    main.get("/bucket/k").await;
    main.get("/bucket/none").await;
    let all = face.metrics().snapshot();
    let of = |name: &str| all.iter().find(|one| one.operation == name).unwrap().clone();
    assert_eq!((of("PutObject").requests, of("PutObject").bytes_in), (1, 5));
    assert_eq!((of("GetObject").requests, of("GetObject").refused), (2, 1));
    assert!(of("GetObject").bytes_out >= 5);
}
