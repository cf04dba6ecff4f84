//! End-to-end volumes, as people ask for them. Their keys never come here.

use base::{UserId, VolumeId};
use crypt::PublicKey;
use namespace::catalog::{self, SealedVolume, Severity};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::node::Node;

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
        let of = move |volume: VolumeId| SealedVolume { volume, public, check, grant_key, epoch: 1 };
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
