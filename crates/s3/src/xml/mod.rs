//! XML as S3 speaks it: small documents, written by pushing text, read within bounds.

pub mod read;
pub mod write;

pub use read::{Node, parse};
pub use write::Xml;
