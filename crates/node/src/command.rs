//! What people ask of a running store: drives that join and leave, codes of buckets, checks.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use base::{DriveId, Kind};
use client::{Fault, POLICY_SETTING};
use namespace::catalog::{DriveRow, DriveState, Severity};
use namespace::read::{Found, ListQuery};
use namespace::{Body, Version, VersionId};
use policy::{Coding, Rule};
use serde::Serialize;
use steward::Pace;

use crate::error::{Error, Result};
use crate::fleet::{Mounted, folder};
use crate::groups;
use crate::heal::PACE;
use crate::identity::{self, Folder, Lock};
use crate::node::{Inner, Node, PAGE};
use crate::open::{check_room, join};
use crate::status::default_policy;

/// Findings of a verify that are listed; more are counted.
const FINDINGS_MAX: usize = 1000;

/// A drive that was added.
#[derive(Clone, Debug, Serialize)]
pub struct Added {
    /// Its id.
    pub id: String,
    /// Its folder.
    pub path: String,
}

/// How a bucket is coded.
#[derive(Clone, Debug, Serialize)]
pub struct BucketPolicy {
    /// The bucket.
    pub bucket: String,
    /// The code of new data.
    pub code: String,
    /// Who says so: `bucket` or `default`.
    pub from: &'static str,
}

/// What a verify read and found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verified {
    /// Versions of objects.
    pub objects: u64,
    /// Segments of them.
    pub segments: u64,
    /// Pieces read.
    pub pieces: u64,
    /// Bytes of objects.
    pub bytes: u64,
    /// What isn't as it was written, in words.
    pub findings: Vec<String>,
}

/// Where an object's bytes are.
#[derive(Clone, Debug, Serialize)]
pub struct Manifest {
    /// The bucket.
    pub bucket: String,
    /// The volume behind it.
    pub volume: u32,
    /// The key.
    pub key: String,
    /// The version.
    pub version: String,
    /// Bytes.
    pub size: u64,
    /// The entity tag.
    pub etag: String,
    /// How the bytes are kept: `inline`, `packed`, `segments`, `spans`.
    pub body: &'static str,
    /// Its segments, in order.
    pub segments: Vec<SegmentShown>,
}

/// One segment of a manifest.
#[derive(Clone, Debug, Serialize)]
pub struct SegmentShown {
    /// Its id.
    pub segment: String,
    /// The code.
    pub code: String,
    /// Bytes of the segment.
    pub len: u64,
    /// The policy's number.
    pub policy: u16,
    /// The placement group.
    pub group: u32,
    /// The drive of each piece, in order.
    pub drives: Vec<String>,
}

/// Drives.
impl Node {
    /// Makes an empty folder a drive of the running store.
    pub async fn add_drive(&self, path: PathBuf) -> Result<Added> {
        let inner = &self.0;
        let _one = inner.changing.lock().await;
        let (disk, at) = (inner.env.disk.clone(), path.clone());
        let taken: Vec<PathBuf> =
            inner.fleet.all().iter().filter(|drive| drive.is_up()).map(|drive| drive.path.clone()).collect();
        let (cluster, reserve) = (inner.id, inner.settings.pieces.reserve_bytes);
        let known: BTreeSet<DriveId> = inner.drive_rows()?.iter().map(|row| row.id).collect();
        let look = move || {
            for other in &taken {
                if at.starts_with(other) || other.starts_with(&at) {
                    return Err(folder(
                        &at,
                        format!("{} is a drive of this store already", other.display()),
                        Kind::Exists,
                    ));
                }
            }
            match identity::look(&*disk, &at)? {
                Folder::Empty => check_room(&*disk, &at, reserve)?,
                // It was to join before, and that was cut short: it goes on as the drive that it is.
                Folder::Drive(found) if found.cluster == cluster && !known.contains(&found.drive) => {
                    let lock = Lock::take(&*disk, &at)?;
                    return Ok((lock, Some(*found)));
                }
                Folder::Drive(found) if found.cluster == cluster => {
                    let why = format!(
                        "it holds drive {} of this store: put it back where it was, it is opened by itself",
                        found.drive
                    );
                    return Err(folder(&at, why, Kind::Exists));
                }
                Folder::Drive(found) => {
                    return Err(folder(
                        &at,
                        format!("it belongs to another store ({})", found.cluster),
                        Kind::Conflict,
                    ));
                }
                Folder::Foreign(name) | Folder::Leftover(name) => {
                    return Err(folder(
                        &at,
                        format!("it holds something else ({name}): name an empty folder"),
                        Kind::Exists,
                    ));
                }
                Folder::Damaged(why) => return Err(Error::Folders(why)),
            }
            disk.create_dir_all(&at).map_err(Error::io(format!("make the folder {}", at.display())))?;
            Ok((Lock::take(&*disk, &at)?, None))
        };
        let (lock, found) = inner.env.blocking(look).await.map_err(client::Error::from)??;
        let lock = Arc::new(lock);
        let identity = match found {
            Some(found) => found,
            None => join(&inner.env, &path, inner.id, inner.key_check, true).await?,
        };
        let id = identity.drive;
        let drive = Mounted::open(&inner.env, &inner.settings.pieces, path.clone(), id, lock.clone()).await?;
        inner.marks.add(&path, lock, identity);
        inner.marks.write_all(|_| {}).await;
        inner.hold(drive);
        inner.know_drive(id).await?;
        inner.tell(Severity::Info, "drive", &id.to_string(), format!("drive {} joined", inner.name_of(id)));
        // Whoever brings a new drive doesn't wait for the folders of old ones to come back.
        for row in inner.drive_rows()?.into_iter().filter(|row| row.state == DriveState::Active) {
            if inner.folder_is_gone(&row).await? {
                inner.declare_gone(&row).await?;
            }
        }
        inner.settle_groups().await?;
        inner.retry_repairs();
        Ok(Added { id: id.to_string(), path: path.display().to_string() })
    }
}

impl Inner {
    /// The drive that is meant: by its folder, or by the beginning of its id.
    pub(crate) fn named(&self, name: &str) -> Result<DriveRow> {
        let rows = self.drive_rows()?;
        let here: Vec<&DriveRow> = rows.iter().filter(|row| row.state != DriveState::Removed).collect();
        let by_path = here.iter().filter(|row| row.path == name).max_by_key(|row| row.added);
        let by_id: Vec<&&DriveRow> =
            here.iter().filter(|row| name.len() >= 4 && row.id.to_string().starts_with(&name.to_lowercase())).collect();
        match (by_path, by_id.as_slice()) {
            (Some(row), _) => Ok((*row).clone()),
            (None, [row]) => Ok((**row).clone()),
            (None, []) => {
                let known: Vec<&str> = here.iter().map(|row| row.path.as_str()).collect();
                Err(Error::Missing(format!("no drive {name} is there; there are {}", known.join(", "))))
            }
            (None, _) => Err(Error::Invalid(format!("several drives' ids begin with {name}: write more of it"))),
        }
    }

    /// Whether the folder of a drive that isn't up holds it no more.
    async fn folder_is_gone(&self, row: &DriveRow) -> Result<bool> {
        if !self.is_mine(row) || self.fleet.get(row.id).is_some_and(|drive| drive.is_up()) {
            return Ok(false);
        }
        let (disk, path, id) = (self.env.disk.clone(), PathBuf::from(&row.path), row.id);
        let looked = self.env.blocking(move || identity::look(&*disk, &path)).await.map_err(client::Error::from)?;
        Ok(!matches!(looked, Ok(Folder::Drive(found)) if found.drive == id))
    }
}

/// Codes of buckets.
impl Node {
    /// How each bucket is coded.
    pub async fn policies(&self) -> Result<Vec<BucketPolicy>> {
        let inner = &self.0;
        let default = inner.look(default_policy)?;
        let mut all = vec![BucketPolicy { bucket: "(default)".into(), code: default.clone(), from: "default" }];
        let mut after = String::new();
        loop {
            let page = inner.client.all_buckets(&after, PAGE).await?;
            for bucket in &page {
                let own = inner.client.config(bucket, POLICY_SETTING).await?;
                let own = own.and_then(|name| String::from_utf8(name).ok());
                let from = if own.is_some() { "bucket" } else { "default" };
                all.push(BucketPolicy {
                    bucket: bucket.name.clone(),
                    code: own.unwrap_or_else(|| default.clone()),
                    from,
                });
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after.clone_from(&last.name),
                _ => return Ok(all),
            }
        }
    }

    /// Sets how new data of a bucket is coded; what is stored stays as it is.
    ///
    /// # Errors
    /// If the policy can't be met; or new data would survive less than so far, and `code` isn't that outcome's.
    pub async fn set_policy(&self, bucket: &str, text: &str, code: Option<&str>) -> Result<BucketPolicy> {
        let inner = &self.0;
        let found = inner.client.bucket(bucket).await?.ok_or_else(|| no_bucket(bucket))?;
        let up = inner.up();
        let fleet = inner.look(|view| groups::Fleet::load(view, &up))?;
        let rule = fleet.parse(text)?;
        let from = inner.client.policy_of(found.volume).await?;
        let next = match rule == Rule::default() {
            true => inner.look(|view| fleet.default_policy(view))?,
            false => (fleet.coding(&rule), rule.clone()),
        };
        let judged = inner.permit_policy(&format!("bucket {bucket}"), from, &next, code).await?;
        if rule == Rule::default() {
            inner.client.set_config(&found, POLICY_SETTING, None).await?;
            inner.note_applied(&judged).await?;
            let code = inner.look(default_policy)?;
            return Ok(BucketPolicy { bucket: bucket.into(), code, from: "default" });
        }
        let wanted = next;
        let policy = inner
            .change(|view| {
                let mut batch = Default::default();
                let row = groups::ensure_policy(view, &wanted, &mut batch)?;
                Ok((batch, row))
            })
            .await?;
        // Its groups come first: a bucket must never name a policy that has none.
        inner.settle_groups_now().await?;
        inner.client.set_config(&found, POLICY_SETTING, Some(policy.name.clone().into_bytes())).await?;
        inner.note_applied(&judged).await?;
        inner.tell(Severity::Info, "bucket", bucket, format!("new data of {bucket} is coded {}", policy.name));
        Ok(BucketPolicy { bucket: bucket.into(), code: policy.name, from: "bucket" })
    }

    /// Sets how new data of all buckets is coded that have no policy of their own.
    ///
    /// # Errors
    /// As [`Node::set_policy`].
    pub async fn set_default_policy(&self, text: &str, code: Option<&str>) -> Result<BucketPolicy> {
        let inner = &self.0;
        let up = inner.up();
        let fleet = inner.look(|view| groups::Fleet::load(view, &up))?;
        let rule = fleet.parse(text)?;
        let name = inner.look(default_policy)?;
        let from = inner.look(groups::load)?.into_iter().find(|(row, _)| row.name == name).map(|(row, _)| row.id);
        // A store that is being made has none yet.
        let judged = match from {
            Some(from) => {
                Some(inner.permit_policy("all other data", from, &(fleet.coding(&rule), rule.clone()), code).await?)
            }
            None => None,
        };
        inner.fix_policy(&rule).await?;
        if let Some(judged) = &judged {
            inner.note_applied(judged).await?;
        }
        inner.settle_groups_now().await?;
        let code = inner.look(default_policy)?;
        inner.tell(Severity::Info, "policy", "", format!("new data is coded {code} from now on"));
        Ok(BucketPolicy { bucket: "(default)".into(), code, from: "default" })
    }
}

/// The dial.
impl Node {
    /// How much of the machines repair and moving of data may take, in percent.
    ///
    /// # Errors
    /// If the catalog isn't here yet.
    pub fn pace(&self) -> Result<u8> {
        Ok(self.0.pace()?.percent())
    }

    /// Turns the dial: `still`, `idle`, `normal`, `busy` or a number up to 100. What has no spare piece left is
    /// repaired whatever it says.
    ///
    /// # Errors
    /// If the text is none of these, or the catalog can't be changed.
    pub async fn set_pace(&self, text: &str) -> Result<u8> {
        let pace = Pace::parse(text).ok_or_else(|| {
            let near = base::nearest::nearest(text, ["still", "idle", "normal", "busy"]);
            let hint = near.map_or(String::new(), |near| format!(": did you mean {near}?"));
            Error::Invalid(format!("{text:?} is no pace; write still, idle, normal, busy, or 0 to 100{hint}"))
        })?;
        let value = pace.percent().to_string();
        self.0.change(|_| Ok((namespace::catalog::put_setting(PACE, Some(value.as_bytes())), ()))).await?;
        self.0.tell(Severity::Info, "pace", "", format!("repair and moving of data go at {value} % from now on"));
        self.0.wake.notify_one();
        Ok(pace.percent())
    }
}

pub(crate) fn no_bucket(name: &str) -> Error {
    Error::Missing(format!("no bucket {name} is there"))
}

/// Checks.
impl Node {
    /// Reads every piece of what is stored under `BUCKET` or `BUCKET/KEY`, all versions, and compares
    /// it with what was written; what isn't right is repaired.
    pub async fn verify(&self, what: &str) -> Result<Verified> {
        let (name, key) = what.split_once('/').map_or((what, None), |(bucket, key)| (bucket, Some(key)));
        let bucket = self.0.client.bucket(name).await?.ok_or_else(|| no_bucket(name))?;
        let mut verified = Verified::default();
        if let Some(key) = key.filter(|key| !key.is_empty()) {
            let version = self.version(&bucket, key).await?;
            self.verify_version(&bucket, key, version.id, &mut verified).await?;
            return Ok(verified);
        }
        let mut query = ListQuery { limit: PAGE, ..ListQuery::default() };
        loop {
            let page = self.0.client.list_versions(&bucket, &query).await?;
            for listed in page.entries.iter().filter_map(|entry| match entry {
                namespace::read::Entry::Item(listed) => Some(listed),
                namespace::read::Entry::Prefix(_) => None,
            }) {
                if !listed.version.marker {
                    self.verify_version(&bucket, &listed.key, listed.version.id, &mut verified).await?;
                }
            }
            let Some(next) = page.next else { return Ok(verified) };
            (query.after, query.after_version, query.after_upload) = (Some(next.after), next.version, next.upload);
        }
    }

    async fn version(&self, bucket: &client::Bucket, key: &str) -> Result<Version> {
        match self.0.client.head(bucket, key, None, true).await? {
            Found::Object(version) => Ok(version),
            Found::Marker(_) => Err(Error::Missing(format!("{key} is deleted in {}", bucket.name))),
        }
    }

    async fn verify_version(
        &self,
        bucket: &client::Bucket,
        key: &str,
        version: VersionId,
        verified: &mut Verified,
    ) -> Result<()> {
        let inner = &self.0;
        let found = match inner.client.head(bucket, key, Some(version), true).await {
            Ok(found) => found.into_version(),
            // Deleted since it was listed.
            Err(error) if base::Kinded::kind(&error) == Kind::Missing => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        verified.objects += 1;
        verified.bytes += found.size;
        for segment in refs(&found.body) {
            verified.segments += 1;
            verified.pieces += u64::from(segment.k) + u64::from(segment.m);
        }
        for finding in inner.client.verify(bucket, &found).await? {
            let drive = finding.drive.map_or("no drive".to_owned(), |drive| inner.name_of(drive));
            let wrong = match finding.fault {
                Fault::Missing => "is missing",
                Fault::Damaged => "is damaged",
                Fault::Failed => "can't be read",
            };
            if verified.findings.len() < FINDINGS_MAX {
                verified.findings.push(format!("{}/{key}: piece {} on {drive} {wrong}", bucket.name, finding.piece));
            }
            inner.found(finding).await?;
        }
        Ok(())
    }

    /// Where an object's bytes are; `what` is `BUCKET/KEY`.
    pub async fn manifest(&self, what: &str) -> Result<Manifest> {
        let (name, key) = what.split_once('/').ok_or_else(|| Error::Invalid(format!("{what} is no BUCKET/KEY")))?;
        let bucket = self.0.client.bucket(name).await?.ok_or_else(|| no_bucket(name))?;
        let version = self.version(&bucket, key).await?;
        let mut segments = Vec::new();
        for one in refs(&version.body) {
            let row = self.0.group(one.policy, one.group)?;
            let coding = Coding { k: one.k, m: one.m };
            segments.push(SegmentShown {
                segment: one.id.to_string(),
                code: coding.to_string(),
                len: one.len,
                policy: one.policy.0,
                group: one.group.0,
                drives: row.map(|row| row.members.iter().map(DriveId::to_string).collect()).unwrap_or_default(),
            });
        }
        Ok(Manifest {
            bucket: bucket.name.clone(),
            volume: bucket.volume.0,
            key: key.into(),
            version: version.id.0.to_string(),
            size: version.size,
            etag: version.etag.clone(),
            body: match version.body {
                Body::Inline(_) | Body::Unloaded => "inline",
                Body::Packed(..) => "packed",
                Body::Segments(_) => "segments",
                Body::Spans(_) => "spans",
            },
            segments,
        })
    }
}

/// The segments that a body names, in order.
fn refs(body: &Body) -> Vec<namespace::SegmentRef> {
    match body {
        Body::Inline(_) | Body::Unloaded => Vec::new(),
        Body::Packed(segment, _) => vec![segment.clone()],
        Body::Segments(segments) => segments.clone(),
        Body::Spans(spans) => spans.iter().flat_map(|span| refs(&span.body)).collect(),
    }
}
