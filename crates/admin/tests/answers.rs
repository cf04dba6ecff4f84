//! The control interface as its clients see it: through the wire, over a real node.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test of the real world")]

use std::net::SocketAddr;

use admin::Shown;
use env::Env;
use node::{Node, Settings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct World {
    node: Node,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

impl World {
    async fn new(drives: usize) -> Self {
        let (env, dir) = (Env::real(), tempfile::tempdir().unwrap());
        let drives = (1..=drives).map(|number| dir.path().join(format!("d{number}"))).collect();
        let started = Node::open(env.clone(), Settings::new(drives, dir.path().join("home"))).await.unwrap();
        let listener = env.net.bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.address().unwrap();
        let shown = Shown { endpoint: "http://127.0.0.1:9000".into(), region: "eu-north-7".into() };
        env.spawn("control", admin::serve(env.clone(), listener, started.node.clone(), shown));
        Self { node: started.node, address, dir }
    }

    /// The status and the JSON of an answer to these bytes.
    async fn send(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: abide\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        // A body that is too long is refused before all of it was sent.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
        assert!(head.contains("content-type: application/json"), "{head}");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.send("GET", path, b"").await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn post(&self, path: &str, wish: Value) -> (u16, Value) {
        self.send("POST", path, wish.to_string().as_bytes()).await
    }

    /// New data would survive less: it is refused, and done once the outcome's code is repeated.
    async fn insist(&self, path: &str, mut wish: Value) -> Value {
        let (status, refused) = self.post(path, wish.clone()).await;
        let why = refused["error"].as_str().unwrap_or_default();
        assert!(status == 409 && why.contains("would survive the loss of"), "{path}: {status} {refused}");
        wish["confirm"] = json!(why.rsplit(' ').next());
        self.done(path, wish).await
    }

    async fn done(&self, path: &str, wish: Value) -> Value {
        let (status, answer) = self.post(path, wish).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }
}

#[tokio::test]
async fn every_command_is_answered() {
    let world = World::new(3).await;
    let status = world.get("/v1/status").await;
    assert_eq!((&status["health"], status["drives"].as_array().map(Vec::len)), (&json!("green"), Some(3)), "{status}");
    let env = world.get("/v1/env").await;
    assert_eq!((&env["AWS_ENDPOINT_URL"], &env["AWS_REGION"]), (&json!("http://127.0.0.1:9000"), &json!("eu-north-7")));

    let made = world.done("/v1/keys/create", json!({ "user": "anna", "display": null })).await;
    let secret = made["secret_key"].as_str().unwrap();
    let keys = world.get("/v1/keys").await;
    assert!(keys.as_array().unwrap().iter().any(|key| key["access_key"] == made["access_key"]), "{keys}");
    assert!(!keys.to_string().contains(secret), "a secret is listed");
    world.done("/v1/keys/revoke", json!({ "access_key": made["access_key"] })).await;
    let keys = world.get("/v1/keys").await;
    let key = keys.as_array().unwrap().iter().find(|key| key["access_key"] == made["access_key"]);
    assert!(key.is_none_or(|key| key["state"] == "revoked"), "{keys}");

    let owner = base::UserId(made["user"].as_str().unwrap().into());
    world.node.client().create_bucket("photos", &owner, "us-east-1").await.unwrap();
    let set = world.insist("/v1/policies/set", json!({ "bucket": "photos", "code": "2 copies" })).await;
    assert_eq!(set["from"], "bucket", "{set}");
    let policies = world.get("/v1/policies").await;
    assert_eq!((&policies[0]["code"], &policies[1]), (&json!("3 copies"), &set), "{policies}");
    let default = world.insist("/v1/policies/default", json!({ "code": "2 copies" })).await;
    assert_eq!((&default["bucket"], &default["code"]), (&json!("(default)"), &json!("2 copies")));
    assert_eq!(world.done("/v1/policies/default", json!({ "code": "default" })).await["code"], json!("3 copies"));
    assert_eq!(world.done("/v1/verify", json!({ "what": "photos" })).await["findings"], json!([]));
    assert_eq!(world.done("/v1/scrub", json!({})).await["damaged"], json!(0));

    let fourth = world.dir.path().join("d4");
    let added = world.done("/v1/drives/add", json!({ "path": fourth })).await;
    assert_eq!(added["path"], json!(fourth));
    let plan = world.done("/v1/plan", json!({ "verb": "drain", "targets": [added["id"]] })).await;
    assert_eq!(plan["applied"], json!(false), "a plan was applied unasked");
    let events = world.get("/v1/events?limit=1000").await;
    assert!(events.is_array(), "{events}");
    world.node.close().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_in_json() {
    let world = World::new(1).await;
    let long = vec![b' '; (1 << 20) + 1];
    let table: &[(&str, &str, &[u8], u16, &str)] = &[
        ("GET", "/", b"", 404, "GET /"),
        ("GET", "/v1/nothing", b"", 404, "/v1/nothing"),
        ("POST", "/v1/status", b"{}", 404, "POST /v1/status"),
        ("GET", "/v1/scrub", b"", 404, "GET /v1/scrub"),
        ("POST", "/v1/verify", b"not json", 400, "JSON"),
        ("POST", "/v1/verify", b"\xff\xfe", 400, "JSON"),
        ("POST", "/v1/verify", b"", 400, "what"),
        ("POST", "/v1/verify", b"[1]", 400, "what"),
        ("POST", "/v1/verify", b"{\"what\":7}", 400, "what"),
        ("POST", "/v1/verify", b"{\"what\":\"nothing\"}", 404, "nothing"),
        ("POST", "/v1/manifest", b"{\"what\":\"nothing\"}", 400, "BUCKET/KEY"),
        ("POST", "/v1/drives/add", b"{}", 400, "path"),
        ("POST", "/v1/plan", b"{\"verb\":\"remove\",\"targets\":[\"/nowhere\"],\"apply\":true}", 404, "/nowhere"),
        ("POST", "/v1/plan", b"{\"verb\":\"eat\",\"targets\":[\"a\"]}", 400, "eat"),
        ("POST", "/v1/plan", b"{\"verb\":\"drain\"}", 400, "targets"),
        ("POST", "/v1/pace", b"{\"pace\":\"bussy\"}", 400, "did you mean busy"),
        ("POST", "/v1/keys/create", b"{\"usr\":\"anna\"}", 400, "usr"),
        ("POST", "/v1/keys/revoke", b"{\"access_key\":\"NONE\"}", 404, "NONE"),
        ("POST", "/v1/policies/set", b"{\"bucket\":\"nothing\",\"code\":\"2 copies\"}", 404, "nothing"),
        ("POST", "/v1/policies/default", b"{\"code\":\"2 copies surviving 1 site\"}", 400, "needs 2 drives"),
        ("GET", "/v1/events?limit=many", b"", 400, "limit"),
        ("GET", "/v1/events?limit=10001", b"", 400, "10000"),
        ("POST", "/v1/scrub", &long, 400, "request"),
    ];
    for (method, path, body, status, word) in table {
        let (got, answer) = world.send(method, path, body).await;
        let text = answer["error"].as_str().unwrap_or_default();
        assert!(got == *status && text.contains(word), "{method} {path}: {got} {answer}");
    }
    assert_eq!(world.get("/v1/status").await["health"], "green", "a refusal changed something");
    world.node.close().await;
}
