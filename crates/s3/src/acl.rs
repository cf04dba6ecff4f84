//! Who may do what to a bucket or an object: grants, canned ACLs, and how they are kept.
//!
//! Kept as text, one grant a line: `READ group AllUsers`, `FULL_CONTROL user ID`. An object or
//! bucket without the attribute has the default: its owner alone.

use base::UserId;
use hyper::HeaderMap;

use crate::backend::{Backend, User};
use crate::error::{Code, Error, Result};
use crate::xml::{Node, Xml};

/// Grants of one ACL: S3's limit.
const GRANTS_MAX: usize = 100;

/// What a grant allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Everything.
    FullControl,
    /// Get an object; list a bucket.
    Read,
    /// Write and delete a bucket's objects.
    Write,
    /// Read the ACL.
    ReadAcp,
    /// Change the ACL.
    WriteAcp,
}

impl Permission {
    const ALL: [Permission; 5] =
        [Permission::FullControl, Permission::Read, Permission::Write, Permission::ReadAcp, Permission::WriteAcp];

    /// S3's word.
    pub fn name(self) -> &'static str {
        match self {
            Permission::FullControl => "FULL_CONTROL",
            Permission::Read => "READ",
            Permission::Write => "WRITE",
            Permission::ReadAcp => "READ_ACP",
            Permission::WriteAcp => "WRITE_ACP",
        }
    }

    /// The permission of this name.
    pub fn parse(name: &str) -> Option<Permission> {
        Self::ALL.into_iter().find(|permission| permission.name() == name)
    }

    fn allows(self, wanted: Permission) -> bool {
        self == Permission::FullControl || self == wanted
    }
}

/// Whom a grant is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grantee {
    /// One user.
    User(UserId),
    /// Everybody, signed or not.
    AllUsers,
    /// Everybody who signs.
    AuthenticatedUsers,
    /// The service that writes access logs; nobody here.
    LogDelivery,
}

impl Grantee {
    const GROUPS: [(Grantee, &'static str, &'static str); 3] = [
        (Grantee::AllUsers, "AllUsers", "http://acs.amazonaws.com/groups/global/AllUsers"),
        (
            Grantee::AuthenticatedUsers,
            "AuthenticatedUsers",
            "http://acs.amazonaws.com/groups/global/AuthenticatedUsers",
        ),
        (Grantee::LogDelivery, "LogDelivery", "http://acs.amazonaws.com/groups/s3/LogDelivery"),
    ];

    fn of_uri(uri: &str) -> Result<Grantee> {
        let group = Self::GROUPS.into_iter().find(|(_, _, known)| *known == uri);
        group.map(|(grantee, ..)| grantee).ok_or_else(|| Error::new(Code::InvalidArgument, "Invalid group uri"))
    }

    fn is(&self, who: Option<&UserId>) -> bool {
        match self {
            Grantee::User(user) => who == Some(user),
            Grantee::AllUsers => true,
            Grantee::AuthenticatedUsers => who.is_some(),
            Grantee::LogDelivery => false,
        }
    }
}

/// One line of an ACL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whom it is for.
    pub grantee: Grantee,
    /// What it allows.
    pub permission: Permission,
}

/// The grants on a bucket or an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl(pub Vec<Grant>);

impl Acl {
    /// The default: the owner alone.
    pub fn private(owner: &UserId) -> Acl {
        Acl(vec![Grant { grantee: Grantee::User(owner.clone()), permission: Permission::FullControl }])
    }

    /// What was stored; without it the default. Lines that can't be read grant nothing.
    pub fn decode(bytes: Option<&[u8]>, owner: &UserId) -> Acl {
        let Some(bytes) = bytes else { return Acl::private(owner) };
        let line = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let (permission, kind, name) = (Permission::parse(words.next()?)?, words.next()?, words.next()?);
            let grantee = match kind {
                "user" => Grantee::User(UserId(name.to_owned())),
                _ => Grantee::GROUPS.into_iter().find(|(_, short, _)| *short == name)?.0,
            };
            Some(Grant { grantee, permission })
        };
        Acl(String::from_utf8_lossy(bytes).lines().filter_map(line).collect())
    }

    /// How it is stored; nothing for the default.
    pub fn encode(&self, owner: &UserId) -> Option<Vec<u8>> {
        if *self == Acl::private(owner) {
            return None;
        }
        let line = |grant: &Grant| {
            let group = Grantee::GROUPS.into_iter().find(|(known, ..)| *known == grant.grantee);
            match (&grant.grantee, group) {
                (Grantee::User(user), _) => format!("{} user {user}", grant.permission.name()),
                (_, group) => format!("{} group {}", grant.permission.name(), group.map_or("", |(_, short, _)| short)),
            }
        };
        Some(self.0.iter().map(line).collect::<Vec<_>>().join("\n").into_bytes())
    }

    /// Whether the grants allow it. `public` is false where a public access block says that
    /// grants to groups don't count.
    pub fn allows(&self, who: Option<&UserId>, wanted: Permission, public: bool) -> bool {
        self.0.iter().any(|grant| {
            grant.permission.allows(wanted)
                && grant.grantee.is(who)
                && (public || matches!(grant.grantee, Grantee::User(_)))
        })
    }

    /// Whether it opens something to everybody.
    pub fn is_public(&self) -> bool {
        self.0.iter().any(|grant| matches!(grant.grantee, Grantee::AllUsers | Grantee::AuthenticatedUsers))
    }

    /// The ACL that a canned name stands for. `bucket_owner` matters for objects only.
    pub fn canned(name: &str, owner: &UserId, bucket_owner: &UserId) -> Result<Acl> {
        use Permission as P;
        let mut grants = Vec::new();
        let mut group = |grantee, permission| grants.push(Grant { grantee, permission });
        match name {
            "private" => {}
            "public-read" => group(Grantee::AllUsers, P::Read),
            "public-read-write" => {
                group(Grantee::AllUsers, P::Read);
                group(Grantee::AllUsers, P::Write);
            }
            "authenticated-read" => group(Grantee::AuthenticatedUsers, P::Read),
            "log-delivery-write" => {
                group(Grantee::LogDelivery, P::Write);
                group(Grantee::LogDelivery, P::ReadAcp);
            }
            "bucket-owner-read" | "bucket-owner-full-control" | "aws-exec-read" => {}
            _ => return Err(Error::new(Code::InvalidArgument, "The canned ACL is not known")),
        }
        grants.extend(Acl::private(owner).0);
        let permission = match name {
            "bucket-owner-read" => Some(P::Read),
            "bucket-owner-full-control" => Some(P::FullControl),
            _ => None,
        };
        if let Some(permission) = permission.filter(|_| bucket_owner != owner) {
            grants.push(Grant { grantee: Grantee::User(bucket_owner.clone()), permission });
        }
        Ok(Acl(grants))
    }
}

/// The headers that grant, and what.
const GRANT_HEADERS: [(&str, Permission); 5] = [
    ("x-amz-grant-read", Permission::Read),
    ("x-amz-grant-write", Permission::Write),
    ("x-amz-grant-read-acp", Permission::ReadAcp),
    ("x-amz-grant-write-acp", Permission::WriteAcp),
    ("x-amz-grant-full-control", Permission::FullControl),
];

/// The ACL that a request's headers ask for, if they do. `canned` is the value of `x-amz-acl`, or
/// of a form's field.
pub async fn of_headers(
    backend: &dyn Backend,
    headers: &HeaderMap,
    canned: Option<&str>,
    owner: &UserId,
    bucket_owner: &UserId,
) -> Result<Option<Acl>> {
    let mut grants = Vec::new();
    for (name, permission) in GRANT_HEADERS {
        let Some(value) = headers.get(name) else { continue };
        let value = value.to_str().map_err(|_| Error::new(Code::InvalidArgument, "Argument format not recognized"))?;
        for one in value.split(',') {
            let grantee = grantee_of_header(backend, one.trim()).await?;
            grants.push(Grant { grantee, permission });
        }
    }
    match (canned, grants.is_empty()) {
        (Some(_), false) => {
            Err(Error::new(Code::InvalidRequest, "Specifying both Canned ACLs and Header Grants is not allowed"))
        }
        (Some(canned), true) => Acl::canned(canned, owner, bucket_owner).map(Some),
        (None, true) => Ok(None),
        (None, false) if grants.len() > GRANTS_MAX => Err(Code::MalformedACLError.into()),
        (None, false) => Ok(Some(Acl(grants))),
    }
}

async fn grantee_of_header(backend: &dyn Backend, text: &str) -> Result<Grantee> {
    let bad = || Error::new(Code::InvalidArgument, "Argument format not recognized");
    let (kind, value) = text.split_once('=').ok_or_else(bad)?;
    let value = value.trim().trim_matches('"');
    match kind.trim() {
        "id" => known_user(backend, value).await,
        "uri" => Grantee::of_uri(value),
        "emailAddress" => user_by_email(backend, value).await,
        _ => Err(bad()),
    }
}

async fn known_user(backend: &dyn Backend, id: &str) -> Result<Grantee> {
    let id = UserId(id.to_owned());
    match backend.user(&id).await? {
        Some(_) => Ok(Grantee::User(id)),
        None => Err(Error::new(Code::InvalidArgument, "Invalid id")),
    }
}

async fn user_by_email(backend: &dyn Backend, email: &str) -> Result<Grantee> {
    match backend.user_by_email(email).await? {
        Some(user) => Ok(Grantee::User(user.id)),
        None => Err(Code::UnresolvableGrantByEmailAddress.into()),
    }
}

/// The ACL in an `AccessControlPolicy`; its owner must be the true one.
pub async fn of_xml(backend: &dyn Backend, root: &Node, owner: &UserId) -> Result<Acl> {
    let malformed = || Error::from(Code::MalformedACLError);
    if let Some(named) = root.child("Owner").and_then(|owner| owner.get("ID"))
        && named != owner.0
    {
        return Err(Code::AccessDenied.into());
    }
    let list = root.child("AccessControlList").ok_or_else(malformed)?;
    if list.children.len() > GRANTS_MAX {
        return Err(malformed());
    }
    let mut grants = Vec::new();
    for grant in list.all("Grant") {
        let permission = grant.get("Permission").and_then(Permission::parse).ok_or_else(malformed)?;
        let who = grant.child("Grantee").ok_or_else(malformed)?;
        let grantee = match (who.get("ID"), who.get("URI"), who.get("EmailAddress")) {
            (Some(id), _, _) => known_user(backend, id).await?,
            (_, Some(uri), _) => Grantee::of_uri(uri)?,
            (_, _, Some(email)) => user_by_email(backend, email).await?,
            _ => return Err(malformed()),
        };
        grants.push(Grant { grantee, permission });
    }
    Ok(Acl(grants))
}

/// Writes `<Owner>` (or `<Initiator>`) for a user.
pub fn write_owner(xml: &mut Xml, tag: &str, id: &UserId, user: Option<&User>) {
    let name = user.map_or(id.0.as_str(), |user| user.display.as_str());
    xml.open(tag).text("ID", &id.0).text("DisplayName", name).close(tag);
}

/// The document that `GET ?acl` answers.
pub async fn to_xml(backend: &dyn Backend, acl: &Acl, owner: &UserId) -> Result<String> {
    let mut xml = Xml::new("AccessControlPolicy");
    write_owner(&mut xml, "Owner", owner, backend.user(owner).await?.as_ref());
    xml.open("AccessControlList");
    let (users, groups): (Vec<_>, Vec<_>) = acl.0.iter().partition(|grant| matches!(grant.grantee, Grantee::User(_)));
    for grant in groups.into_iter().chain(users) {
        xml.open("Grant").raw("<Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"");
        match &grant.grantee {
            Grantee::User(id) => {
                let user = backend.user(id).await?;
                xml.raw("CanonicalUser\">").text("ID", &id.0);
                xml.text("DisplayName", user.as_ref().map_or(id.0.as_str(), |user| user.display.as_str()));
            }
            group => {
                let uri = Grantee::GROUPS.into_iter().find(|(known, ..)| known == group).map_or("", |(_, _, uri)| uri);
                xml.raw("Group\">").text("URI", uri);
            }
        }
        xml.close("Grantee").text("Permission", grant.permission.name()).close("Grant");
    }
    xml.close("AccessControlList");
    Ok(xml.finish("AccessControlPolicy"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId(name.to_owned())
    }

    #[test]
    fn stored_grants_read_back() {
        let (me, you) = (user("me"), user("you with space"));
        for name in ["private", "public-read", "public-read-write", "authenticated-read", "log-delivery-write"] {
            let acl = Acl::canned(name, &me, &me).unwrap();
            assert_eq!(Acl::decode(acl.encode(&me).as_deref(), &me), acl, "{name}");
        }
        let acl = Acl::canned("bucket-owner-read", &me, &you).unwrap();
        assert_eq!(Acl::decode(acl.encode(&me).as_deref(), &me), acl);
        let none = Acl::default();
        assert_eq!(Acl::decode(none.encode(&me).as_deref(), &me), none);
        assert!(Acl::canned("nope", &me, &me).is_err());
    }

    #[test]
    fn grants_open_exactly_what_they_name() {
        use Permission as P;
        let (me, you) = (user("me"), user("you"));
        for (name, who, wanted, yes) in [
            ("private", Some(&me), P::Read, true),
            ("private", Some(&you), P::Read, false),
            ("private", None, P::Read, false),
            ("public-read", None, P::Read, true),
            ("public-read", None, P::Write, false),
            ("public-read", Some(&you), P::Read, true),
            ("public-read-write", None, P::Write, true),
            ("public-read-write", None, P::WriteAcp, false),
            ("authenticated-read", None, P::Read, false),
            ("authenticated-read", Some(&you), P::Read, true),
        ] {
            let acl = Acl::canned(name, &me, &me).unwrap();
            assert_eq!(acl.allows(who, wanted, true), yes, "{name} {who:?} {wanted:?}");
            // A public access block leaves only what is granted to the user himself.
            assert_eq!(acl.allows(who, wanted, false), who == Some(&me));
        }
    }
}
