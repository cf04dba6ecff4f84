//! Which ports a node listens on: the ones it had, else free ones from a fixed number on.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

/// Node 1's ports where nobody else has them.
const S3_FIRST: u16 = 9001;
const CLUSTER_FIRST: u16 = 9401;
/// How far from its number a node's port may end up.
const TRIES_MAX: u16 = 300;

/// The two ports of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub s3: u16,
    pub cluster: u16,
}

/// Ports that were given away but don't listen yet.
#[derive(Default)]
pub struct Taken(BTreeSet<u16>);

impl Taken {
    fn is_free(&self, port: u16) -> bool {
        !self.0.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
    }

    /// `wanted`, or the next free one.
    fn take(&mut self, wanted: u16) -> Result<u16, String> {
        let found = (wanted..wanted.saturating_add(TRIES_MAX)).find(|port| self.is_free(*port));
        let port = found.ok_or_else(|| format!("no free port from {wanted} on"))?;
        self.0.insert(port);
        Ok(port)
    }
}

/// The ports in `file`, or new ones for node `number`, written there: other nodes know a node by its
/// cluster port, so it keeps it.
pub fn choose(file: &Path, number: usize, taken: &mut Taken) -> Result<Ports, String> {
    let offset = u16::try_from(number.saturating_sub(1)).map_err(|_| format!("node {number} has no port"))?;
    let had = fs::read_to_string(file).ok().and_then(|text| read(&text));
    let wanted = had.unwrap_or(Ports { s3: S3_FIRST + offset, cluster: CLUSTER_FIRST + offset });
    let ports = Ports { s3: taken.take(wanted.s3)?, cluster: taken.take(wanted.cluster)? };
    if had.is_some_and(|had| had != ports) {
        eprintln!("node {number}: a port of {wanted:?} is in use, so it is {ports:?} now");
    }
    let write = || {
        file.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(file, format!("{} {}\n", ports.s3, ports.cluster))
    };
    write().map_err(|error| format!("write {}: {error}", file.display()))?;
    Ok(ports)
}

fn read(text: &str) -> Option<Ports> {
    let (s3, cluster) = text.trim().split_once(' ')?;
    Some(Ports { s3: s3.parse().ok()?, cluster: cluster.parse().ok()? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Ports, Taken, choose, read};

    #[test]
    fn a_node_keeps_its_ports_and_never_shares_them() {
        let dir = std::env::temp_dir().join(format!("abide-ports-{}", std::process::id()));
        let mut taken = Taken::default();
        let first = choose(&dir.join("n1/ports"), 1, &mut taken).unwrap();
        let second = choose(&dir.join("n2/ports"), 1, &mut taken).unwrap();
        let all = [first.s3, first.cluster, second.s3, second.cluster];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{all:?}");
        let again = choose(&dir.join("n2/ports"), 1, &mut Taken::default()).unwrap();
        assert_eq!(again, second);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_damaged_ports_file_counts_as_none() {
        assert_eq!(read("9001 9401\n"), Some(Ports { s3: 9001, cluster: 9401 }));
        for text in ["", "9001", "x y", "9001 94010"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
