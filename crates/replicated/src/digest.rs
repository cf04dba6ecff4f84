//! A digest of all rows: replicas that have the same rows have the same one.

use base::kv::View;
use metastore::Error;

/// Rows that are read in one go.
const STEP: usize = 512;

/// BLAKE3 of every row in the order of the keys: u32 length and bytes of the key, then of the
/// value. Blocks on the drive.
pub(crate) fn of(view: &dyn metastore::Snapshot) -> Result<[u8; 32], Error> {
    let mut hasher = blake3::Hasher::new();
    let mut from = Vec::new();
    // No key is longer than a batch; this one is behind all of them in practice and in the format.
    let end = [0xff; 64];
    loop {
        let rows = View::range(view, &from..&end, STEP, false).map_err(|error| Error::Io {
            what: "read rows".into(),
            kind: error.kind,
            text: error.text,
        })?;
        for (key, value) in &rows {
            for part in [key, value] {
                hasher.update(&(part.len() as u32).to_le_bytes());
                hasher.update(part);
            }
        }
        match rows.last() {
            Some((key, _)) if rows.len() == STEP => {
                from.clone_from(key);
                from.push(0);
            }
            _ => return Ok(*hasher.finalize().as_bytes()),
        }
    }
}
