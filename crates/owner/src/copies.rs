//! Copies of a volume's kit: looked for here and at nodes, checked, compared, taken along.
//!
//! 1. A copy is checked whole: its head, the chain of its frames, each one's signature and seal. Bytes behind the last whole frame are
//!    damage, but for this machine's own log, of which it is known up to where it was durable.
//! 2. A node's copy may be older than what this machine has seen: nodes that were away, or are no longer chosen, have such. It counts as
//!    rolled back once nobody has anything as new. A file counts as that at once, and so does this machine's own log if it isn't as it was seen.

use std::path::{Path, PathBuf};

use base::{NodeId, Wall};
use codec::Versioned;
use crypt::VolumeRoot;
use env::{Env, Open};
use kit::log::Seen;
use kit::spread::{Label, holders};
use kit::{Error as KitError, Log, Position, State};

use crate::kits::{Shelf, copies_of, takers};
use crate::reach::Reach;
use crate::{Error, Result, survey};

/// Where a copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// The log that a client on this machine keeps.
    Here(PathBuf),
    /// A file that was exported.
    File(PathBuf),
    /// A node.
    Node(NodeId),
}

/// What a copy is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Whole, signed, sealed; no copy that was found is newer.
    Sound,
    /// As sound, but another copy is newer.
    Older,
    /// Too few nodes have a copy, and this one may get one.
    Missing,
    /// As sound, but older than what this machine has seen, or another history: why, and what to do.
    RolledBack(String),
    /// It can't be used: where, why, what to do.
    Damaged(String),
}

impl Standing {
    /// Whether somebody must look.
    pub fn is_bad(&self) -> bool {
        matches!(self, Standing::RolledBack(_) | Standing::Damaged(_))
    }
}

/// What a copy says, as far as it could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its generation.
    pub generation: u64,
    /// Its last frame.
    pub frame: u64,
    /// Up to where it follows the volume's journal, and when that was.
    pub position: Position,
    /// Files.
    pub files: usize,
    /// Bytes of the log.
    pub bytes: u64,
}

impl Facts {
    fn of(log: &Log) -> Self {
        let seen = log.seen();
        let (position, files) = (log.state().position(), log.state().objects());
        Self { generation: seen.generation, frame: seen.number, position, files, bytes: log.len() }
    }
}

/// A copy that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Where it is.
    pub at: At,
    /// What it says; nothing if it can't be read.
    pub facts: Option<Facts>,
    /// What it is worth.
    pub standing: Standing,
}

/// The newest sound copy: its bytes, and what they say.
pub struct Newest {
    /// Where it was found.
    pub at: At,
    /// The log's bytes.
    pub bytes: Vec<u8>,
    /// What they say.
    pub log: Log,
}

/// What was found.
#[derive(Default)]
pub struct Found {
    /// All copies, in the order in which they were looked for.
    pub copies: Vec<Copy>,
    /// The newest of those that are sound.
    pub newest: Option<Newest>,
    /// Nodes that could not be asked, and why.
    pub silent: Vec<(String, String)>,
}

/// How a kit differs from the listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Versions of the listing that it lacks, or has otherwise.
    pub lacks: usize,
    /// Versions that it has and the listing no longer.
    pub gone: usize,
}

/// What was read at a place.
enum Read {
    /// What it says, and the label by which copies are compared. With what this machine had seen it may not fit.
    Log {
        facts: Facts,
        label: Label,
        unfit: Option<KitError>,
    },
    Damaged(String),
}

/// Looks for copies of one volume's kit.
pub struct Search<'a> {
    env: Env,
    root: &'a VolumeRoot,
    /// What clients of this machine have seen durable.
    seen: Vec<Seen>,
    /// How far their own logs go.
    known: Option<Position>,
    read: Vec<(At, Read)>,
    newest: Option<(Label, Newest)>,
    silent: Vec<(String, String)>,
    asked: Vec<NodeId>,
}

impl<'a> Search<'a> {
    /// Of the volume of this root.
    pub fn new(env: Env, root: &'a VolumeRoot) -> Self {
        let (seen, read, silent, asked) = Default::default();
        Self { env, root, seen, known: None, read, newest: None, silent, asked }
    }

    /// Looks at the log that a client keeps in a folder of this machine, if there is one: before all others, which are compared with it. Unless
    /// `counts` it isn't among the copies.
    ///
    /// # Errors
    /// If it is there and can't be read.
    pub async fn here(&mut self, folder: &Path, counts: bool) -> Result<()> {
        let shelf = Shelf::new(&self.env, folder, &self.root.signing_key().public());
        let at = At::Here(shelf.path().to_path_buf());
        let (bytes, seen) = shelf.raw().await?;
        let seen = match seen.as_deref().map(Seen::decode).transpose() {
            Ok(seen) => seen,
            Err(error) if counts => {
                self.read
                    .push((at, Read::Damaged(format!("what was seen of it last can't be read ({error}): {ANEW}"))));
                return Ok(());
            }
            Err(_) => return Ok(()),
        };
        self.seen.extend(seen);
        match (bytes, seen) {
            (None, None) => {}
            (None, Some(_)) if counts => {
                self.read.push((at, Read::Damaged(format!("it is gone, though it was here: {ANEW}"))));
            }
            (None, Some(_)) => {}
            (Some(bytes), seen) => {
                let opened = Log::open(self.root, &bytes, seen.as_ref());
                // Behind what was seen durable lies at most an append that a crash cut short.
                let is_cut = seen.is_some() && opened.as_ref().is_ok_and(|opened| opened.cut > 0);
                if let Ok(opened) = opened {
                    self.known = self.known.max(Some(opened.log.state().position()));
                }
                if counts {
                    self.look(at, bytes, is_cut);
                }
            }
        }
        Ok(())
    }

    /// Looks at a file.
    ///
    /// # Errors
    /// If it can't be read.
    pub async fn file(&mut self, path: &Path) -> Result<()> {
        let (disk, from) = (self.env.disk.clone(), path.to_path_buf());
        let read = move || {
            let file = disk.open(&from, Open::Read)?;
            let len = file.len()?;
            match len > survey::KIT_BYTES_MAX {
                true => Err(std::io::Error::other(format!("it has {len} bytes: no kit is so long"))),
                false => file.read_vec_at(len as usize, 0),
            }
        };
        let failed = |error: std::io::Error| Error::File { path: path.to_path_buf(), why: error.to_string() };
        let bytes = self.env.blocking(read).await.map_err(client::Error::from)?.map_err(failed)?;
        self.look(At::File(path.to_path_buf()), bytes, false);
        Ok(())
    }

    /// Looks at the copies of all nodes that answer.
    pub async fn nodes(&mut self, reach: &Reach) {
        let public = self.root.signing_key().public();
        let mut broken = Vec::new();
        let labels = survey::labels(reach, &mut broken).await;
        self.silent.extend(reach.silent.iter().cloned());
        self.asked.extend(reach.nodes().keys().filter(|node| broken.iter().all(|(one, _)| one != *node)));
        self.silent.extend(broken.into_iter().map(|(node, why)| (node.to_string(), why)));
        for (_, node) in labels.into_iter().filter(|(label, _)| label.volume == public) {
            match survey::fetch(reach, node, public).await {
                Ok(bytes) => self.look(At::Node(node), bytes, false),
                Err(error) => self.silent.push((node.to_string(), error.to_string())),
            }
        }
    }

    fn look(&mut self, at: At, bytes: Vec<u8>, may_be_cut: bool) {
        let (read, log) = match check(self.root, &bytes, may_be_cut, &self.seen) {
            Ok((log, unfit)) => {
                let (facts, label) = (Facts::of(&log), Label::of(&log));
                let is_fit = unfit.is_none();
                (Read::Log { facts, label, unfit }, is_fit.then_some(log))
            }
            Err(error) => (Read::Damaged(why(&error)), None),
        };
        if let (Some(log), Read::Log { label, .. }) = (log, &read)
            && self.newest.as_ref().is_none_or(|(known, _)| is_newer(label, known))
        {
            let mut bytes = bytes;
            bytes.truncate(log.len() as usize);
            self.newest = Some((*label, Newest { at: at.clone(), bytes, log }));
        }
        self.read.push((at, read));
    }

    /// What it comes to.
    pub fn finish(self) -> Found {
        let Self { root, seen, known, read, newest, silent, asked, .. } = self;
        let lags = |label: &Label| known.is_some_and(|known| label.position < known.seq);
        // Somebody has all that this machine has seen.
        let has_all = newest.as_ref().is_some_and(|(label, _)| !lags(label)) && {
            let fits = |read: &Read| matches!(read, Read::Log { unfit: None, label, .. } if !lags(label));
            seen.is_empty() || read.iter().any(|(_, read)| fits(read))
        };
        let judge = |at: &At, read: Read| match read {
            Read::Damaged(why) => (None, Standing::Damaged(why)),
            Read::Log { facts, label, unfit } => {
                let standing = match unfit {
                    Some(KitError::RolledBack { .. }) if has_all && matches!(at, At::Node(_)) => Standing::Older,
                    Some(error) => Standing::RolledBack(why(&error)),
                    None if lags(&label) && (!has_all || matches!(at, At::File(_))) => {
                        Standing::RolledBack(behind(&facts, known))
                    }
                    None if newest.as_ref().is_some_and(|(newest, _)| is_newer(newest, &label)) => Standing::Older,
                    None => Standing::Sound,
                };
                (Some(facts), standing)
            }
        };
        let mut copies: Vec<Copy> = Vec::new();
        for (at, read) in read {
            let (facts, standing) = judge(&at, read);
            copies.push(Copy { at, facts, standing });
        }
        if let Some((_, newest)) = &newest {
            // Where they are best isn't known here, since kits don't say the sites of nodes: only how many there are to be.
            let unknown = |node: &NodeId| (*node, String::new());
            let could = takers(newest.log.state(), asked.iter().map(unknown).collect());
            let have = copies.iter().filter(|copy| matches!(copy.at, At::Node(_))).count();
            let lacking = copies_of(newest.log.state()).min(could.len()).saturating_sub(have);
            let without = |node: &NodeId| copies.iter().all(|copy| copy.at != At::Node(*node));
            let without = holders(root, could, usize::MAX).into_iter().filter(without);
            let missing: Vec<NodeId> = without.take(lacking).collect();
            let lacks = |node| Copy { at: At::Node(node), facts: None, standing: Standing::Missing };
            copies.extend(missing.into_iter().map(lacks));
        }
        Found { copies, newest: newest.map(|(_, newest)| newest), silent }
    }
}

/// What mends this machine's own log.
const ANEW: &str = "the next `abide ls` of the volume makes it anew";

/// Whether it says more. Logs of several clients that are as far say the same.
fn is_newer(a: &Label, b: &Label) -> bool {
    let of = |label: &Label| (label.generation, label.len);
    a.position > b.position || a.position == b.position && a.log == b.log && of(a) > of(b)
}

fn behind(facts: &Facts, known: Option<Position>) -> String {
    let of = |at: Wall| at.rfc3339();
    let known = known.unwrap_or_default();
    format!(
        "it goes up to {} (position {}), and this machine has seen {} (position {}): export a new one, or use a newer copy",
        of(facts.position.at),
        facts.position.seq,
        of(known.at),
        known.seq
    )
}

/// Opens a copy; if it is one of a log that this machine has seen: why it doesn't fit what was seen. It must be whole, unless its end `may_be_cut`.
fn check(
    root: &VolumeRoot,
    bytes: &[u8],
    may_be_cut: bool,
    seen: &[Seen],
) -> std::result::Result<(Log, Option<KitError>), KitError> {
    let opened = Log::open(root, bytes, None)?;
    if opened.cut > 0 && !may_be_cut {
        return Err(KitError::Damaged { number: opened.log.seen().number + 1, offset: opened.log.len() });
    }
    let own = seen.iter().find(|seen| seen.log == opened.log.seen().log);
    let unfit = own.and_then(|seen| Log::open(root, bytes, Some(seen)).err());
    Ok((opened.log, unfit))
}

/// Why a copy can't be used, and what to do.
fn why(error: &KitError) -> String {
    match error {
        KitError::Codec(codec::Error::Mark { .. }) => {
            "it is no kit, or its first bytes were changed: take another copy".into()
        }
        KitError::Codec(codec::Error::Checksum { what }) if *what == "kit" => {
            "its head is damaged (its checksum doesn't fit): take another copy".into()
        }
        KitError::Damaged { number: 0, offset: 0 } => {
            "it is cut short: it has less than a kit's head: take another copy".into()
        }
        KitError::Damaged { number, offset } => format!(
            "it is damaged at frame {number} (byte {offset}): what is there is no whole frame, it was cut short or changed: take another copy"
        ),
        KitError::Tampered { number, offset } => format!(
            "it was tampered with at frame {number} (byte {offset}): the frame isn't what the volume's owner wrote there: take another copy"
        ),
        KitError::OtherVolume { found } => {
            format!("it is the kit of another volume, whose public key is {found} (see `abide volume list`)")
        }
        KitError::RolledBack { seen, seen_generation, found, found_generation } => format!(
            "it ends at frame {found} of generation {found_generation}, and this machine has seen frame {seen} of generation {seen_generation}: it is an older state: export a new one, or use a newer copy"
        ),
        KitError::Forked { number } => format!(
            "it differs from what this machine has seen at frame {number} or before: another history of the same log, as after keys and kits were brought back from a backup: use a newer copy"
        ),
        KitError::Codec(error @ codec::Error::Version { .. }) => {
            format!("{error}; or its first bytes were changed: take another copy")
        }
        other => format!("{other}: take another copy"),
    }
}

/// How a kit's state differs from a listing: `there` is what they share, of `listed` versions.
pub(crate) fn difference(state: &State, there: usize, listed: usize) -> Behind {
    Behind { lacks: listed - there, gone: state.everything().count().saturating_sub(there) }
}

#[cfg(test)]
mod tests;
