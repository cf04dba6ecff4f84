//! Every limit, with its reason.

use std::ops::RangeInclusive;
use std::time::Duration;

/// How an endpoint behaves. The defaults fit a machine of today, on a LAN or across a continent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Protocol versions to speak.
    pub versions: RangeInclusive<u16>,
    /// A connection attempt to one address takes no longer: three round trips around the world.
    pub connect: Duration,
    /// Handshake and greeting of either side take no longer: whoever dribbles is cut.
    pub greeting: Duration,
    /// While calls are under way the peer is pinged so often.
    pub ping_every: Duration,
    /// A peer that says nothing for so long after a ping is down; its calls end. Longer than a
    /// retransmission or a busy link's queue, shorter than a user's patience.
    pub silence: Duration,
    /// An idle control connection is pinged so often, to keep NATs open and to notice its end.
    pub ping_idle: Duration,
    /// A body of which nothing moves for so long is given up.
    pub stall: Duration,
    /// A connection on which nothing was asked for so long is closed by who listens.
    pub idle: Duration,
    /// An unused connection stays in the pool for so long; less than `idle`, so that none is
    /// taken that the other side is about to close.
    pub pooled: Duration,
    /// Connections that haven't greeted yet; beyond it one from the address with most gives way.
    pub greeting_max: usize,
    /// Connections that others opened. An idle one costs about 20 KB.
    pub inbound_max: usize,
    /// Of those, so many from one node.
    pub inbound_of_one_max: usize,
    /// Of those, so many from guests.
    pub inbound_guests_max: usize,
    /// Control connections to a peer: two, so that a long batch holds up half at most.
    pub control_connections: usize,
    /// Connections of class small to a peer.
    pub small_connections: usize,
    /// Connections of class bulk to a peer: each has half a MiB to one in flight, and rests for a
    /// round trip between two calls; sixteen fill 1 Gbit/s at 100 ms all the same.
    pub bulk_connections: usize,
    /// Calls that wait for a connection to a peer; more are told to come back.
    pub waiting_max: usize,
    /// Calls answered at a time, over all control connections.
    pub control_calls_max: usize,
    /// Calls answered at a time on one control connection.
    pub control_calls_of_one_max: usize,
    /// Calls answered at a time, over all others.
    pub calls_max: usize,
    /// What a refused caller is told to wait.
    pub retry_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            versions: wire::greet::VERSIONS,
            connect: Duration::from_secs(1),
            greeting: Duration::from_secs(3),
            ping_every: Duration::from_millis(200),
            silence: Duration::from_millis(1000),
            ping_idle: Duration::from_secs(5),
            stall: Duration::from_secs(10),
            idle: Duration::from_secs(90),
            pooled: Duration::from_secs(60),
            greeting_max: 128,
            inbound_max: 4096,
            inbound_of_one_max: 64,
            inbound_guests_max: 256,
            control_connections: 2,
            small_connections: 16,
            bulk_connections: 16,
            waiting_max: 256,
            control_calls_max: 2048,
            control_calls_of_one_max: 512,
            calls_max: 512,
            retry_after: Duration::from_millis(50),
        }
    }
}
