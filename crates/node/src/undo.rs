//! What was deleted or overwritten can be had back until its window has passed ([`namespace::undo`]).
//!
//! 1. The window is one setting of the store. Whoever leads a shard writes it there: what the shard deletes from then on is
//!    kept so long by that leader's clock, which also wrote when it was deleted.
//! 2. What is kept takes room, and is shown. To give it up before its time is a plan like any other: it passes the gate.
//! 3. A bucket is deleted with all that is in it by closing it: nothing of it moves, and to bring it back is to open it.

use std::collections::BTreeMap;
use std::time::Duration;

use base::kv::View;
use base::{Kind, Kinded, VolumeId, Wall};
use client::{Bucket, Metadata};
use namespace::Command;
use namespace::catalog::{self, DeletedBucket, Severity};
use namespace::read::Found;
use namespace::undo::{self, Deleted, FREED_MAX, UndoHead};
use placement::gate::{Change, Contents};
use serde::Serialize;

use crate::command::no_bucket;
use crate::error::{Error, Result};
use crate::gate::Plan;
use crate::node::{Inner, Node, PAGE};

/// The setting: for how many seconds what is deleted is kept, in text.
const SETTING: &str = "undo";
/// The window can't be longer than this.
const WINDOW_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Versions that are brought back at a time.
const BACK_AT_A_TIME: usize = 32;
/// Deleted buckets that are looked at.
const BUCKETS_MAX: usize = 10_000;

/// What can be had back.
#[derive(Clone, Debug, Serialize)]
pub struct UndoList {
    /// For how many seconds what is deleted is kept.
    pub keep_secs: u64,
    /// Versions of objects that can be had back.
    pub versions: u64,
    /// Their bytes, which take room until then.
    pub bytes: u64,
    /// The latest of it, newest first.
    pub items: Vec<UndoItem>,
}

/// An object or a bucket that can be had back.
#[derive(Clone, Debug, Serialize)]
pub struct UndoItem {
    /// Names it, should its name be taken: `@3.1f`.
    pub id: String,
    /// The bucket.
    pub bucket: String,
    /// The key; none if the whole bucket was deleted.
    pub key: Option<String>,
    /// Objects: 1, or those of the bucket.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When it was deleted or overwritten.
    pub deleted: String,
    /// Until when it can be had back.
    pub until: String,
}

/// What was brought back.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Undone {
    /// The bucket.
    pub bucket: String,
    /// Whether the bucket itself had been deleted.
    pub was_bucket: bool,
    /// Objects that are there again.
    pub objects: u64,
    /// Versions of this bucket that can still be had back.
    pub left: u64,
}

/// What somebody names to have it back, or to give it up.
enum Named {
    All,
    Bucket(String),
    Key(String, String),
    /// A volume, and one version in it.
    Id(VolumeId, Option<u64>),
}

impl Named {
    fn parse(text: &str) -> Result<Self> {
        let wrong = || Error::Invalid(format!("{text:?} names nothing: write BUCKET, BUCKET/KEY or an id like @3.1f"));
        if let Some(id) = text.strip_prefix('@') {
            let (volume, ord) = id.split_once('.').map_or((id, None), |(volume, ord)| (volume, Some(ord)));
            let hex = |text: &str| u64::from_str_radix(text, 16).map_err(|_| wrong());
            let volume = u32::try_from(hex(volume)?).map_err(|_| wrong())?;
            return Ok(Named::Id(VolumeId(volume), ord.map(hex).transpose()?));
        }
        match text.split_once('/') {
            None | Some((_, "")) if text.trim_end_matches('/').is_empty() => Err(wrong()),
            None | Some((_, "")) => Ok(Named::Bucket(text.trim_end_matches('/').into())),
            Some((bucket, key)) => Ok(Named::Key(bucket.into(), key.into())),
        }
    }
}

/// What a purge gives up.
#[derive(Default)]
struct Purge {
    /// Of these volumes all that was deleted, or of one key.
    volumes: Vec<(VolumeId, Option<String>)>,
    /// These buckets with all that is in them.
    buckets: Vec<VolumeId>,
    contents: Contents,
}

/// What can be had back.
impl Node {
    /// What was deleted or overwritten and can be had back, newest first; `of`: only of this bucket.
    ///
    /// # Errors
    /// If the metadata can't be read.
    pub async fn deleted(&self, of: Option<&str>, limit: usize) -> Result<UndoList> {
        let inner = &self.0;
        let window = inner.undo_window()?;
        let until = |deleted: Wall| Wall(deleted.0.saturating_add(window.as_millis() as u64)).rfc3339();
        let mut all: Vec<(Wall, UndoItem)> = Vec::new();
        let mut sum = UndoHead::default();
        for DeletedBucket { bucket, deleted } in inner.look(|view| catalog::deleted_buckets(view, BUCKETS_MAX))? {
            let volume = bucket.volume;
            let head = inner.scan(volume, move |view| namespace::read::stats(view, volume)).await?;
            (sum.versions, sum.bytes) = (sum.versions + head.versions, sum.bytes + head.version_bytes);
            let item = UndoItem {
                id: format!("@{:x}", volume.0),
                bucket: bucket.name,
                key: None,
                objects: head.objects,
                bytes: head.version_bytes,
                deleted: deleted.rfc3339(),
                until: until(deleted),
            };
            all.push((deleted, item));
        }
        for (name, volume) in inner.named_volumes()? {
            let (kept, found) = inner
                .scan(volume, move |view| Ok((undo::stats(view, volume)?, undo::list(view, volume, None, limit)?)))
                .await?;
            (sum.versions, sum.bytes) = (sum.versions + kept.versions, sum.bytes + kept.bytes);
            all.extend(found.into_iter().map(|Deleted { key, ord, deleted, version }| {
                let item = UndoItem {
                    id: format!("@{:x}.{ord:x}", volume.0),
                    bucket: name.clone(),
                    key: Some(key),
                    objects: 1,
                    bytes: version.size,
                    deleted: deleted.rfc3339(),
                    until: until(deleted),
                };
                (deleted, item)
            }));
        }
        all.retain(|(_, item)| of.is_none_or(|of| of == item.bucket));
        all.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| y.id.cmp(&x.id)));
        all.truncate(limit);
        let items = all.into_iter().map(|(_, item)| item).collect();
        Ok(UndoList { keep_secs: window.as_secs(), versions: sum.versions, bytes: sum.bytes, items })
    }

    /// Brings back a deleted bucket, all that was deleted from a bucket and isn't there now, what a key held last, or what
    /// an id names. `name`: what to call the bucket, if its name is taken.
    ///
    /// # Errors
    /// If there is nothing to bring back, or it can't be.
    pub async fn undo(&self, what: &str, name: Option<&str>) -> Result<Undone> {
        let inner = &self.0;
        let undone = match Named::parse(what)? {
            Named::All => return Err(Error::Invalid("name a bucket, BUCKET/KEY or an id".into())),
            Named::Bucket(bucket) => match inner.client.bucket(&bucket).await? {
                Some(there) => inner.undelete_all(&there).await?,
                None => {
                    let gone = inner.deleted_bucket(&bucket)?.ok_or_else(|| nothing(what))?;
                    inner.restore_bucket(gone.bucket.volume, name).await?
                }
            },
            Named::Key(bucket, key) => {
                let there = inner.client.bucket(&bucket).await?.ok_or_else(|| no_bucket(&bucket))?;
                inner.undelete_key(&there, &key).await?
            }
            Named::Id(volume, None) => inner.restore_bucket(volume, name).await?,
            Named::Id(volume, Some(ord)) => {
                let found = inner.deleted_by_ord(volume, ord).await?.ok_or_else(|| nothing(what))?;
                let named = inner.named_volumes()?.into_iter().find(|(_, named)| *named == volume);
                let (name, _) =
                    named.ok_or_else(|| Error::Refused("its bucket is deleted: bring that back first".into()))?;
                let bucket = inner.bucket_of(volume);
                inner.client.commit(&bucket, Command::Undelete { key: found.key, ord }).await?;
                Undone { bucket: name, objects: 1, ..Undone::default() }
            }
        };
        let volume = inner.named_volumes()?.into_iter().find(|(name, _)| *name == undone.bucket);
        let left = match volume {
            Some((_, volume)) => inner.scan(volume, move |view| undo::stats(view, volume)).await?.versions,
            None => 0,
        };
        Ok(Undone { left, ..undone })
    }

    /// For how long what is deleted is kept from now on. What was kept for longer than that goes, so a shorter time
    /// passes the gate.
    ///
    /// # Errors
    /// If it is too long, refused, or can't be changed.
    pub async fn keep_deleted(&self, window: Duration, apply: bool, code: Option<&str>) -> Result<Plan> {
        let inner = &self.0;
        if window > WINDOW_MAX {
            return Err(Error::Invalid("at most 366d; nothing was changed".into()));
        }
        let by = Wall(inner.env.clock.wall().0.saturating_sub(window.as_millis() as u64));
        let purge = if window < inner.undo_window()? { inner.older(by).await? } else { Purge::default() };
        let judged = inner.judge(Change::PurgeTrash { contents: purge.contents }).await?;
        let mut plan = judged.plan();
        plan.change = format!("keep what is deleted for {} s; {}", window.as_secs(), plan.change);
        if apply || code.is_some() {
            judged.permit(code)?;
            let text = window.as_secs().to_string();
            inner.change(move |_| Ok((catalog::put_setting(SETTING, Some(text.as_bytes())), ()))).await?;
            inner.note_applied(&judged).await?;
            inner.keep_windows().await;
            plan.applied = true;
        }
        Ok(plan)
    }

    /// Gives up for good what could be had back: all, of a bucket, of a key, or one thing by its id. The outcome is shown
    /// first; since data goes, it takes the outcome's code.
    ///
    /// # Errors
    /// If nothing of it is there, or it is refused.
    pub async fn purge(&self, what: Option<&str>, apply: bool, code: Option<&str>) -> Result<Plan> {
        let inner = &self.0;
        let named = what.map_or(Ok(Named::All), Named::parse)?;
        let by = inner.env.clock.wall();
        let purge = inner.named_for_purge(named).await?;
        if purge.volumes.is_empty() && purge.buckets.is_empty() {
            return Err(nothing(what.unwrap_or("anything")));
        }
        let judged = inner.judge(Change::PurgeTrash { contents: purge.contents }).await?;
        let mut plan = judged.plan();
        if !(apply || code.is_some()) {
            return Ok(plan);
        }
        judged.permit(code)?;
        inner.note_applied(&judged).await?;
        inner.carry_out_purge(purge, by).await?;
        inner.tell(Severity::Warning, "plan", "", plan.change.clone());
        plan.applied = true;
        Ok(plan)
    }

    /// Deletes a bucket; with `contents` also one that isn't empty, which takes the outcome's code.
    ///
    /// # Errors
    /// If there is none, it isn't empty, or it is refused.
    pub async fn delete_bucket(&self, name: &str, contents: bool, apply: bool, code: Option<&str>) -> Result<Plan> {
        let inner = &self.0;
        let bucket = inner.client.bucket(name).await?.ok_or_else(|| no_bucket(name))?;
        let volume = bucket.volume;
        let head = inner.scan(volume, move |view| namespace::read::stats(view, volume)).await?;
        if head.versions > 0 && !contents {
            return Err(Error::Refused(format!(
                "bucket {name} holds {} versions of objects: --with-contents deletes them as well; nothing was changed",
                head.versions
            )));
        }
        let held = Contents { objects: head.versions, bytes: head.version_bytes };
        let judged = inner.judge(Change::DeleteBucket { bucket: name.into(), contents: held }).await?;
        let mut plan = judged.plan();
        let window = inner.undo_window()?;
        plan.outcome.push(match window.as_secs() {
            0 => "nothing that is deleted is kept: it can't be had back".into(),
            secs => format!("`abide undo {name}` brings it back for {} h", secs as f64 / 3600.0),
        });
        if !(apply || code.is_some()) {
            return Ok(plan);
        }
        judged.permit(code)?;
        inner.note_applied(&judged).await?;
        match head.versions {
            0 => inner.client.delete_bucket(name).await?,
            _ => inner.client.delete_full_bucket(name).await?,
        }
        inner.tell(Severity::Warning, "plan", name, plan.change.clone());
        plan.applied = true;
        Ok(plan)
    }
}

fn nothing(what: &str) -> Error {
    Error::Missing(format!("nothing of {what} can be had back: `abide undo` lists what can"))
}

impl Inner {
    /// For how long what is deleted is kept.
    pub(crate) fn undo_window(&self) -> Result<Duration> {
        let text = self.look(|view| catalog::setting(view, SETTING))?;
        let secs = text.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok());
        Ok(secs.map_or(self.settings.undo_for, Duration::from_secs).min(WINDOW_MAX))
    }

    fn named_volumes(&self) -> Result<Vec<(String, VolumeId)>> {
        let all = self.look(|view| catalog::list_all_buckets(view, "", usize::MAX >> 1))?;
        Ok(all.into_iter().map(|bucket| (bucket.name, bucket.volume)).collect())
    }

    /// The deleted bucket of this name that went last.
    fn deleted_bucket(&self, name: &str) -> Result<Option<DeletedBucket>> {
        let all = self.look(|view| catalog::deleted_buckets(view, BUCKETS_MAX))?;
        Ok(all.into_iter().filter(|one| one.bucket.name == name).max_by_key(|one| (one.deleted, one.bucket.volume)))
    }

    async fn restore_bucket(&self, volume: VolumeId, name: Option<&str>) -> Result<Undone> {
        let back = match self.client.restore_bucket(volume, name).await {
            Err(error) if error.kind() == Kind::Exists => {
                return Err(Error::Refused("another bucket has its name: bring it back with --as NAME".into()));
            }
            done => done?,
        };
        let head = self.scan(volume, move |view| namespace::read::stats(view, volume)).await?;
        self.tell(Severity::Info, "bucket", &back.name, format!("bucket {} was brought back", back.name));
        Ok(Undone { bucket: back.name.clone(), was_bucket: true, objects: head.objects, left: 0 })
    }

    /// What a key held last; if it has a delete marker, that goes.
    async fn undelete_key(&self, bucket: &Bucket, key: &str) -> Result<Undone> {
        let undone = Undone { bucket: bucket.name.clone(), objects: 1, ..Undone::default() };
        match self.client.head(bucket, key, None, false).await {
            Ok(Found::Marker(marker)) if marker.id != namespace::VersionId::NULL => {
                let delete =
                    Command::Delete { key: key.into(), version: Some(marker.id), condition: Default::default() };
                self.client.commit(bucket, delete).await?;
                return Ok(undone);
            }
            Ok(_) => {}
            Err(error) if error.kind() == Kind::Missing => {}
            Err(error) => return Err(error.into()),
        }
        let (volume, name) = (bucket.volume, key.to_owned());
        let kept = self.scan(volume, move |view| undo::list_key(view, volume, &name)).await?;
        let last = kept.into_iter().max_by_key(|one| (one.deleted, one.ord));
        let last = last.ok_or_else(|| nothing(&format!("{}/{key}", bucket.name)))?;
        self.client.commit(bucket, Command::Undelete { key: key.into(), ord: last.ord }).await?;
        Ok(undone)
    }

    /// Everything that was deleted from a bucket and isn't there now.
    async fn undelete_all(&self, bucket: &Bucket) -> Result<Undone> {
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        let mut before = None;
        loop {
            let page = self.undo_page(bucket.volume, before).await?;
            before = page.last().map(|one| (one.deleted, one.ord));
            let full = page.len() == PAGE;
            // The newest comes first.
            page.into_iter().for_each(|one| _ = last.entry(one.key).or_insert(one.ord));
            if !full {
                break;
            }
        }
        let mut undone = Undone { bucket: bucket.name.clone(), ..Undone::default() };
        let all: Vec<(String, u64)> = last.into_iter().collect();
        for some in all.chunks(BACK_AT_A_TIME) {
            let each = some.iter().map(|(key, ord)| self.undelete_missing(bucket, key, *ord));
            for done in futures_util::future::join_all(each).await {
                undone.objects += u64::from(done?);
            }
        }
        if undone.objects == 0 {
            return Err(Error::Missing(format!(
                "nothing was deleted from {} that isn't there again; `abide undo {}/KEY` brings back what was overwritten",
                bucket.name, bucket.name
            )));
        }
        Ok(undone)
    }

    /// Brings a version back unless its key has an object; whether it did.
    async fn undelete_missing(&self, bucket: &Bucket, key: &str, ord: u64) -> Result<bool> {
        match self.client.head(bucket, key, None, false).await {
            Ok(Found::Object(_)) => return Ok(false),
            Ok(Found::Marker(_)) => {}
            Err(error) if error.kind() == Kind::Missing => {}
            Err(error) => return Err(error.into()),
        }
        match self.client.commit(bucket, Command::Undelete { key: key.into(), ord }).await {
            Ok(_) => Ok(true),
            // Its window passed meanwhile.
            Err(error) if error.kind() == Kind::Missing => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn undo_page(&self, volume: VolumeId, before: Option<(Wall, u64)>) -> Result<Vec<Deleted>> {
        self.scan(volume, move |view| undo::list(view, volume, before, PAGE)).await
    }

    async fn deleted_by_ord(&self, volume: VolumeId, ord: u64) -> Result<Option<Deleted>> {
        let mut before = None;
        loop {
            let page = self.undo_page(volume, before).await?;
            before = page.last().map(|one| (one.deleted, one.ord));
            let full = page.len() == PAGE;
            if let Some(found) = page.into_iter().find(|one| one.ord == ord) {
                return Ok(Some(found));
            }
            if !full {
                return Ok(None);
            }
        }
    }

    /// All that was deleted by then.
    async fn older(&self, by: Wall) -> Result<Purge> {
        let mut purge = Purge::default();
        for DeletedBucket { bucket, deleted } in self.look(|view| catalog::deleted_buckets(view, BUCKETS_MAX))? {
            if deleted <= by {
                self.add_bucket(&mut purge, bucket.volume).await?;
            }
        }
        for (_, volume) in self.named_volumes()? {
            let mut before = Some((Wall(by.0.saturating_add(1)), 0));
            loop {
                let page = self.undo_page(volume, before).await?;
                before = page.last().map(|one| (one.deleted, one.ord));
                purge.contents.objects += page.len() as u64;
                purge.contents.bytes += page.iter().map(|one| one.version.size).sum::<u64>();
                if page.len() < PAGE {
                    break;
                }
            }
        }
        Ok(purge)
    }

    async fn add_bucket(&self, purge: &mut Purge, volume: VolumeId) -> Result<()> {
        let (head, kept) = self
            .scan(volume, move |view| Ok((namespace::read::stats(view, volume)?, undo::stats(view, volume)?)))
            .await?;
        purge.contents.objects += head.versions + kept.versions;
        purge.contents.bytes += head.version_bytes + kept.bytes;
        purge.buckets.push(volume);
        Ok(())
    }

    async fn add_volume(&self, purge: &mut Purge, volume: VolumeId) -> Result<()> {
        let kept = self.scan(volume, move |view| undo::stats(view, volume)).await?;
        if kept != UndoHead::default() {
            purge.contents.objects += kept.versions;
            purge.contents.bytes += kept.bytes;
            purge.volumes.push((volume, None));
        }
        Ok(())
    }

    async fn named_for_purge(&self, named: Named) -> Result<Purge> {
        let mut purge = Purge::default();
        match named {
            Named::Key(bucket, key) => {
                let there = self.client.bucket(&bucket).await?.ok_or_else(|| no_bucket(&bucket))?;
                let (volume, name) = (there.volume, key.clone());
                let kept = self.scan(volume, move |view| undo::list_key(view, volume, &name)).await?;
                purge.contents.objects = kept.len() as u64;
                purge.contents.bytes = kept.iter().map(|one| one.version.size).sum();
                purge.volumes.extend((!kept.is_empty()).then_some((volume, Some(key))));
            }
            Named::Id(_, Some(_)) => {
                return Err(Error::Invalid("name the key: all that can be had back of it goes together".into()));
            }
            Named::Id(volume, None) => {
                if self
                    .look(|view| catalog::deleted_buckets(view, BUCKETS_MAX))?
                    .iter()
                    .any(|one| one.bucket.volume == volume)
                {
                    self.add_bucket(&mut purge, volume).await?;
                }
            }
            Named::All | Named::Bucket(_) => {
                let is_meant =
                    |name: &str| matches!(&named, Named::All) || matches!(&named, Named::Bucket(one) if one == name);
                for gone in self.look(|view| catalog::deleted_buckets(view, BUCKETS_MAX))? {
                    if is_meant(&gone.bucket.name) {
                        self.add_bucket(&mut purge, gone.bucket.volume).await?;
                    }
                }
                for (name, volume) in self.named_volumes()? {
                    if is_meant(&name) {
                        self.add_volume(&mut purge, volume).await?;
                    }
                }
            }
        }
        Ok(purge)
    }

    async fn carry_out_purge(&self, purge: Purge, by: Wall) -> Result<()> {
        for (volume, key) in purge.volumes {
            self.expire(volume, Some(by), key).await?;
        }
        for volume in purge.buckets {
            self.change(move |view| Ok((catalog::let_bucket_go(view, volume)?, ()))).await?;
            self.empty_volume(volume).await?;
        }
        Ok(())
    }

    /// Frees what was deleted in a volume: by then, or what its window has passed for.
    async fn expire(&self, volume: VolumeId, by: Option<Wall>, key: Option<String>) -> Result<()> {
        let bucket = self.bucket_of(volume);
        loop {
            let done = self.client.commit(&bucket, Command::Expire { by, key: key.clone() }).await?;
            if done.size < u64::from(FREED_MAX) || self.is_closing() {
                return Ok(());
            }
        }
    }

    /// Frees all that is in the volume of a bucket that can't be had back any more.
    async fn empty_volume(&self, volume: VolumeId) -> Result<()> {
        let bucket = self.bucket_of(volume);
        self.client.commit(&bucket, Command::Shut).await?;
        while self.client.commit(&bucket, Command::Empty).await?.size > 0 && !self.is_closing() {}
        Ok(())
    }

    /// What is deleted in shards that this node leads is kept as long as the setting says.
    pub(crate) async fn keep_windows(&self) {
        let Ok(window) = self.undo_window() else { return };
        let millis = window.as_millis() as u64;
        for shard in
            self.shards.all().into_iter().filter(|shard| shard.number != crate::node::SYSTEM && shard.is_led_here())
        {
            let is_set = |view: &dyn View| Ok::<_, client::Error>(undo::window(view)? == millis);
            let shard = client::Shard::new(self.env.clone(), shard);
            if matches!(shard.peek(is_set), Ok(Some(true))) {
                continue;
            }
            if let Err(error) = shard.execute(move |view| Ok((undo::set_window(view, millis)?, ()))).await {
                tracing::info!(%error, "for how long what is deleted is kept couldn't be said to a shard: trying again");
            }
        }
    }

    /// Frees what can't be had back any more in one volume.
    pub(crate) async fn keep_deleted_of(&self, volume: VolumeId) -> Result<()> {
        let is_due = self.scan(volume, move |view| undo::is_due(view, volume, Wall(u64::MAX - 1))).await?;
        if is_due { self.expire(volume, None, None).await } else { Ok(()) }
    }

    /// Empties the volumes of buckets that can't be had back any more.
    pub(crate) async fn empty_dead(&self) -> Result<()> {
        let (window, now) = (self.undo_window()?, self.env.clock.wall());
        let gone = self.look(|view| catalog::deleted_buckets(view, BUCKETS_MAX))?;
        let kept = |one: &&DeletedBucket| one.deleted.0.saturating_add(window.as_millis() as u64) > now.0;
        for one in gone.iter().filter(|one| !kept(one)) {
            let volume = one.bucket.volume;
            self.change(move |view| Ok((catalog::let_bucket_go(view, volume)?, ()))).await?;
        }
        let kept: Vec<VolumeId> = gone.iter().filter(kept).map(|one| one.bucket.volume).collect();
        for dead in self.look(|view| catalog::dead_volumes(view, None, PAGE))? {
            let volume = dead.volume;
            if !kept.contains(&volume) && !self.scan(volume, move |view| undo::is_empty(view, volume)).await? {
                self.empty_volume(volume).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_is_a_bucket_a_key_or_an_id() {
        let told = |text: &str| match Named::parse(text) {
            Ok(Named::Bucket(bucket)) => format!("bucket {bucket}"),
            Ok(Named::Key(bucket, key)) => format!("key {key} in {bucket}"),
            Ok(Named::Id(volume, ord)) => format!("id {} {ord:?}", volume.0),
            Ok(Named::All) => "all".into(),
            Err(_) => "wrong".into(),
        };
        for (text, meant) in [
            ("photos", "bucket photos"),
            ("photos/", "bucket photos"),
            ("photos/a/b", "key a/b in photos"),
            ("@1f", "id 31 None"),
            ("@1f.a", "id 31 Some(10)"),
            ("@", "wrong"),
            ("@x.1", "wrong"),
            ("@100000000", "wrong"),
            ("", "wrong"),
            ("/", "wrong"),
        ] {
            assert_eq!(told(text), meant, "{text}");
        }
    }
}
