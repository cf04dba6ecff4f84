//! Copies of kits in files: `kits/` in a drive's folder. This node needn't be able to read them.
//!
//! A copy is one file, which is only appended to; a *label* beside it says which copy it is, and how many of its bytes count. A copy
//! that is being filled counts from the moment that its label is there; then the older one goes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base::Kind;
use codec::{Reader, Versioned, Writer};
use crypt::PublicKey;
use env::{Disk, Env, Open};
use kit::spread::{Label, Parcel, Shelf, Take};

use crate::error::{Error, Result};
use crate::fleet::{folder, lock};
use crate::identity::Lock;
use crate::private;

/// The folder in a drive's.
const DIR: &str = "kits";
/// Bytes of a label's file at the most.
const LABEL_BYTES_MAX: u64 = 256;
/// Copies kept at the most.
const COPIES_MAX: usize = 100_000;

/// What is kept of one volume.
struct Copy {
    shelf: Shelf,
    dir: PathBuf,
}

type Slot = Arc<tokio::sync::Mutex<Option<Copy>>>;

/// The copies of this node.
pub(crate) struct Shelves {
    env: Env,
    copies: Mutex<BTreeMap<PublicKey, Slot>>,
}

/// A label in its file.
struct Stored(Label);

impl Versioned for Stored {
    const NAME: &'static str = "label of a kit's copy";
    const MARK: [u8; 4] = *b"AbKl";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        self.0.write(to);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> std::result::Result<Self, codec::Error> {
        Label::read(from).map(Self)
    }
}

fn label_path(dir: &Path, volume: &PublicKey) -> PathBuf {
    dir.join(format!("{volume}.label"))
}

fn copy_path(dir: &Path, label: &Label) -> PathBuf {
    dir.join(format!("{}-{}-{}.kit", label.volume, base::ids::hex(&label.log), label.generation))
}

impl Shelves {
    pub fn new(env: Env) -> Self {
        Self { env, copies: Mutex::default() }
    }

    /// Knows the copies on a drive whose folder this is.
    pub async fn add_drive(&self, drive: &Path) -> Result<()> {
        let (disk, dir) = (self.env.disk.clone(), drive.join(DIR));
        let place = dir.clone();
        let found = self.env.blocking(move || read_labels(&*disk, &place)).await.map_err(client::Error::from)?;
        let found = found
            .map_err(|why| folder(&dir, format!("failed to list the copies of kits: {why}"), Kind::Unreachable))?;
        let mut copies = lock(&self.copies);
        for label in found {
            // Of two copies the first one that is found counts; the other is replaced when a newer one comes.
            let copy = || Copy { shelf: Shelf { whole: Some(label), filling: None }, dir: dir.clone() };
            copies.entry(label.volume).or_insert_with(|| Arc::new(tokio::sync::Mutex::new(Some(copy()))));
        }
        Ok(())
    }

    /// Whether there is anything of this volume.
    pub fn has(&self, volume: &PublicKey) -> bool {
        lock(&self.copies).contains_key(volume)
    }

    /// The whole copies that `wanted` names, or all.
    pub async fn labels(&self, wanted: Option<PublicKey>) -> Vec<Label> {
        let slots: Vec<Slot> = match wanted {
            Some(volume) => lock(&self.copies).get(&volume).cloned().into_iter().collect(),
            None => lock(&self.copies).values().cloned().collect(),
        };
        let mut labels = Vec::new();
        for slot in slots {
            labels.extend(slot.lock().await.as_ref().and_then(|copy| copy.shelf.whole));
        }
        labels
    }

    /// Bytes of the whole copy of this volume, from `from` on; nothing if there is none.
    pub async fn read(&self, volume: PublicKey, from: u64, max: usize) -> Result<Option<(Label, Vec<u8>)>> {
        let Some(slot) = lock(&self.copies).get(&volume).cloned() else { return Ok(None) };
        // Held, so that a newer copy doesn't take this one's place while it is read.
        let copy = slot.lock().await;
        let Some((label, dir)) = copy.as_ref().and_then(|copy| Some((copy.shelf.whole?, copy.dir.clone()))) else {
            return Ok(None);
        };
        let len = label.len.saturating_sub(from).min(max as u64) as usize;
        let (disk, path) = (self.env.disk.clone(), copy_path(&dir, &label));
        let place = path.clone();
        let read = move || disk.open(&place, Open::Read)?.read_vec_at(len, from);
        let bytes = self.env.blocking(read).await.map_err(client::Error::from)?;
        let bytes =
            bytes.map_err(|why| folder(&path, format!("failed to read a kit's copy: {why}"), Kind::Unreachable))?;
        Ok(Some((label, bytes)))
    }

    /// Drops what there is of this volume: nobody has use for it.
    pub async fn drop_all(&self, volume: &PublicKey) -> Result<()> {
        let Some(slot) = lock(&self.copies).get(volume).cloned() else { return Ok(()) };
        let mut copy = slot.lock().await;
        if let Some(Copy { shelf, dir }) = copy.as_ref() {
            let labels: Vec<Label> = shelf.whole.into_iter().chain(shelf.filling.map(|(label, _)| label)).collect();
            let (disk, place, volume) = (self.env.disk.clone(), dir.clone(), *volume);
            let remove = move || {
                let gone = |path: PathBuf| if disk.exists(&path) { disk.remove_file(&path) } else { Ok(()) };
                // A copy that no label names counts for nothing.
                gone(label_path(&place, &volume))?;
                labels.iter().try_for_each(|label| gone(copy_path(&place, label)))?;
                disk.sync_dir(&place)
            };
            let removed = self.env.blocking(remove).await.map_err(client::Error::from)?;
            removed.map_err(|why| folder(dir, format!("failed to drop a kit's copy: {why}"), Kind::Unreachable))?;
        }
        *copy = None;
        lock(&self.copies).remove(volume);
        Ok(())
    }

    /// Keeps a parcel; durable when this returns. `drive` is where a new copy goes.
    pub async fn take(&self, (drive, held): (&Path, Arc<Lock>), parcel: Parcel) -> Result<Take> {
        let volume = parcel.label.volume;
        let slot = {
            let mut copies = lock(&self.copies);
            if !copies.contains_key(&volume) && copies.len() >= COPIES_MAX {
                return Err(Error::NotYet("this node keeps as many kits as it can".into()));
            }
            copies.entry(volume).or_default().clone()
        };
        let mut copy = slot.lock().await;
        let (mut shelf, old_dir) = match &*copy {
            Some(copy) => (copy.shelf, copy.dir.clone()),
            None => (Shelf::default(), drive.join(DIR)),
        };
        let before = shelf.whole;
        let take = shelf.take(&parcel);
        let dir = match take {
            // A copy that begins may go to another drive: the old one may have failed.
            Take::Begin => drive.join(DIR),
            Take::Grow | Take::Fill => old_dir.clone(),
            Take::Known | Take::From(_) | Take::Older | Take::Forged => {
                return Ok(take);
            }
        };
        let (disk, place) = (self.env.disk.clone(), dir.clone());
        let write = move || {
            // A folder that was deleted and made anew is not this drive any more.
            if take == Take::Begin && !held.is_there() {
                return Err("the drive's folder is gone".to_owned());
            }
            write(&*disk, &place, take, &parcel, &shelf, before.map(|label| (old_dir, label)))
        };
        let wrote = self.env.blocking(write).await.map_err(client::Error::from)?;
        match wrote {
            Ok(()) => {
                *copy = Some(Copy { shelf, dir });
                Ok(take)
            }
            // What is there is not known any more: a copy that is sent anew finds its place.
            Err(why) => {
                *copy = None;
                Err(folder(&dir, format!("failed to keep a kit's copy: {why}"), Kind::Unreachable))
            }
        }
    }
}

fn read_labels(disk: &dyn Disk, dir: &Path) -> std::io::Result<Vec<Label>> {
    if !disk.exists(dir) {
        return Ok(Vec::new());
    }
    let entries = disk.read_dir(dir)?;
    let mut labels = Vec::new();
    for entry in entries.iter().filter(|entry| entry.name.ends_with(".label")) {
        let whole = || {
            let bytes = private::read(disk, &dir.join(&entry.name), LABEL_BYTES_MAX).ok()?;
            let Stored(label) = Stored::decode(&bytes).ok()?;
            let len = disk.open(&copy_path(dir, &label), Open::Read).ok()?.len().ok()?;
            (len >= label.len).then_some(label)
        };
        match whole() {
            Some(label) => labels.push(label),
            None => tracing::warn!(name = entry.name, "a kit's copy can't be read: it is replaced by a newer one"),
        }
    }
    Ok(labels)
}

fn io(error: std::io::Error) -> String {
    error.to_string()
}

fn write(
    disk: &dyn Disk,
    dir: &Path,
    take: Take,
    parcel: &Parcel,
    shelf: &Shelf,
    before: Option<(PathBuf, Label)>,
) -> std::result::Result<(), String> {
    disk.create_dir_all(dir).map_err(io)?;
    let path = copy_path(dir, &parcel.label);
    let file = match take {
        Take::Begin => {
            let file = disk.open(&path, Open::Create).map_err(io)?;
            file.set_len(0).map_err(io)?;
            disk.make_private(&path).map_err(io)?;
            file
        }
        _ => disk.open(&path, Open::Write).map_err(io)?,
    };
    file.write_at(&parcel.bytes, parcel.offset).map_err(io)?;
    file.sync_data().map_err(io)?;
    let Some(label) = shelf.whole.filter(|_| shelf.filling.is_none()) else {
        return Ok(());
    };
    if take == Take::Begin {
        disk.sync_dir(dir).map_err(io)?;
    }
    private::write(disk, &label_path(dir, &label.volume), &Stored(label).encode())?;
    // Nothing names the older copy any more.
    if let Some((old_dir, old)) = before
        && (copy_path(&old_dir, &old) != path)
    {
        if old_dir != dir {
            // That it stays on a drive that failed does no harm: it is older.
            let _ = disk.remove_file(&label_path(&old_dir, &old.volume));
        }
        let _ = disk.remove_file(&copy_path(&old_dir, &old));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use base::VolumeId;
    use crypt::VolumeRoot;
    use kit::{Change, Log, Position, State};

    use super::*;

    /// Nobody else looks at these folders: each call locks anew what the one before let go.
    fn held(env: &Env, drive: &Path) -> Arc<Lock> {
        std::fs::create_dir_all(drive).unwrap();
        Arc::new(Lock::take(&*env.disk, drive).unwrap())
    }

    fn parcels(root: &VolumeRoot, log: &Log, bytes: &[u8], from: u64) -> Vec<Parcel> {
        Parcel::all(root, Label::of(log), bytes, from).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_grows_is_replaced_and_is_there_after_a_start() {
        let home = tempfile::tempdir().unwrap();
        let (one, two) = (home.path().join("one"), home.path().join("two"));
        let env = Env::real();
        let root = VolumeRoot::new([1; 32]);
        let public = root.signing_key().public();
        let (mut bytes, mut log) = Log::create(&root, VolumeId(7), [1; 16], State::default(), || env.random()).unwrap();
        let shelves = Shelves::new(env.clone());
        for parcel in parcels(&root, &log, &bytes, 0) {
            assert_eq!(shelves.take((&one, held(&env, &one)), parcel).await.unwrap(), Take::Begin);
        }
        let at = bytes.len() as u64;
        let position = Position { seq: 3, at: base::Wall(9) };
        bytes.extend(log.append(vec![Change::Position(position)], || env.random()).unwrap());
        let grown = parcels(&root, &log, &bytes, at);
        assert_eq!(shelves.take((&one, held(&env, &one)), grown[0].clone()).await.unwrap(), Take::Grow);
        assert_eq!(shelves.take((&one, held(&env, &one)), grown[0].clone()).await.unwrap(), Take::Known);
        let read = shelves.read(public, 0, 1 << 20).await.unwrap().unwrap();
        assert_eq!(read, (Label::of(&log), bytes.clone()));

        // The next start finds it; a later generation takes its place, on another drive.
        let again = Shelves::new(env.clone());
        again.add_drive(&one).await.unwrap();
        assert_eq!(again.labels(None).await, [Label::of(&log)]);
        let (compact, log) = log.compact(|| env.random()).unwrap();
        for parcel in parcels(&root, &log, &compact, 0) {
            assert_eq!(again.take((&two, held(&env, &two)), parcel).await.unwrap(), Take::Begin);
        }
        assert_eq!(again.read(public, 5, 10).await.unwrap().unwrap().1, compact[5..15]);
        assert!(std::fs::read_dir(one.join(DIR)).unwrap().next().is_none(), "the older one is gone");
        assert_eq!(again.take((&two, held(&env, &two)), grown[0].clone()).await.unwrap(), Take::Older);
        let mut forged = parcels(&root, &log, &compact, 0).remove(0);
        forged.bytes[10] ^= 1;
        assert_eq!(again.take((&two, held(&env, &two)), forged).await.unwrap(), Take::Forged);
        assert!(again.has(&public));
        again.drop_all(&public).await.unwrap();
        assert!(!again.has(&public) && again.labels(None).await.is_empty());
        assert!(std::fs::read_dir(two.join(DIR)).unwrap().next().is_none(), "nothing of it is left");
        assert!(!again.has(&VolumeRoot::new([2; 32]).signing_key().public()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_torn_copy_counts_for_nothing_after_a_start() {
        let home = tempfile::tempdir().unwrap();
        let env = Env::real();
        let root = VolumeRoot::new([1; 32]);
        let (bytes, log) = Log::create(&root, VolumeId(7), [1; 16], State::default(), || env.random()).unwrap();
        let shelves = Shelves::new(env.clone());
        for parcel in parcels(&root, &log, &bytes, 0) {
            shelves.take((home.path(), held(&env, home.path())), parcel).await.unwrap();
        }
        let path = copy_path(&home.path().join(DIR), &Label::of(&log));
        env.disk.open(&path, Open::Write).unwrap().set_len(bytes.len() as u64 - 1).unwrap();
        let again = Shelves::new(env.clone());
        again.add_drive(home.path()).await.unwrap();
        assert!(again.labels(None).await.is_empty());
        // It is taken anew.
        assert_eq!(
            again
                .take((home.path(), held(&env, home.path())), parcels(&root, &log, &bytes, 0).remove(0))
                .await
                .unwrap(),
            Take::Begin
        );
    }
}
