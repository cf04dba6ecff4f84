//! What can be typed.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Joins drives and folders into one encrypted, erasure-coded, self-healing S3 store.
#[derive(Debug, Parser)]
#[command(name = "abide", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// Where keys and the control socket are kept [default: $ABIDE_HOME, else ~/.config/abide]
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes a store of these folders, or opens the one they hold, and serves S3
    Up(Box<Up>),
    /// Prints what S3 clients need: eval "$(abide env)"
    Env,
    /// What is stored, how many losses it survives, what is being repaired
    Status,
    /// What happened, newest last
    Events {
        /// How many at the most
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Drives: list, add, drain, remove
    #[command(subcommand)]
    Drive(Drive),
    /// Access keys and the users that own buckets
    #[command(subcommand)]
    Key(Key),
    /// How a bucket's data is coded: copies or k+m
    #[command(subcommand)]
    Policy(Policy),
    /// Reads all pieces on all drives now and checks them
    Scrub,
    /// Reads every piece of what is stored under BUCKET or BUCKET/KEY and checks it
    Verify {
        /// A bucket, or one key in it
        #[arg(value_name = "BUCKET[/KEY]")]
        what: String,
    },
    /// Looks into files of a store, with no store running
    #[command(subcommand)]
    Inspect(Inspect),
}

/// `abide up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Folders or mounted drives
    #[arg(required = true, value_name = "FOLDER")]
    pub drives: Vec<PathBuf>,
    /// Where to serve S3
    #[arg(long, default_value = "127.0.0.1:9000", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// The root key's file [default: in the home, named after the store]
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Restore the key file from the 24 words, read from standard input
    #[arg(long)]
    pub words: bool,
    /// The region that S3 clients are told
    #[arg(long, default_value = "us-east-1")]
    pub region: String,
    /// Also answer to BUCKET.NAME, for virtual-host style
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    pub domain: String,
    /// Certificate chain (PEM) to serve HTTPS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key (PEM) to serve HTTPS
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// How new data is coded: "4+2", "3 copies" [default: by the number of drives]
    #[arg(long, value_name = "CODE")]
    pub policy: Option<String>,
    /// Seconds that a drive may be away before its pieces are rebuilt elsewhere
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub repair_after: u64,
    /// Log as JSON lines
    #[arg(long)]
    pub log_json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Drive {
    /// All drives with state, room and errors
    List,
    /// Adds an empty folder to the running store
    Add {
        /// The folder
        folder: PathBuf,
    },
    /// Moves everything off a drive, so that it can be removed
    Drain {
        /// The drive's folder or the beginning of its id
        drive: String,
        /// Do it; without this only the outcome is shown
        #[arg(long)]
        apply: bool,
    },
    /// Forgets a drive; refused while that would lower safety
    Remove {
        /// The drive's folder or the beginning of its id
        drive: String,
        /// Do it; without this only the outcome is shown
        #[arg(long)]
        apply: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum Key {
    /// Makes an access key
    Create {
        /// The user that it belongs to; made if new [default: a new one]
        #[arg(long)]
        user: Option<String>,
        /// The user's display name
        #[arg(long)]
        display: Option<String>,
        /// The user's e-mail address
        #[arg(long)]
        email: Option<String>,
        /// This access key id instead of a random one
        #[arg(long, requires = "secret_key")]
        access_key: Option<String>,
        /// This secret instead of a random one
        #[arg(long, requires = "access_key")]
        secret_key: Option<String>,
    },
    /// All access keys, without their secrets
    List,
    /// Makes an access key worthless
    Revoke {
        /// Its id
        access_key: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum Policy {
    /// How each bucket is coded
    List,
    /// Sets how new data of a bucket is coded: "4+2", "3 copies", "default"
    Set {
        /// The bucket
        bucket: String,
        /// The code
        code: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum Inspect {
    /// The header of a piece, or all records of a piece log
    Piece {
        /// A file under DRIVE/pieces
        file: PathBuf,
    },
    /// The records of a metadata log
    Log {
        /// A file under DRIVE/meta
        file: PathBuf,
        /// The root key's file
        #[arg(long, value_name = "FILE")]
        key_file: PathBuf,
    },
    /// Where an object's bytes are: BUCKET/KEY of the running store
    Manifest {
        /// A bucket and a key
        #[arg(value_name = "BUCKET/KEY")]
        what: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn what_can_be_typed_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn half_a_certificate_is_no_certificate() {
        assert!(Cli::try_parse_from(["abide", "up", "d1", "--tls-cert", "c.pem"]).is_err());
        assert!(Cli::try_parse_from(["abide", "up", "d1", "--tls-cert", "c.pem", "--tls-key", "k.pem"]).is_ok());
        assert!(Cli::try_parse_from(["abide", "up"]).is_err(), "a store of no folders");
    }
}
