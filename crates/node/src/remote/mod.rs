//! Drives of other nodes.
//!
//! The client engine knows a drive as a holder of pieces. Here is what makes a drive of another
//! node one: [`message`] (what is asked and told, to the byte; docs/formats/pieces-wire.md),
//! [`PieceService`] (answers for the drives of this node), `writes` (pieces that others are
//! writing here), [`RemoteDrive`] (asks for one of another node), [`Remotes`] (which drives are
//! where, and how they do).
//!
//! 1. "Durable" is answered only after the piece store has said so.
//! 2. A call carries bytes that are at hand, never a stream that waits for a user: nobody's slow
//!    upload keeps a connection, and no writer waits for one connection while it holds another.
//! 3. A write has an id of its own. Sending a part of it again changes nothing; once it is
//!    revoked, nothing of it becomes durable any more, in whatever order frames arrive.
//! 4. What is wrong with the way to a drive is never told as the absence of a piece.

pub use client::pieces as message;

mod drive;
mod outgoing;
mod remotes;
mod service;
mod writes;

pub use drive::{Limits, RemoteDrive};
pub use remotes::Remotes;
pub use service::{PieceService, ServiceLimits};

/// Pieces, on the wire.
pub const PIECES: transport::ServiceId = transport::ServiceId(16);
