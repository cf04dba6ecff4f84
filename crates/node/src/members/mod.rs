//! Who belongs to the cluster: rules over rows, the node's own file, and the two ends of a join.
//!
//! 1. The root key signs every change. It is where its owner keeps it: on the first node, and wherever
//!    he restores it. A node that joins gets [`crypt::StoreKeys`], which sign nobody in.
//! 2. The member list's epoch is raised in one place (`list`), on the rows of the system shard: so two lists
//!    of one epoch never differ.
//! 3. A key belongs to one node, a ticket to one key. Who repeats itself gets the same answer; that is
//!    what makes a join that was cut short go on.
//! 4. A joining machine's key and ticket are durable before anybody hears of them, and what it was
//!    told is durable before it acts on it.
//!
//! In reading order: [`JoinAsk`] and [`JoinAnswer`] (what is said), `list` and `rules` (what is decided),
//! [`HostRules`] (the node that lets others in), [`NodeFile`] (what a node keeps of itself) and [`sign_in`] (the
//! machine that joins).

mod answer;
mod error;
mod file;
mod host;
mod list;
mod rules;
mod sign_in;

pub use answer::{CONTACTS_MAX, Contact, JoinAnswer, JoinAsk, TOKENS_MAX, Tokens};
pub(crate) use answer::{LIST_BYTES_MAX, put_tokens, take_certificate, take_list, take_tokens};
pub use error::Error;
pub use file::{NodeFile, Turns, node_file};
pub use host::{HostRules, Ledger};
pub use list::{all_nodes, contacts, member_list};
pub use rules::{
    Membership, admit, expunge, found, invite, labels_of, leave, moved, relabel, replace_key, retire_key, rotate_key,
};
pub use sign_in::sign_in;

/// What membership's calls give.
pub type Result<T> = std::result::Result<T, Error>;
