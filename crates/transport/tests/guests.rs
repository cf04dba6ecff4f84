//! Guests: owners of what is stored, who are no members. Known ones may ask what is for guests; strangers are told nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Kind, Kinded};
use bytes::Bytes;
use common::{BYTES, ECHO, Echo, Town, echo, key, node, until};
use crypt::PublicKey;
use env::{BoxFuture, Env};
use transport::{
    Body, Call, Caller, Carrier, Class, Endpoint, Error, Fault, Guests, Request, Response, Service, Services, Settings,
    TcpCarrier, meet,
};

/// Remembers who asked, and answers as [`Echo`] does.
#[derive(Default)]
struct Seen(Mutex<Vec<Option<PublicKey>>>);

impl Service for Seen {
    fn handle(&self, caller: Caller, request: Request) -> BoxFuture<'_, Result<Response, Fault>> {
        self.0.lock().unwrap().push(caller.guest);
        Box::pin(async move { Echo.handle(caller, request).await })
    }
}

/// Knows one key, and one pass.
struct Door {
    owner: PublicKey,
    services: Services,
}

impl Guests for Door {
    fn admits(&self, key: &PublicKey, pass: &[u8]) -> bool {
        *key == self.owner || pass == b"sent by the owner"
    }

    fn services(&self) -> &Services {
        &self.services
    }
}

fn carrier(env: &Env, seed: u8) -> Arc<dyn Carrier> {
    Arc::new(TcpCarrier::new(env.clone(), key(seed), Duration::from_secs(1)).unwrap())
}

async fn guest(env: &Env, town: &Town, seed: u8, pass: &[u8]) -> Endpoint {
    let carrier = carrier(env, seed);
    let settings = Settings { greeting: Duration::from_millis(400), ..Settings::default() };
    Endpoint::guest(env.clone(), settings, carrier, key(seed), pass.to_vec(), town.book.clone()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_known_may_ask_what_is_for_guests_and_nothing_else() {
    let (env, town) = (Env::real(), Town::new());
    let settings = Settings { greeting: Duration::from_millis(400), ..Settings::default() };
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let two = town.start(&env, settings.clone(), 2, town.list(1, &[1, 2], &[]), anywhere).await;
    let address = two.address().unwrap();
    let meet = async |seed: u8, pass: &[u8]| meet(&env, &settings, &carrier(&env, seed), pass, address).await;
    assert!(matches!(meet(9, b"").await, Err(Error::ToldNothing { .. })), "no guests yet");

    let seen = Arc::new(Seen::default());
    let services = Services::from([(ECHO, seen.clone() as Arc<dyn Service>)]);
    two.welcome(Arc::new(Door { owner: key(9).public(), services }));
    assert!(matches!(meet(8, b"made up").await, Err(Error::ToldNothing { .. })), "a stranger");
    for (seed, pass) in [(9, &b""[..]), (8, b"sent by the owner")] {
        let (found, shown) = meet(seed, pass).await.unwrap();
        assert_eq!((found, shown), (node(2), key(2).public()));
        let guest = guest(&env, &town, seed, pass).await;
        assert!(matches!(
            guest.call(found, echo(Class::Small, b"x", Body::empty())).await,
            Err(Error::NoMember { .. })
        ));
        guest.know(&BTreeMap::from([(found, shown)])).unwrap();
        let body = Bytes::from(vec![7; 1 << 20]);
        for class in Class::ALL {
            let body = if class == Class::Control { Bytes::new() } else { body.clone() };
            let reply = guest.call(found, echo(class, b"x", Body::from(body.clone()))).await.unwrap();
            assert_eq!(reply.body.collect(2 << 20).await.unwrap(), body);
        }
        // What members may ask isn't there for it.
        let error = guest.call(found, Call::new(BYTES, Class::Small, 8u64.to_le_bytes().to_vec())).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Missing);
        assert_eq!(std::mem::take(&mut *seen.0.lock().unwrap()), [Some(key(seed).public()); 3]);
        // Members come and go; guests stay.
        two.install(town.list(2 + u64::from(seed), &[2], &[1])).unwrap();
        guest.call(found, echo(Class::Control, b"x", Body::empty())).await.unwrap();
        seen.0.lock().unwrap().clear();
        guest.close();
        until(&env, "its connections are gone", || two.stats().inbound == 0).await;
    }
    // A member's own calls are none of a guest's.
    let one = town.start(&env, settings.clone(), 1, town.list(99, &[1, 2], &[]), anywhere).await;
    two.install(town.list(99, &[1, 2], &[])).unwrap();
    one.call(node(2), echo(Class::Small, b"x", Body::empty())).await.unwrap();
    assert!(seen.0.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_take_only_the_connections_that_are_theirs() {
    let (env, town) = (Env::real(), Town::new());
    let settings = Settings { inbound_guests_max: 0, ..Settings::default() };
    let two = town.start(&env, settings.clone(), 2, town.list(1, &[1, 2], &[]), "127.0.0.1:0".parse().unwrap()).await;
    let services = Services::from([(ECHO, Arc::new(Echo) as Arc<dyn Service>)]);
    two.welcome(Arc::new(Door { owner: key(9).public(), services }));
    let guest = guest(&env, &town, 9, b"").await;
    guest.know(&BTreeMap::from([(node(2), key(2).public())])).unwrap();
    let error = guest.call(node(2), echo(Class::Small, b"x", Body::empty())).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Busy { .. }), "{error}");
    let one = town.start(&env, settings, 1, town.list(1, &[1, 2], &[]), "127.0.0.1:0".parse().unwrap()).await;
    one.call(node(2), echo(Class::Small, b"x", Body::empty())).await.unwrap();
}
