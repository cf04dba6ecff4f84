//! How somebody who has nothing but addresses finds out who is there.

use std::net::SocketAddr;
use std::sync::Arc;

use base::{Epoch, NodeId};
use crypt::PublicKey;
use env::Env;
use wire::greet::{Class, Instance, Intent};

use crate::carrier::{Carrier, Target};
use crate::error::{Error, Result};
use crate::framed::Heard;
use crate::greet::{Introduction, introduce};
use crate::settings::Settings;

/// Greets whoever listens at `address`, as a guest: which node it says it is, and the key that it has.
///
/// Nothing else is known of it: what it serves must be proven by what the guest has. It tells nothing to somebody whom it
/// doesn't know ([`Error::ToldNothing`]).
pub async fn meet(
    env: &Env,
    settings: &Settings,
    carrier: &Arc<dyn Carrier>,
    pass: &[u8],
    address: SocketAddr,
) -> Result<(NodeId, PublicKey)> {
    let work = async {
        let target = Target { node: None, keys: Vec::new(), addresses: vec![address] };
        let secured = carrier.dial(&target, Class::Small).await?;
        let key = secured.peer;
        let introduction = Introduction {
            versions: settings.versions.clone(),
            class: Class::Small,
            instance: Instance(env.random()),
            epoch: Epoch(0),
            intent: Intent::Guest(pass.to_vec()),
        };
        let greeted = introduce(secured, Heard::new(env), introduction, None).await?;
        Ok((greeted.welcome.node, key))
    };
    let late = || Error::Join(format!("{address} said nothing for {} s", settings.greeting.as_secs()));
    env.timeout(settings.greeting, work).await.unwrap_or_else(|| Err(late()))
}
