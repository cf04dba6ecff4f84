//! The machine that joins.

use std::path::Path;
use std::sync::Arc;

use codec::Versioned;
use env::{Disk, Env};
use transport::{Carrier, Joining, Settings};
use wire::{Ticket, Trust};
use zeroize::Zeroizing;

use super::answer::{CONTACTS_MAX, Contact, JoinAnswer, JoinAsk};
use super::file::{JoinFile, NodeFile, failed, node_file};
use super::rules::Membership;
use super::{Error, Result};
use crate::private;

/// What the machine's files say.
enum Begun {
    /// It joined with this ticket before.
    Done(Box<NodeFile>),
    /// It has a key and tickets.
    Joining(JoinFile),
}

/// Joins with a ticket and writes the node's file, `<home>/<cluster>.node`. Key and ticket are written
/// before anything is said, so that one that is cut short, anywhere, goes on when it is called
/// again. Repeated after success it gives the file that is there. `carrier` shows the new key
/// from then on.
///
/// # Errors
/// The cluster's reasons; and [`Error::Member`] if this machine joined that cluster with another ticket.
pub async fn sign_in(
    env: &Env,
    settings: &Settings,
    carrier: &Arc<dyn Carrier>,
    ticket: &Ticket,
    ask: &JoinAsk,
    home: &Path,
) -> Result<NodeFile> {
    ask.check()?;
    let (disk, given, folder, random) = (env.disk.clone(), ticket.clone(), home.to_path_buf(), env.random());
    let begun = env.blocking(move || begin(&*disk, &folder, &given, random)).await??;
    let joining = match begun {
        Begun::Done(file) => return Ok(*file),
        Begun::Joining(joining) => joining,
    };
    carrier.rekey(joining.key())?;
    let (joined, ticket) = ask_with_any(env, settings, carrier, &joining, ticket, ask).await?;
    let file = accept(&joining, joined, &ticket)?;
    let (disk, folder, done) = (env.disk.clone(), home.to_path_buf(), file.clone());
    env.blocking(move || finish(&*disk, &folder, &done)).await??;
    Ok(file)
}

/// Reads, or makes, the key; remembers the ticket.
fn begin(disk: &dyn Disk, home: &Path, ticket: &Ticket, random: [u8; 32]) -> Result<Begun> {
    let cluster = ticket.claim.cluster;
    let (path, member) = (JoinFile::path(home, cluster), home.join(node_file(cluster)));
    if disk.exists(&member) {
        let file = NodeFile::read(disk, &member)?;
        if file.ticket != Some(ticket.claim.id) {
            return Err(Error::Member { node: file.node(), path: member });
        }
        private::remove(disk, &path).map_err(|why| failed(&path, why))?;
        return Ok(Begun::Done(Box::new(file)));
    }
    let mut joining = match disk.exists(&path) {
        true => JoinFile::read(disk, &path)?,
        false => JoinFile { seed: Zeroizing::new(random), tickets: Vec::new() },
    };
    joining.add(ticket.text());
    joining.write(disk, &path)?;
    Ok(Begun::Joining(joining))
}

/// Asks with the newest ticket first. If it is refused, an older one may be the one with which this
/// key was signed in while the answer was lost; what the newest one was told is what the owner hears.
async fn ask_with_any(
    env: &Env,
    settings: &Settings,
    carrier: &Arc<dyn Carrier>,
    joining: &JoinFile,
    given: &Ticket,
    ask: &JoinAsk,
) -> Result<(Joining, Ticket)> {
    let (key, ask) = (joining.key().public(), bytes::Bytes::from(ask.encode()));
    let older = joining.tickets.iter().rev().filter_map(|text| Ticket::parse(text).ok());
    let older = older.filter(|ticket| ticket.claim != given.claim);
    let mut first = None;
    for ticket in std::iter::once(given.clone()).chain(older) {
        match transport::join(env, settings, carrier, key, &ticket, ask.clone()).await {
            Ok(joined) => return Ok((joined, ticket)),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.map_or_else(|| Error::Answer("no ticket was tried".into()), Error::from))
}

/// Believes the answer only if all of it fits together.
fn accept(joining: &JoinFile, joined: Joining, ticket: &Ticket) -> Result<NodeFile> {
    let answer = JoinAnswer::decode(&joined.answer)?;
    let key = joining.key().public();
    let wrong = |why: String| Error::Answer(why);
    if answer.certificate.key != key {
        return Err(wrong("the certificate is for another key".into()));
    }
    let trust = Trust::new(joined.root, ticket.claim.cluster, answer.list.clone());
    let trust = trust.map_err(|error| wrong(error.to_string()))?;
    answer.certificate.verify(&joined.root, trust.cluster()).map_err(|error| wrong(error.to_string()))?;
    match trust.admit(&key, Some(&answer.certificate)) {
        Ok(node) if node == answer.certificate.node => {}
        Ok(_) => return Err(wrong("the member list has this key under another id".into())),
        Err(refusal) => return Err(wrong(format!("by its own member list this machine is none: {refusal}"))),
    }
    let membership = Membership { certificate: answer.certificate, list: answer.list };
    let mut file = NodeFile::new(*joining.seed, joined.root, answer.keys, membership);
    file.ticket = Some(ticket.claim.id);
    file.tokens = answer.tokens;
    // Whoever let it in is reachable from here, at this address, for sure.
    file.contacts = vec![Contact { node: joined.host.node, addresses: vec![joined.address] }];
    for contact in answer.contacts {
        match file.contacts.iter_mut().find(|known| known.node == contact.node) {
            Some(known) => known.addresses.extend(contact.addresses.iter().filter(|one| **one != joined.address)),
            None => file.contacts.push(contact),
        }
    }
    file.contacts.truncate(CONTACTS_MAX);
    Ok(file)
}

/// The order matters: at any moment one of the two files has the key.
fn finish(disk: &dyn Disk, home: &Path, file: &NodeFile) -> Result<()> {
    file.write(disk, &home.join(node_file(file.cluster())))?;
    let path = JoinFile::path(home, file.cluster());
    private::remove(disk, &path).map_err(|why| failed(&path, why))
}
