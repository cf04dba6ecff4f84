//! Answers owners and those whom they send: headers, bytes of pieces, copies of kits. Asks nobody for leave: neither the
//! catalog nor a leader, only the key or ticket that is shown, and what stands in the piece's header.
//!
//! A node gives sealed bytes and nothing else. Who reads what is decided by [`Who::may`]:
//!
//! | who comes | reads | keeps kits |
//! |---|---|---|
//! | a member of the cluster | everything | yes |
//! | the store's root key | everything | no |
//! | a volume's key | pieces whose headers name it, its kit | its own |
//! | somebody with an owner's ticket | what the ticket says, as many bytes, until then | no |

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use base::{Kind, Kinded, NodeId, PieceId};
use bytes::Bytes;
use client::header::PieceHeader;
use codec::Versioned;
use crypt::PublicKey;
use env::BoxFuture;
use grant::{Claim, Ticket};
use kit::ask::{Ask, BYTES_MAX, Place, Question, SERVICE, Told};
use kit::spread::{PARCEL_BYTES_MAX, Parcel};
use namespace::catalog::{self, NodeState};
use piecestore::{Cursor, PieceStore};
use tokio::sync::Semaphore;
use transport::{Body, Caller, Fault, Guests, Request, Response, Service, ServiceId, Services};

use super::guests::{self, GuestService};
use crate::fleet::{Mounted, lock};
use crate::node::Inner;

/// The service, on the wire.
pub(crate) const OWNERS: ServiceId = ServiceId(SERVICE);
/// Calls that are answered at a time: guests take no more of a node than that.
const CALLS_MAX: usize = 16;
/// A call waits so long for its turn.
const WAIT: Duration = Duration::from_secs(2);
/// What who comes at a bad time is told to wait.
const RETRY: Duration = Duration::from_millis(200);
/// Bytes of a parcel with what is around it.
const PARCEL_BODY_MAX: usize = PARCEL_BYTES_MAX + 1024;

type Answer = Result<Response, Fault>;

/// Who asks.
enum Who {
    Member,
    Root,
    Owner(PublicKey),
    Guest(Ticket),
}

fn denied(why: impl Into<String>) -> Fault {
    Fault::new(Kind::Denied, why.into())
}

fn fault(error: &(impl Kinded + ToString)) -> Fault {
    Fault::new(error.kind(), error.to_string())
}

/// Answers owners while the node lives.
pub(crate) struct OwnerService {
    node: Mutex<Weak<Inner>>,
    calls: Semaphore,
}

impl Default for OwnerService {
    fn default() -> Self {
        Self { node: Mutex::default(), calls: Semaphore::new(CALLS_MAX) }
    }
}

impl OwnerService {
    /// Whose drives they are.
    pub fn set(&self, inner: &Arc<Inner>) {
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(inner);
    }

    fn inner(&self) -> Option<Arc<Inner>> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    async fn answer(&self, caller: Caller, request: Request) -> Answer {
        let inner = self.inner().ok_or_else(|| Fault::new(Kind::Unreachable, "this node isn't ready yet"))?;
        let unknown = |error| Fault::new(Kind::Invalid, format!("this node doesn't know what is asked: {error}"));
        let Question { ticket, ask } = Question::decode(&request.head).map_err(unknown)?;
        let turn = inner.env.timeout(WAIT, self.calls.acquire()).await;
        let busy = || Fault::new(Kind::Busy { retry_after: RETRY }, "this node answers as many owners as it can");
        let _turn = turn.and_then(Result::ok).ok_or_else(busy)?;
        let who = match (caller.guest, ticket) {
            (None, _) => Who::Member,
            (Some(_), Some(ticket)) => Who::Guest(ticket),
            (Some(key), None) if Some(key) == inner.root_key() => Who::Root,
            (Some(key), None) => Who::Owner(key),
        };
        who.only().map_or(Ok(()), |key| inner.check_replaced(&key))?;
        match ask {
            Ask::Nodes => Ok(Response::new(Told::Nodes(inner.known_nodes()).encode())),
            Ask::Headers(from, limit) => inner.headers(&who, from, limit).await,
            Ask::Header(piece) => {
                let (_, bytes) = inner.header_for(&who, piece).await?;
                inner.charge(&who, bytes.len() as u64)?;
                Ok(Response::new(Told::Header.encode()).with_body(bytes))
            }
            Ask::Read(piece, offset, len) => {
                let (store, _) = inner.header_for(&who, piece).await?;
                inner.charge(&who, len.into())?;
                let bytes = store.read(piece, offset, len.into()).await.map_err(|error| fault(&error))?;
                inner.owners.served.fetch_add(bytes.len() as u64, Relaxed);
                Ok(Response::new(Told::Read.encode()).with_body(bytes))
            }
            Ask::Kits => {
                let mut labels = Vec::new();
                match who.only() {
                    None => labels = inner.owners.shelves.labels(None).await,
                    Some(key) => {
                        for key in inner.keys_of(&key) {
                            labels.extend(inner.owners.shelves.labels(Some(key)).await);
                        }
                    }
                }
                labels.retain(|label| who.may_have_kit(&inner, &label.volume));
                Ok(Response::new(Told::Kits(labels).encode()))
            }
            Ask::Kit(volume, from) => {
                if !who.may_have_kit(&inner, &volume) {
                    return Err(denied("a kit is for its volume's owner alone"));
                }
                let read = inner.owners.shelves.read(volume, from, BYTES_MAX).await.map_err(|error| fault(&error))?;
                let none = || Fault::new(Kind::Missing, "this node has no copy of that kit");
                let (label, bytes) = read.ok_or_else(none)?;
                inner.owners.served.fetch_add(bytes.len() as u64, Relaxed);
                Ok(Response::new(Told::Kit(label).encode()).with_body(bytes))
            }
            Ask::Keep => inner.keep_parcel(&who, request.body).await,
        }
    }
}

impl Service for OwnerService {
    fn handle(&self, caller: Caller, request: Request) -> BoxFuture<'_, Answer> {
        Box::pin(self.answer(caller, request))
    }
}

/// Lets owners in, and whom they send.
pub(crate) struct OwnerDoor {
    service: Arc<OwnerService>,
    services: Services,
}

impl OwnerDoor {
    pub fn new(service: Arc<OwnerService>, guests: Arc<GuestService>) -> Self {
        let mut services = BTreeMap::from([(OWNERS, service.clone() as Arc<dyn Service>)]);
        services.insert(guests::PIECES, Arc::new(guests::Pieces(guests.clone())));
        services.insert(guests::METADATA, guests);
        Self { service, services }
    }
}

impl Guests for OwnerDoor {
    fn admits(&self, key: &PublicKey, pass: &[u8]) -> bool {
        let Some(inner) = self.service.inner() else { return false };
        if inner.root_key() == Some(*key) || inner.knows_owner(key) {
            return true;
        }
        // The owner is known before a signature is checked: strangers cost nothing.
        if let Ok(claim) = Claim::decode(pass) {
            return inner.admits_claim(&claim);
        }
        let known = Ticket::decode(pass).ok().filter(|ticket| inner.knows_owner(&ticket.volume));
        known.is_some_and(|ticket| ticket.is_genuine(inner.env.clock.wall()))
    }

    fn services(&self) -> &Services {
        &self.services
    }
}

impl Who {
    /// Succeeds if a piece whose header names `owner` may be read.
    fn may(&self, inner: &Inner, owner: Option<PublicKey>, piece: PieceId) -> Result<(), Fault> {
        match self {
            Who::Member | Who::Root => Ok(()),
            Who::Owner(key) if owner.is_some_and(|owner| inner.is_or_was(key, &owner)) => Ok(()),
            Who::Owner(_) => Err(denied("the piece is of another owner")),
            Who::Guest(ticket) => {
                let owner = owner.ok_or_else(|| denied("the piece is older than tickets: only members read it"))?;
                let now = inner.env.clock.wall();
                let node = inner.me().unwrap_or(NodeId([0; 16]));
                // A ticket is signed by the key that the volume has now.
                let volume = if inner.is_or_was(&ticket.volume, &owner) { ticket.volume } else { owner };
                let ask = grant::Ask { volume, segment: piece.segment, node, now };
                ticket.check(&ask).map_err(|refusal| denied(format!("the ticket doesn't fit: {refusal}")))
            }
        }
    }

    fn may_have_kit(&self, inner: &Inner, volume: &PublicKey) -> bool {
        match self {
            Who::Member | Who::Root => true,
            Who::Owner(key) => inner.is_or_was(key, volume),
            Who::Guest(_) => false,
        }
    }

    /// The only volume that it may ask about.
    fn only(&self) -> Option<PublicKey> {
        match self {
            Who::Member | Who::Root => None,
            Who::Owner(key) => Some(*key),
            Who::Guest(ticket) => Some(ticket.volume),
        }
    }
}

impl Inner {
    /// Whether `key` is that of the volume that has, or had, `other`.
    fn is_or_was(&self, key: &PublicKey, other: &PublicKey) -> bool {
        key == other || self.sealed_with(key).is_some_and(|row| row.public == key.0 && row.had(&other.0))
    }

    /// A volume's key, and those that it replaced.
    fn keys_of(&self, key: &PublicKey) -> Vec<PublicKey> {
        let older = self.sealed_with(key).filter(|row| row.public == key.0).map(|row| row.older).unwrap_or_default();
        older.into_iter().map(|older| PublicKey(older.public)).chain([*key]).collect()
    }

    /// The public half of the store's root key, once there may be other nodes.
    fn root_key(&self) -> Option<PublicKey> {
        self.cluster.get().map(|cluster| cluster.endpoint.trust().borrow().root())
    }

    /// The nodes of the catalog's copy here.
    fn known_nodes(&self) -> Vec<(NodeId, kit::Node)> {
        let rows = self.look(|view| catalog::nodes(view, None, usize::from(u16::MAX))).unwrap_or_default();
        let there = rows.into_iter().filter(|row| row.state != NodeState::Removed);
        there.map(|row| (row.id, kit::Node { key: PublicKey(row.key), addresses: row.addresses })).collect()
    }

    /// Counts what is served for a ticket.
    fn charge(&self, who: &Who, bytes: u64) -> Result<(), Fault> {
        let Who::Guest(ticket) = who else { return Ok(()) };
        let now = self.env.clock.wall();
        lock(&self.owners.meter).charge(ticket, bytes, now).map_err(|refusal| fault(&refusal))
    }

    /// The drive that has the piece, and its header, if it may be read.
    async fn header_for(&self, who: &Who, piece: PieceId) -> Result<(Arc<PieceStore>, Bytes), Fault> {
        let mut last = Fault::new(Kind::Missing, "no drive of this node has the piece");
        for drive in self.fleet.all() {
            match drive.store.header(piece).await {
                Ok(bytes) => {
                    let header = PieceHeader::decode(&bytes).map_err(|error| fault(&error))?;
                    who.may(self, header.owner, piece)?;
                    return Ok((drive.store.clone(), bytes));
                }
                Err(error) if error.kind() == Kind::Missing => {}
                Err(error) => last = fault(&error),
            }
        }
        Err(last)
    }

    /// Headers of the pieces that may be read: drive by drive, each in its own order.
    async fn headers(&self, who: &Who, from: Option<Place>, limit: u32) -> Answer {
        let limit = limit.clamp(1, kit::ask::HEADERS_MAX);
        let (mut lens, mut body, mut looked) = (Vec::new(), Vec::new(), 0);
        let drives = self.fleet.all();
        let mut place = from.or_else(|| drives.first().map(|drive| Place { drive: drive.id, at: 0 }));
        while let Some(Place { drive: id, at }) = place.filter(|_| looked < limit && body.len() < BYTES_MAX / 2) {
            let following = drives.iter().map(|drive| drive.id).find(|next| *next > id);
            let next_drive = following.map(|drive| Place { drive, at: 0 });
            let Some(drive) = drives.iter().find(|drive| drive.id == id) else {
                place = next_drive;
                continue;
            };
            // Few at a time: headers of packs are long.
            let step = (limit - looked).min(64) as usize;
            let listed = drive.store.list(Some(Cursor::from_u64(at)), step).await;
            let (pieces, next) = match listed {
                Ok(listed) => listed,
                // What the other drives have is worth as much.
                Err(error) => {
                    tracing::warn!(drive = %id, %error, "a drive can't be listed for an owner");
                    place = next_drive;
                    continue;
                }
            };
            for (piece, _) in pieces {
                looked += 1;
                let Ok(bytes) = drive.store.header(piece).await else { continue };
                let Ok(header) = PieceHeader::decode(&bytes) else { continue };
                if who.may(self, header.owner, piece).is_ok() {
                    lens.push(bytes.len() as u32);
                    body.extend_from_slice(&bytes);
                }
            }
            place = next.map(|next| Place { drive: id, at: next.to_u64() }).or(next_drive);
        }
        self.charge(who, body.len() as u64)?;
        self.owners.served.fetch_add(body.len() as u64, Relaxed);
        Ok(Response::new(Told::Headers(lens, looked, place).encode()).with_body(Body::from(Bytes::from(body))))
    }

    async fn keep_parcel(&self, who: &Who, body: Body) -> Answer {
        let bytes = body.collect(PARCEL_BODY_MAX).await;
        let bytes = bytes.map_err(|error| Fault::new(error.kind(), error.to_string()))?;
        let parcel = Parcel::decode(&bytes).map_err(|error| fault(&error))?;
        let allowed = match who {
            Who::Member => true,
            Who::Owner(key) => *key == parcel.label.volume,
            Who::Root | Who::Guest(_) => false,
        };
        if !allowed {
            return Err(denied("a kit is brought by its volume's owner, or by a member"));
        }
        let none = || Fault::new(Kind::Unreachable, "no drive of this node takes a kit now");
        let dir = self.kit_drive(&parcel.label.volume).ok_or_else(none)?;
        let take =
            self.owners.shelves.take((&dir.path, dir.lock.clone()), parcel).await.map_err(|error| fault(&error))?;
        Ok(Response::new(Told::Kept(take).encode()))
    }

    /// The drive where the kit of a volume goes here: the same one as long as it works.
    pub fn kit_drive(&self, volume: &PublicKey) -> Option<Arc<Mounted>> {
        let rank = |id: &base::DriveId| crypt::hash(&[&volume.0[..], &id.0].concat());
        let up = self.fleet.up().into_iter().filter(|drive| !drive.full.load(Relaxed));
        up.max_by_key(|drive| rank(&drive.id))
    }
}
