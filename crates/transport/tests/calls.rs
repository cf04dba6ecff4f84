//! Calls over real loopback sockets.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::net::SocketAddr;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use base::{Kind, Kinded};
use bytes::Bytes;
use common::{BYTES, COUNT, FAIL, HANG, Town, echo, node, until, zeros};
use env::Env;
use futures_util::FutureExt;
use transport::{Body, Call, Class, Endpoint, Error, Settings};

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Two nodes that know each other: 1 calls, 2 answers.
async fn pair(settings: Settings) -> (Env, Town, Endpoint, Endpoint) {
    let (env, town) = (Env::real(), Town::new());
    let list = town.list(1, &[1, 2], &[]);
    let one = town.start(&env, settings.clone(), 1, list.clone(), anywhere()).await;
    let two = town.start(&env, settings, 2, list, anywhere()).await;
    (env, town, one, two)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_class_brings_heads_and_bodies_of_all_sizes() {
    let (_, _town, one, _two) = pair(Settings::default()).await;
    for class in Class::ALL {
        for len in [0usize, 1, 1000, 65_536, 300_000, 3_000_000] {
            let body: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
            let reply = one.call(node(2), echo(class, b"head", body.clone())).await.unwrap();
            assert_eq!(reply.head, &b"head"[..]);
            assert_eq!(reply.body.collect(len).await.unwrap(), body, "{class:?} {len}");
        }
    }
    for len in [1u64, 65_536, 20_000_000] {
        let ask = Call::new(BYTES, Class::Bulk, len.to_le_bytes().to_vec());
        let mut reply = one.call(node(2), ask).await.unwrap();
        assert_eq!(reply.body.len(), Some(len));
        let parts = reply.body.gather(len as usize).await.unwrap();
        assert_eq!(parts.iter().map(|part| part.len() as u64).sum::<u64>(), len);
        let count = Call::new(COUNT, Class::Bulk, "").with_body(zeros(len));
        let reply = one.call(node(2), count).await.unwrap();
        assert_eq!(reply.head, len.to_le_bytes().to_vec());
    }
    let own = one.call(node(1), echo(Class::Small, b"self", vec![1, 2])).await.unwrap();
    assert_eq!(own.body.collect(9).await.unwrap(), vec![1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_keep_their_kind_on_the_wire() {
    let (_, _town, one, _two) = pair(Settings::default()).await;
    for class in Class::ALL {
        let error = one.call(node(2), Call::new(FAIL, class, "")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::TooFewPieces { have: 3, need: 4 });
        assert_eq!(error.to_string(), "read: too few");
        // Also with a body that nobody reads, and the connection serves on.
        if class != Class::Control {
            let call = Call::new(FAIL, class, "").with_body(zeros(1 << 20));
            assert_eq!(one.call(node(2), call).await.unwrap_err().kind(), Kind::TooFewPieces { have: 3, need: 4 });
        }
        let missing = one.call(node(2), Call::new(transport::ServiceId(99), class, "")).await.unwrap_err();
        assert_eq!(missing.kind(), Kind::Missing);
        one.call(node(2), echo(class, b"still here", Body::empty())).await.unwrap();
    }
    let long = Call::new(FAIL, Class::Small, vec![0; 70_000]);
    assert!(matches!(one.call(node(2), long).await.unwrap_err(), Error::TooLong { .. }));
    let streamed = Call::new(COUNT, Class::Control, "").with_body(zeros(9_000_000));
    assert!(matches!(one.call(node(2), streamed).await.unwrap_err(), Error::TooLong { .. }));
    assert!(matches!(one.call(node(3), Call::new(FAIL, Class::Small, "")).await.unwrap_err(), Error::NoMember { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_call_is_cancelled_at_the_peer_and_its_connection_serves_on() {
    let (env, town, one, two) = pair(Settings::default()).await;
    for (count, class) in Class::ALL.into_iter().cycle().take(30).enumerate() {
        let call = one.call(node(2), Call::new(HANG, class, ""));
        let entered = until(&env, "the call is under way", || town.hang.entered.load(SeqCst) == count + 1);
        match futures_util::future::select(Box::pin(call), Box::pin(entered)).await {
            futures_util::future::Either::Left((answer, _)) => panic!("{answer:?}"),
            futures_util::future::Either::Right(((), call)) => drop(call),
        }
        until(&env, "the call is cancelled", || town.hang.inside.load(SeqCst) == 0).await;
        one.call(node(2), echo(class, b"x", Body::empty())).await.unwrap();
    }
    // A call that comes while the one before is still being cancelled takes another connection, so
    // there may be two of each class; but not ten.
    assert!(two.stats().inbound <= 6, "{}", two.stats().inbound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_body_is_cancelled_at_the_peer() {
    let (env, _town, one, two) = pair(Settings::default()).await;
    let ask = Call::new(BYTES, Class::Bulk, (1u64 << 40).to_le_bytes().to_vec());
    let mut reply = one.call(node(2), ask).await.unwrap();
    assert!(!reply.body.next().await.unwrap().unwrap().is_empty());
    drop(reply);
    for _ in 0..3 {
        one.call(node(2), echo(Class::Bulk, b"x", Body::empty())).await.unwrap();
    }
    until(&env, "the endless answer has ended", || two.stats().inbound <= 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_at_its_deadline_on_both_sides() {
    let (env, town, one, _two) = pair(Settings::default()).await;
    for class in Class::ALL {
        let call = Call::new(HANG, class, "").with_timeout(Duration::from_millis(80));
        let error = one.call(node(2), call).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::Unreachable), "{error}");
        until(&env, "the handler is gone", || town.hang.inside.load(SeqCst) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_says_when_to_come_back() {
    let settings = Settings { calls_max: 2, control_calls_max: 2, ..Settings::default() };
    let (env, town, one, two) = pair(settings).await;
    for class in [Class::Control, Class::Small] {
        let before = town.hang.entered.load(SeqCst);
        let held: Vec<_> = (0..2)
            .map(|_| {
                let one = one.clone();
                tokio::spawn(async move { one.call(node(2), Call::new(HANG, class, "")).await })
            })
            .collect();
        until(&env, "two calls are under way", || town.hang.entered.load(SeqCst) == before + 2).await;
        let error = one.call(node(2), echo(class, b"x", Body::empty())).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Busy { retry_after: Settings::default().retry_after });
        held.iter().for_each(tokio::task::JoinHandle::abort);
        until(&env, "they are cancelled", || town.hang.inside.load(SeqCst) == 0).await;
        // A handler's place is given back just after the handler has ended.
        while let Err(error) = one.call(node(2), echo(class, b"x", Body::empty())).await {
            assert!(matches!(error.kind(), Kind::Busy { .. }), "{error}");
        }
    }
    assert!(two.stats().busy >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_queues_and_a_full_queue_says_busy() {
    let settings = Settings { small_connections: 1, waiting_max: 1, ..Settings::default() };
    let (env, town, one, _two) = pair(settings).await;
    let call = |class| {
        let one = one.clone();
        tokio::spawn(async move { one.call(node(2), Call::new(HANG, class, "")).await })
    };
    let holder = call(Class::Small);
    until(&env, "the connection is in use", || town.hang.entered.load(SeqCst) == 1).await;
    let ask = || Box::pin(one.call(node(2), echo(Class::Small, b"x", Body::empty())));
    let mut waiter = ask();
    assert!((&mut waiter).now_or_never().is_none(), "one may wait");
    let error = ask().now_or_never().unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Busy { retry_after: Settings::default().retry_after }, "nobody else may");
    holder.abort();
    waiter.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_share_control_connections() {
    let (_, _town, one, two) = pair(Settings::default()).await;
    let callers = (0..64u8).map(|caller| {
        let one = one.clone();
        tokio::spawn(async move {
            for round in 0..50u8 {
                let body = Bytes::from(vec![caller, round]);
                let reply = one.call(node(2), echo(Class::Control, b"h", body.clone())).await.unwrap();
                assert_eq!(reply.body.collect(2).await.unwrap(), body);
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    assert!(two.stats().inbound <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_went_away_is_noticed_and_found_again() {
    let (env, town, one, two) = pair(Settings::default()).await;
    one.call(node(2), echo(Class::Control, b"x", Body::empty())).await.unwrap();
    assert_eq!(one.is_up(node(2)), Some(true));
    let address = two.address().unwrap();
    let (hung, asker) = (town.hang.clone(), one.clone());
    let call = tokio::spawn(async move { asker.call(node(2), Call::new(HANG, Class::Small, "")).await });
    until(&env, "a call is under way", || hung.entered.load(SeqCst) == 1).await;
    two.close();
    assert_eq!(call.await.unwrap().unwrap_err().kind(), Kind::Unreachable);
    until(&env, "the port is free", || std::net::TcpListener::bind(address).is_ok()).await;
    let error = one.call(node(2), echo(Class::Small, b"x", Body::empty())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert_eq!(one.is_up(node(2)), Some(false));
    let list = town.list(1, &[1, 2], &[]);
    let _two = town.start(&env, Settings::default(), 2, list, address).await;
    until(&env, "it is found again", || one.is_up(node(2)) == Some(true)).await;
    one.call(node(2), echo(Class::Bulk, b"x", Body::empty())).await.unwrap();
}
