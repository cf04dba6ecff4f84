//! Serves S3 from memory on `127.0.0.1:PORT` (9000 if not given), for trying clients and suites on
//! the face alone. Nothing is kept.

use std::sync::Arc;

use env::Env;

#[path = "../tests/support/memory.rs"]
mod memory;

use memory::Known;

/// The users that the S3 test suite expects.
const USERS: &[Known] = &[
    Known {
        id: "s3tmain000000000000000000000000000000000000000000000000000000001",
        display: "s3t-main",
        email: "main@s3t.test",
        key: "S3TMAIN0000000000001",
        secret: "s3tmain-secret-0000000000000000000000001",
    },
    Known {
        id: "s3talt0000000000000000000000000000000000000000000000000000000002",
        display: "s3t-alt",
        email: "alt@s3t.test",
        key: "S3TALT00000000000002",
        secret: "s3talt-secret-00000000000000000000000002",
    },
    Known {
        id: "s3tiam0000000000000000000000000000000000000000000000000000000003",
        display: "s3t-iam",
        email: "iam@s3t.test",
        key: "S3TIAM00000000000003",
        secret: "s3tiam-secret-00000000000000000000000003",
    },
    Known {
        id: "RGW11111111111111111",
        display: "account1",
        email: "account1@s3t.test",
        key: "S3TROOT0000000000004",
        secret: "s3troot-secret-0000000000000000000000004",
    },
    Known {
        id: "RGW22222222222222222",
        display: "account2",
        email: "account2@s3t.test",
        key: "S3TROOT0000000000005",
        secret: "s3troot-secret-0000000000000000000000005",
    },
];

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(9000);
    let env = Env::real();
    let listener = env.net.bind(([127, 0, 0, 1], port).into()).await?;
    let store = Arc::new(memory::Memory::new(env.clone(), USERS));
    let face = Arc::new(s3::Face::new(env, store, s3::Settings::default()));
    s3::serve(listener, face, std::future::pending()).await;
    Ok(())
}
