//! Users and their access keys.

use std::collections::BTreeMap;

use base::{UserId, Wall};
use namespace::catalog::{self, AccessKey, Severity, User};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::node::{Inner, Node, PAGE};

/// The setting that names the store's first access key.
const FIRST_KEY: &str = "first access key";
/// What ids and secrets are made of; 64 of them, without those that need quoting anywhere.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789ab";

/// What an access key is to be. Whatever is left out is made up.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyWish {
    /// The user's id; made if there is none of it.
    pub user: Option<String>,
    /// The user's display name.
    pub display: Option<String>,
    /// The user's e-mail address.
    pub email: Option<String>,
    /// The access key's id.
    pub access_key: Option<String>,
    /// The secret.
    pub secret_key: Option<String>,
}

/// An access key with its secret: shown once.
#[derive(Clone, Serialize)]
pub struct NewKey {
    /// The key's id.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// Whose it is.
    pub user: String,
}

/// An access key without its secret.
#[derive(Clone, Debug, Serialize)]
pub struct KeyRow {
    /// The key's id.
    pub access_key: String,
    /// Whose it is.
    pub user: String,
    /// Their display name.
    pub display: String,
    /// When it was made.
    pub created: String,
    /// `active` or `revoked`.
    pub state: &'static str,
}

impl Inner {
    fn letters<const N: usize>(&self) -> String {
        let random: [u8; N] = self.env.random();
        random.iter().map(|byte| LETTERS[usize::from(byte % 64)] as char).collect()
    }

    fn new_user(&self) -> String {
        base::ids::hex(&self.env.random::<32>())
    }

    fn new_key(&self, user: &UserId) -> AccessKey {
        let id = format!("AB{}", self.letters::<18>().to_ascii_uppercase());
        AccessKey {
            id,
            secret: self.letters::<40>(),
            user: user.clone(),
            created: self.env.clock.wall(),
            disabled: false,
        }
    }

    /// The store has a user with a key.
    pub async fn ensure_access(&self) -> Result<()> {
        let user = User { id: UserId(self.new_user()), display: "owner".into(), email: None };
        let key = self.new_key(&user.id);
        self.change(|view| {
            if catalog::setting(view, FIRST_KEY)?.is_some() {
                return Ok(Default::default());
            }
            let mut batch = catalog::put_user(view, &user)?;
            // One batch: the rule that a key's user is known can't see the user yet.
            let known = WithBatch { view, batch: &batch };
            let more = catalog::put_access_key(&known, &key)?;
            batch.puts.extend(more.puts);
            batch.puts.extend(catalog::put_setting(FIRST_KEY, Some(key.id.as_bytes())).puts);
            Ok((batch, ()))
        })
        .await
    }
}

/// Rows as they will be after a batch of puts: enough for rules that look at single rows.
struct WithBatch<'a> {
    view: &'a dyn base::kv::View,
    batch: &'a base::kv::Batch,
}

impl base::kv::View for WithBatch<'_> {
    fn get(&self, key: &[u8]) -> std::result::Result<Option<Vec<u8>>, base::kv::ViewError> {
        match self.batch.puts.iter().rev().find(|(put, _)| put.as_slice() == key) {
            Some((_, value)) => Ok(Some(value.clone())),
            None => self.view.get(key),
        }
    }

    fn range(
        &self,
        keys: std::ops::Range<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> std::result::Result<Vec<(Vec<u8>, Vec<u8>)>, base::kv::ViewError> {
        self.view.range(keys, limit, reverse)
    }
}

impl Node {
    /// A key of the store's first user: the one that was made with the store, or one that was made
    /// since.
    pub async fn access(&self) -> Result<NewKey> {
        let inner = &self.0;
        let first = inner.look(|view| catalog::setting(view, FIRST_KEY))?.unwrap_or_default();
        let first = String::from_utf8_lossy(&first).into_owned();
        let key = inner.look(|view| catalog::access_key(view, &first))?;
        let key = match key {
            Some(key) if key.disabled => self.all_keys()?.into_iter().find(|one| one.user == key.user && !one.disabled),
            key => key,
        };
        let key = key.ok_or_else(|| {
            Error::Missing("the owner's access keys are all revoked: make one with `abide key create`".into())
        })?;
        Ok(NewKey { access_key: key.id, secret_key: key.secret, user: key.user.0 })
    }

    fn all_keys(&self) -> Result<Vec<AccessKey>> {
        self.0.look(|view| {
            let mut keys: Vec<AccessKey> = Vec::new();
            loop {
                let page = catalog::access_keys(view, keys.last().map(|key| key.id.as_str()), PAGE)?;
                let full = page.len() == PAGE;
                keys.extend(page);
                if !full {
                    return Ok(keys);
                }
            }
        })
    }

    /// All access keys.
    pub async fn keys(&self) -> Result<Vec<KeyRow>> {
        let mut names: BTreeMap<UserId, String> = BTreeMap::new();
        let mut rows = Vec::new();
        for key in self.all_keys()? {
            if !names.contains_key(&key.user) {
                let user = self.0.look(|view| catalog::user(view, &key.user))?;
                names.insert(key.user.clone(), user.map(|user| user.display).unwrap_or_default());
            }
            rows.push(KeyRow {
                access_key: key.id,
                display: names.get(&key.user).cloned().unwrap_or_default(),
                user: key.user.0,
                created: shown(key.created),
                state: if key.disabled { "revoked" } else { "active" },
            });
        }
        Ok(rows)
    }

    /// Makes an access key, and its user if it is new.
    pub async fn create_key(&self, wish: KeyWish) -> Result<NewKey> {
        let inner = &self.0;
        let id = UserId(wish.user.unwrap_or_else(|| inner.new_user()));
        let mut key = inner.new_key(&id);
        if let (Some(access), Some(secret)) = (wish.access_key, wish.secret_key) {
            (key.id, key.secret) = (access, secret);
        }
        let (display, email, made) = (wish.display, wish.email, key.clone());
        inner
            .change(|view| {
                if let Some(old) = catalog::access_key(view, &made.id)?
                    && old.user != made.user
                {
                    return Err(namespace::Error::InvalidName {
                        what: "access key",
                        why: "another user has one of this id",
                    });
                }
                let known = catalog::user(view, &id)?;
                let mut user = known.clone().unwrap_or_else(|| User {
                    display: id.0.chars().take(16).collect(),
                    id: id.clone(),
                    email: None,
                });
                user.display = display.clone().unwrap_or(user.display);
                user.email = email.clone().or(user.email);
                let mut batch =
                    if known.as_ref() == Some(&user) { Default::default() } else { catalog::put_user(view, &user)? };
                let more = catalog::put_access_key(&WithBatch { view, batch: &batch }, &made)?;
                batch.puts.extend(more.puts);
                Ok((batch, ()))
            })
            .await?;
        inner.tell(Severity::Info, "key", &key.id, format!("access key {} was made", key.id));
        Ok(NewKey { access_key: key.id, secret_key: key.secret, user: key.user.0 })
    }

    /// Makes an access key worthless.
    pub async fn revoke_key(&self, id: &str) -> Result<()> {
        let gone = self.0.client.revoke_access_key(id).await?;
        if gone.is_none() {
            return Err(Error::Missing(format!("no access key {id} is there: see `abide key list`")));
        }
        self.0.tell(Severity::Info, "key", id, format!("access key {id} was revoked"));
        Ok(())
    }
}

/// A time for people and programs.
pub(crate) fn shown(at: Wall) -> String {
    at.rfc3339()
}
