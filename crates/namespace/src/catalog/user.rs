//! Users and the access keys with which they sign.

use std::fmt;

use base::kv::{Batch, View};
use base::{UserId, Wall};
use codec::{Reader, Versioned, Writer};

use super::bucket::{TEXT_BYTES_MAX, USER_ID_BYTES_MAX};
use super::{get, keys, scan};
use crate::error::Error;
use crate::rows::flag;

/// Bytes of an access key's id at the most, and of its secret.
const KEY_BYTES_MAX: usize = 128;

/// Who can own buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The canonical id.
    pub id: UserId,
    /// The name shown.
    pub display: String,
    /// Where grants by e-mail find them; unique, whatever the case.
    pub email: Option<String>,
}

impl Versioned for User {
    const NAME: &'static str = "user";
    const MARK: [u8; 4] = *b"caUs";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.str(&self.id.0).str(&self.display);
        to.option(self.email.as_deref(), |to, email| {
            to.str(email);
        });
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        Ok(User {
            id: UserId(from.str("user id", USER_ID_BYTES_MAX)?.to_owned()),
            display: from.str("display name", TEXT_BYTES_MAX)?.to_owned(),
            email: from.option("email", |from| from.str("email", TEXT_BYTES_MAX).map(str::to_owned))?,
        })
    }
}

/// What signs requests. Its secret is at rest only under the metadata's own encryption, and is
/// never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// The public half.
    pub id: String,
    /// The secret half.
    pub secret: String,
    /// Whose it is.
    pub user: UserId,
    /// When it was made.
    pub created: Wall,
    /// Revoked: signs nothing any more.
    pub disabled: bool,
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AccessKey { id, user, created, disabled, secret: _ } = self;
        f.debug_struct("AccessKey")
            .field("id", id)
            .field("user", user)
            .field("created", created)
            .field("disabled", disabled)
            .finish_non_exhaustive()
    }
}

impl Versioned for AccessKey {
    const NAME: &'static str = "access key";
    const MARK: [u8; 4] = *b"caAk";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.str(&self.id).str(&self.secret).str(&self.user.0).u64(self.created.0).u8(self.disabled.into());
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        Ok(AccessKey {
            id: from.str("access key", KEY_BYTES_MAX)?.to_owned(),
            secret: from.str("secret", KEY_BYTES_MAX)?.to_owned(),
            user: UserId(from.str("user id", USER_ID_BYTES_MAX)?.to_owned()),
            created: Wall(from.u64("created")?),
            disabled: flag(from, "disabled")?,
        })
    }
}

pub(super) fn printable(what: &'static str, text: &str, max: usize) -> Result<(), Error> {
    let why = if text.is_empty() || text.len() > max {
        "it is empty or too long"
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        "only printable characters are allowed"
    } else {
        return Ok(());
    };
    Err(Error::InvalidName { what, why })
}

/// Adds or changes a user. An e-mail address that is another user's is refused.
pub fn put_user(view: &dyn View, new: &User) -> Result<Batch, Error> {
    printable("user id", &new.id.0, USER_ID_BYTES_MAX)?;
    if new.display.len() > TEXT_BYTES_MAX {
        return Err(Error::InvalidName { what: "display name", why: "it is too long" });
    }
    let mut batch = Batch::default();
    if let Some(old) = user(view, &new.id)?.and_then(|old| old.email) {
        batch.del(keys::email(&old));
    }
    if let Some(email) = &new.email {
        printable("email", email, TEXT_BYTES_MAX)?;
        if user_by_email(view, email)?.is_some_and(|other| other.id != new.id) {
            return Err(Error::InvalidName { what: "email", why: "another user has it" });
        }
        batch.put(keys::email(email), new.id.0.as_bytes());
    }
    batch.put(keys::user(&new.id), new.encode());
    Ok(batch)
}

/// A user.
pub fn user(view: &dyn View, id: &UserId) -> Result<Option<User>, Error> {
    get(view, &keys::user(id))
}

/// The user with this e-mail address, whatever the case.
pub fn user_by_email(view: &dyn View, email: &str) -> Result<Option<User>, Error> {
    let Some(id) = view.get(&keys::email(email))? else { return Ok(None) };
    let id = String::from_utf8(id).map_err(|_| codec::Error::Utf8 { what: "user id" })?;
    user(view, &UserId(id))
}

/// Users by id, those after `after`.
pub fn users(view: &dyn View, after: Option<&UserId>, limit: usize) -> Result<Vec<User>, Error> {
    scan(view, keys::USER, after.map(|after| after.0.as_bytes()), limit)
}

/// Adds a key, or changes the one of this id.
pub fn put_access_key(view: &dyn View, key: &AccessKey) -> Result<Batch, Error> {
    printable("access key", &key.id, KEY_BYTES_MAX)?;
    printable("secret", &key.secret, KEY_BYTES_MAX)?;
    if user(view, &key.user)?.is_none() {
        return Err(Error::InvalidValue { what: "access key", why: "its user is not known" });
    }
    let mut batch = Batch::default();
    batch.put(keys::access_key(&key.id), key.encode());
    Ok(batch)
}

/// Disables a key; `None` if there is none of this id.
pub fn revoke_access_key(view: &dyn View, id: &str) -> Result<Option<(Batch, AccessKey)>, Error> {
    let Some(mut key) = access_key(view, id)? else { return Ok(None) };
    let mut batch = Batch::default();
    if !key.disabled {
        key.disabled = true;
        batch.put(keys::access_key(id), key.encode());
    }
    Ok(Some((batch, key)))
}

/// A key, disabled or not.
pub fn access_key(view: &dyn View, id: &str) -> Result<Option<AccessKey>, Error> {
    get(view, &keys::access_key(id))
}

/// Keys by id, those after `after`, disabled ones too.
pub fn access_keys(view: &dyn View, after: Option<&str>, limit: usize) -> Result<Vec<AccessKey>, Error> {
    scan(view, keys::ACCESS_KEY, after.map(str::as_bytes), limit)
}
