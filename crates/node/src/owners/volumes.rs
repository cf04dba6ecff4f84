//! End-to-end volumes, as people ask for them. Their keys never come here.

use base::kv::Batch;
use base::{UserId, VolumeId};
use codec::Versioned;
use crypt::PublicKey;
use grant::Succession;
use namespace::catalog::{self, OLDER_KEYS_MAX, OlderKey, SealedVolume, Severity};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::fleet::lock;
use crate::node::{Inner, Node};

/// Addresses of nodes that are told: some that live will be among them.
const ADDRESSES_MAX: usize = 8;

/// An end-to-end volume to be made: what its owner tells of its keys, in hex.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeWish {
    /// The bucket's name.
    pub name: String,
    /// The public key.
    pub public: String,
    /// The check value.
    pub check: String,
    /// The grant key.
    pub grant_key: String,
}

/// A volume, for people.
#[derive(Clone, Debug, Serialize)]
pub struct VolumeShown {
    /// Its bucket's name.
    pub name: String,
    /// Its number.
    pub volume: u32,
    /// `end-to-end`, or `gateway`: the cluster has its keys.
    pub mode: &'static str,
    /// Of an end-to-end volume: its public key.
    pub public: Option<String>,
    /// Of an end-to-end volume: grants of earlier epochs are revoked.
    pub epoch: Option<u64>,
    /// Where some of the nodes listen.
    pub addresses: Vec<String>,
}

fn unhex<const N: usize>(what: &str, text: &str) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    match base::ids::unhex(text, &mut bytes) {
        true => Ok(bytes),
        false => Err(Error::Invalid(format!("{what} isn't {N} bytes in hex"))),
    }
}

impl Node {
    /// Makes a bucket whose keys stay with whoever asks.
    ///
    /// # Errors
    /// If the name is taken or none, or this machine is alone: then nobody could come to the volume.
    pub async fn create_volume(&self, wish: &VolumeWish) -> Result<VolumeShown> {
        let inner = &self.0;
        if inner.cluster.get().is_none() {
            return Err(Error::Refused(
                "this store is one machine, which listens for nobody yet: `abide invite` makes it the first node of a cluster, then make the volume".into(),
            ));
        }
        let (public, check) = (unhex("the public key", &wish.public)?, unhex("the check value", &wish.check)?);
        let grant_key = unhex("the grant key", &wish.grant_key)?;
        if inner.sealed_of(&PublicKey(public)).is_some() {
            return Err(Error::Invalid("a volume of these keys is there already".into()));
        }
        let owner = UserId(self.access().await?.user);
        let of = move |volume: VolumeId| SealedVolume {
            volume,
            public,
            check,
            grant_key,
            epoch: 1,
            older: Vec::new(),
            settled: true,
        };
        let bucket = inner.client.create_sealed(&wish.name, &owner, of).await?;
        inner.tell(Severity::Info, "volume", &bucket.name, "an end-to-end volume was made".into());
        Ok(VolumeShown {
            name: bucket.name.clone(),
            volume: bucket.volume.0,
            mode: "end-to-end",
            public: Some(wish.public.clone()),
            epoch: Some(1),
            addresses: self.contacts()?,
        })
    }

    /// All volumes by name.
    ///
    /// # Errors
    /// If the catalog can't be read.
    pub fn volumes(&self) -> Result<Vec<VolumeShown>> {
        let inner = &self.0;
        let buckets = inner.look(|view| catalog::list_all_buckets(view, "", usize::MAX >> 1))?;
        let addresses = self.contacts()?;
        let shown = |bucket: catalog::Bucket| {
            let sealed = inner.look(|view| catalog::sealed_volume(view, bucket.volume))?;
            Ok(VolumeShown {
                name: bucket.name,
                volume: bucket.volume.0,
                mode: if sealed.is_some() { "end-to-end" } else { "gateway" },
                public: sealed.as_ref().map(|row| base::ids::hex(&row.public)),
                epoch: sealed.as_ref().map(|row| row.epoch),
                addresses: if sealed.is_some() { addresses.clone() } else { Vec::new() },
            })
        };
        buckets.into_iter().map(shown).collect()
    }

    /// Revokes all grants of an end-to-end volume that were made so far; its epoch from now on.
    ///
    /// # Errors
    /// If there is no such volume.
    pub async fn revoke_grants(&self, name: &str) -> Result<u64> {
        let inner = &self.0;
        let none = || Error::Missing(format!("no end-to-end volume {name} is there"));
        let bucket = inner.client.bucket(name).await?.filter(|bucket| bucket.sealed).ok_or_else(none)?;
        let volume = bucket.volume;
        let rule = move |view: &dyn base::kv::View| {
            let row = catalog::sealed_volume(view, volume)?.ok_or(namespace::Error::NoSuchBucket)?;
            let row = SealedVolume { epoch: row.epoch + 1, ..row };
            Ok((catalog::put_sealed_volume(&row), row.epoch))
        };
        let epoch = inner.change(rule).await?;
        inner.learn_sealed()?;
        inner.tell(Severity::Info, "volume", name, "all its grants were revoked".into());
        Ok(epoch)
    }

    /// Gives an end-to-end volume other keys, by a [`Succession`] in hex: those that it had open nothing any more, and its grants are
    /// revoked. Said again it does nothing.
    ///
    /// # Errors
    /// If there is no such volume, its owner didn't say so, or rows are still called by keys that were replaced before.
    pub async fn replace_keys(&self, name: &str, succession: &str) -> Result<VolumeShown> {
        let inner = &self.0;
        let mut bytes = vec![0; succession.len() / 2];
        let read = base::ids::unhex(succession, &mut bytes).then(|| Succession::decode(&bytes).ok()).flatten();
        let succession = read.ok_or_else(|| Error::Invalid("the succession can't be read".into()))?;
        let none = || Error::Missing(format!("no end-to-end volume {name} is there"));
        let bucket = inner.client.bucket(name).await?.filter(|bucket| bucket.sealed).ok_or_else(none)?;
        let refused = |why: &str| Error::Refused(format!("{why}; nothing was changed"));
        if bucket.volume != succession.volume || !succession.is_genuine() {
            return Err(refused("the volume's owner didn't say so: it takes the volume's key, and the new one"));
        }
        let (volume, said, now) = (bucket.volume, succession.clone(), inner.env.clock.wall());
        let is_other = inner.sealed_with_now(&said.to).is_some_and(|row| row.volume != volume);
        if is_other {
            return Err(refused("the new key is another volume's"));
        }
        let rule = move |view: &dyn base::kv::View| {
            let mut row = catalog::sealed_volume(view, volume)?.ok_or(namespace::Error::NoSuchBucket)?;
            if row.public == said.to.0 {
                return Ok((Batch::default(), Ok(row.epoch)));
            }
            let why = match () {
                () if row.public != said.from.0 => Some("the volume's key is another one by now"),
                () if row.had(&said.to.0) => Some("the volume had the new key before"),
                () if !row.settled => Some(
                    "names of the volume are still being sealed with its newest key: open it, which goes on with that",
                ),
                () if row.older.len() >= OLDER_KEYS_MAX => Some("its keys were replaced as often as can be"),
                () => None,
            };
            if let Some(why) = why {
                return Ok((Batch::default(), Err(why)));
            }
            let sealed = said.sealed.clone();
            row.older.push(OlderKey { public: row.public, sealed, replaced: now });
            row.public = said.to.0;
            row.check = said.check;
            row.grant_key = said.grant_key;
            row.epoch += 1;
            row.settled = false;
            Ok((catalog::put_sealed_volume(&row), Ok(row.epoch)))
        };
        let epoch = inner.change(rule).await?.map_err(refused)?;
        inner.learn_sealed()?;
        inner.tell(Severity::Info, "volume", name, "its keys were replaced, and its grants revoked".into());
        Ok(VolumeShown {
            name: name.to_owned(),
            volume: volume.0,
            mode: "end-to-end",
            public: Some(succession.to.to_string()),
            epoch: Some(epoch),
            addresses: self.contacts()?,
        })
    }

    /// Where nodes listen: this one's addresses first.
    fn contacts(&self) -> Result<Vec<String>> {
        let inner = &self.0;
        let me = inner.me();
        let mut rows = inner.look(|view| catalog::nodes(view, None, usize::from(u16::MAX)))?;
        rows.sort_by_key(|row| Some(row.id) != me);
        let there = rows.iter().filter(|row| row.state == catalog::NodeState::Active);
        Ok(there.flat_map(|row| row.addresses.iter()).take(ADDRESSES_MAX).map(ToString::to_string).collect())
    }
}

impl Inner {
    /// No row of the volume is called by older keys any more, says who has this one.
    pub async fn settle_volume(&self, volume: VolumeId, public: [u8; 32]) -> Result<()> {
        let rule = move |view: &dyn base::kv::View| {
            let mut row = catalog::sealed_volume(view, volume)?.ok_or(namespace::Error::NoSuchBucket)?;
            if row.public != public || row.settled {
                return Ok((Batch::default(), ()));
            }
            row.settled = true;
            Ok((catalog::put_sealed_volume(&row), ()))
        };
        self.change(rule).await?;
        self.learn_sealed()
    }

    /// Drops copies of kits of keys that were replaced, once nothing needs them: those of the keys of now are with their holders.
    pub async fn drop_replaced_kits(&self) {
        let rows: Vec<SealedVolume> = lock(&self.owners.sealed).values().filter(|row| row.settled).cloned().collect();
        for older in rows.iter().flat_map(|row| &row.older) {
            let key = PublicKey(older.public);
            if self.owners.shelves.has(&key)
                && let Err(error) = self.owners.shelves.drop_all(&key).await
            {
                tracing::warn!(%error, "a copy of a kit whose keys were replaced stays");
            }
        }
    }
}
