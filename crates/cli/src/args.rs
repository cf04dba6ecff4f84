//! What can be typed.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

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
    /// Joins a cluster with a ticket, with these folders, and serves S3
    Join(Box<Join>),
    /// Prints a ticket with which one machine can join
    Invite {
        /// How long it is good: 30m, 24h, 7d
        #[arg(long, default_value = "24h", value_name = "TIME", value_parser = span)]
        valid_for: Duration,
    },
    /// Nodes: list, restart-plan, expunge, rotate-key
    #[command(subcommand)]
    Node(Nodes),
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
    /// Lets years pass over the running store's machines, or those of a file: what survives, what is lost
    Simulate(Simulate),
    /// Reads all pieces on all drives now and checks them
    Scrub,
    /// Reads every piece of what is stored under BUCKET or BUCKET/KEY and checks it
    Verify {
        /// A bucket, or one key in it
        #[arg(value_name = "BUCKET[/KEY]")]
        what: String,
    },
    /// Reads everything from whatever nodes are left, with nothing but the root key: no service needs to be alive
    Rescue(Rescue),
    /// Volumes: end-to-end ones are made and opened here, their keys stay with you
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Serves S3 for end-to-end volumes, on this machine alone: everything is sealed and opened in this process
    Gateway(Gateway),
    /// Copies files into an end-to-end volume, or out of it; they are sealed and opened on this machine
    Cp(Copy),
    /// Lists what is in an end-to-end volume
    Ls(Listing),
    /// Removes files from an end-to-end volume
    Rm(Removing),
    /// Prints what changes in an end-to-end volume, as it changes
    Watch(Watching),
    /// Prints a line of text with which others can use part of an end-to-end volume
    Grant(GrantWhat),
    /// Copies of what is needed to read without any service: how fresh they are, and where
    #[command(subcommand)]
    Kit(Kit),
    /// Founds the metadata anew on this node, when most nodes that kept it are lost for good
    Recover(Recover),
    /// Empties drives, nodes or all of a label, so that they can be removed; reads and writes go on
    Drain {
        #[command(flatten)]
        plan: Plan,
        /// Use again what is being emptied
        #[arg(long)]
        stop: bool,
    },
    /// Takes out for good what was drained
    Remove(Plan),
    /// Declares drives or nodes lost for ever; their data is rebuilt on the others
    Expunge(Plan),
    /// How much repair and moving of data may take beside users' requests
    Pace {
        /// still, idle, normal, busy, or 0 to 100; without it the pace is shown
        pace: Option<String>,
    },
    /// Every plan that was applied, with what it came to
    Trail {
        /// How many at the most, the latest
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Lists what was deleted or overwritten and can be had back, or brings it back
    Undo {
        /// A bucket, a key in it, or an id from the list; without it what can be had back is listed
        #[arg(value_name = "BUCKET[/KEY]|ID")]
        what: Option<String>,
        /// What to call a bucket that is brought back, if its name is taken
        #[arg(long = "as", value_name = "NAME", requires = "what")]
        name: Option<String>,
        /// Keep what is deleted for so long from now on: 12h, 7d
        #[arg(long, value_name = "TIME", value_parser = span, conflicts_with = "what")]
        keep: Option<Duration>,
        /// List at most so much, the latest
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        go: Go,
    },
    /// Gives up for good what could be had back: all of it, or of a bucket or a key
    Purge {
        /// A bucket, a key in it, or a deleted bucket's id
        #[arg(value_name = "BUCKET[/KEY]|ID")]
        what: Option<String>,
        #[command(flatten)]
        go: Go,
    },
    /// Buckets: delete
    #[command(subcommand)]
    Bucket(Bucket),
    /// Looks into files of a store, with no store running
    #[command(subcommand)]
    Inspect(Inspect),
}

#[derive(Debug, Subcommand)]
pub enum Bucket {
    /// Deletes a bucket; `abide undo` brings it back for a while
    Delete {
        /// The bucket
        bucket: String,
        /// With all that is in it; without this only an empty one is deleted
        #[arg(long)]
        with_contents: bool,
        #[command(flatten)]
        go: Go,
    },
}

/// What a plan is about, and whether it is carried out.
#[derive(Debug, Args)]
pub struct Plan {
    /// A drive's folder or id, a node's name or id, or all of a label: site=office
    #[arg(required = true, value_name = "TARGET")]
    pub targets: Vec<String>,
    #[command(flatten)]
    pub go: Go,
}

/// Whether a plan is carried out.
#[derive(Debug, Args)]
pub struct Go {
    /// Do it; without this only the outcome is shown
    #[arg(long)]
    pub apply: bool,
    /// Do it although it is refused: the code of this outcome
    #[arg(long, value_name = "CODE")]
    pub code: Option<String>,
}

/// `abide simulate`.
#[derive(Debug, Args)]
pub struct Simulate {
    /// A file that describes the machines [default: those of the running store]
    #[arg(value_name = "FLEET.toml", conflicts_with = "preset")]
    pub fleet: Option<PathBuf>,
    /// Machines that come with the program: 10,000 drives, with independent or with correlated failures
    #[arg(long, value_parser = ["ten-thousand", "ten-thousand-correlated"], value_name = "NAME")]
    pub preset: Option<String>,
    /// How many years
    #[arg(long, default_value_t = 1.0, value_name = "YEARS")]
    pub years: f64,
    /// The same number gives the same years
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub seed: u64,
    /// Also draw it: spare pieces, and what waited to be rebuilt, as SVG
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

/// `abide recover`.
#[derive(Debug, Args)]
pub struct Recover {
    /// The folders that are left of this node, whose `abide up` is stopped
    #[arg(required = true, value_name = "FOLDER")]
    pub drives: Vec<PathBuf>,
    /// Do it: the code that this printed before. Without it only the outcome is shown
    #[arg(long, value_name = "CODE")]
    pub code: Option<String>,
}

/// `abide rescue`.
#[derive(Debug, Args)]
pub struct Rescue {
    /// Where to write it; without a folder only what is there is shown
    #[arg(value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Some nodes that are left, as HOST or HOST:PORT; those that they know are found by themselves
    #[arg(long, required = true, value_delimiter = ',', value_name = "ADDRESS")]
    pub from: Vec<String>,
    /// One end-to-end volume, with its own key
    #[arg(long, conflicts_with = "key_file", requires = "words")]
    pub volume: bool,
    /// Read the 24 words of the root key, or of the volume, from standard input
    #[arg(long, conflicts_with = "key_file")]
    pub words: bool,
    /// The root key's file [default: the one in the home]
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Only this bucket
    #[arg(long, value_name = "NAME")]
    pub bucket: Option<String>,
    /// Only keys that begin so
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub prefix: String,
    /// What was replaced or deleted as well, as far as it is still there
    #[arg(long)]
    pub leftovers: bool,
}

#[derive(Debug, Args)]
pub struct Gateway {
    /// Volumes whose keys are here; each is a bucket
    #[arg(required = true, value_name = "VOLUME")]
    pub volumes: Vec<String>,
    /// Where to serve S3: an address of this machine alone
    #[arg(long, default_value = "127.0.0.1:9310", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// The region that clients sign for
    #[arg(long, default_value = "us-east-1", value_name = "NAME")]
    pub region: String,
    /// Nodes to ask first, as HOST or HOST:PORT
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    pub from: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Makes an end-to-end volume on the store that runs here; its 24 words are shown once
    Create {
        /// Its name, as a bucket's
        name: String,
        /// Its keys stay with you: nobody else can read it
        #[arg(long, required = true)]
        e2e: bool,
        /// Print three shares of its key too, any two of which give it back
        #[arg(long)]
        shares: bool,
    },
    /// Brings a volume's keys to this machine, from its words or shares on standard input
    Open {
        /// Its name
        name: String,
        /// From its 24 words
        #[arg(long, required_unless_present = "shares")]
        words: bool,
        /// From two of its shares
        #[arg(long, conflicts_with = "words")]
        shares: bool,
        /// A node of its store, as HOST or HOST:PORT
        #[arg(long, required = true, value_delimiter = ',', value_name = "ADDRESS")]
        from: Vec<String>,
    },
    /// All volumes, and whose keys are here
    List,
    /// Makes all grants of a volume worthless that were made so far
    Revoke {
        /// Its name
        name: String,
    },
    /// Gives a volume other keys, with 24 new words: a device that had the old ones is closed out. No content moves
    Rotate {
        /// Its name; its keys are here, and a node of its store runs here
        name: String,
        /// Do it; without this it is only said what it would do
        #[arg(long)]
        apply: bool,
        /// Print three shares of the new key too, any two of which give it back
        #[arg(long)]
        shares: bool,
    },
}

/// `abide cp`.
#[derive(Debug, Args)]
pub struct Copy {
    /// A file or folder, or VOLUME:PATH
    pub source: String,
    /// VOLUME:PATH, or a file or folder. What ends in / takes the source by its own name
    pub target: String,
    /// Folders too, with all that is in them
    #[arg(short, long)]
    pub recursive: bool,
    /// A file with a grant, or - for standard input: the volume is then written :PATH
    #[arg(long, value_name = "FILE")]
    pub grant: Option<PathBuf>,
    /// Read by the kit in this file, as of when it was exported, and not by what the volume's metadata says now
    #[arg(long, value_name = "FILE", conflicts_with = "grant")]
    pub kit: Option<PathBuf>,
    /// Nodes to ask first, as HOST or HOST:PORT
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    pub from: Vec<String>,
}

/// `abide ls`.
#[derive(Debug, Args)]
pub struct Listing {
    /// VOLUME:PATH, or :PATH with a grant
    pub place: Option<String>,
    /// All that is below as well
    #[arg(short, long)]
    pub recursive: bool,
    /// A file with a grant, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub grant: Option<PathBuf>,
    /// Read by the kit in this file, as of when it was exported, and not by what the volume's metadata says now
    #[arg(long, value_name = "FILE", conflicts_with = "grant")]
    pub kit: Option<PathBuf>,
    /// Nodes to ask first, as HOST or HOST:PORT
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    pub from: Vec<String>,
}

/// `abide watch`.
#[derive(Debug, Args)]
pub struct Watching {
    /// VOLUME:PATH of a file or folder, or :PATH with a grant
    pub place: Option<String>,
    /// What changed after this position, and not only what changes from now on
    #[arg(long, value_name = "POSITION")]
    pub since: Option<u64>,
    /// A file with a grant, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub grant: Option<PathBuf>,
    /// Nodes to ask first, as HOST or HOST:PORT
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    pub from: Vec<String>,
}

/// `abide rm`.
#[derive(Debug, Args)]
pub struct Removing {
    /// VOLUME:PATH, or :PATH with a grant
    pub place: String,
    /// A folder, with all that is in it
    #[arg(short, long)]
    pub recursive: bool,
    /// A file with a grant, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub grant: Option<PathBuf>,
    /// Nodes to ask first, as HOST or HOST:PORT
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    pub from: Vec<String>,
}

/// `abide grant`.
#[derive(Debug, Args)]
pub struct GrantWhat {
    /// VOLUME:PATH of a file or folder, or :PATH below another grant
    pub place: String,
    /// To list and read; that is what is granted if nothing else is said
    #[arg(long)]
    pub read: bool,
    /// To write
    #[arg(long)]
    pub write: bool,
    /// To delete
    #[arg(long)]
    pub delete: bool,
    /// Until when: 2027-01-01 (UTC) or 30d
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// A file with the grant that is narrowed, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub grant: Option<PathBuf>,
    /// Nodes to ask first, as HOST or HOST:PORT
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    pub from: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum Kit {
    /// For each bucket: what its kit has, up to when, and which nodes have the newest copy
    Status,
    /// Writes a volume's newest kit to a file, sealed and signed as it is
    Export {
        /// A volume whose keys are here, or a bucket of the store whose root key is here
        volume: String,
        /// A new file
        file: PathBuf,
        /// Nodes to ask first, as HOST or HOST:PORT
        #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
        from: Vec<String>,
    },
    /// Checks a volume's kit: in a file, or every copy that is found, here and at nodes
    Verify {
        /// A volume whose keys are here, or a bucket of the store whose root key is here
        volume: String,
        /// A file that `abide kit export` wrote
        file: Option<PathBuf>,
        /// Nodes to ask first, as HOST or HOST:PORT
        #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
        from: Vec<String>,
    },
}

/// `abide join`.
#[derive(Debug, Args)]
pub struct Join {
    /// What `abide invite` printed on a node of the cluster
    #[arg(value_name = "TICKET")]
    pub ticket: String,
    #[command(flatten)]
    pub up: Up,
}

/// `abide up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Folders or mounted drives
    #[arg(required = true, value_name = "FOLDER")]
    pub drives: Vec<PathBuf>,
    /// Where to listen for other nodes, once there are some
    #[arg(long, default_value = "0.0.0.0:9400", value_name = "ADDRESS:PORT")]
    pub cluster_listen: SocketAddr,
    /// Where other nodes reach this one [default: the address of this machine's first network]
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = reached)]
    pub advertise: Vec<SocketAddr>,
    /// What to know of this machine: rack, site, country, owner or model
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// What to call this machine [default: its host name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
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
    /// Keep metadata alone: what joins now takes no data. Three such machines keep it for all others
    #[arg(long)]
    pub no_data: bool,
    /// How new data is coded: "4+2", "3 copies" [default: by the number of drives]
    #[arg(long, value_name = "CODE")]
    pub policy: Option<String>,
    /// Seconds that a drive may be away before its pieces are rebuilt elsewhere
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub repair_after: u64,
    /// Seconds that nobody may lead a bucket's metadata before reads go on by copies of it, which may be a moment old; 0: never
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub read_by_kit_after: u64,
    /// Log as JSON lines
    #[arg(long)]
    pub log_json: bool,
}

/// An address; without a port the one that is listened on.
fn reached(text: &str) -> Result<SocketAddr, String> {
    let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0));
    bare.or_else(|_| text.parse()).map_err(|_| format!("{text:?} is no address: write 192.0.2.7 or 192.0.2.7:9400"))
}

/// A span of time.
pub fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no span of time: write 30m, 24h or 7d");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[derive(Debug, Subcommand)]
pub enum Nodes {
    /// All nodes: how they stand, where they are, what they hold
    List,
    /// In which order the nodes can be restarted without anybody noticing
    RestartPlan,
    /// Shuts a stolen or dead node out for ever; its data is rebuilt on the others
    Expunge {
        /// The node's name or the beginning of its id
        node: String,
        #[command(flatten)]
        go: Go,
    },
    /// Gives this node a new key
    RotateKey,
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
        #[command(flatten)]
        go: Go,
    },
    /// Forgets a drive; refused while that would lower safety
    Remove {
        /// The drive's folder or the beginning of its id
        drive: String,
        #[command(flatten)]
        go: Go,
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
    /// Whether the words that you type, or two shares, open an end-to-end volume
    Test {
        /// The volume's name
        volume: String,
        /// Two shares instead of the 24 words
        #[arg(long)]
        shares: bool,
        /// Ask a node of its store, as HOST or HOST:PORT, and not what is kept here
        #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
        from: Vec<String>,
    },
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
    /// Sets how new data of a bucket is coded: "4+2", "3 copies surviving 1 site", "default"
    Set {
        /// The bucket
        bucket: String,
        /// The code, and what else is asked: "8+4 surviving 1 site and 2 nodes in country=de"
        code: String,
        /// Do it although new data would survive less than so far: the code of this outcome
        #[arg(long, value_name = "CODE")]
        confirm: Option<String>,
    },
    /// Sets how new data of all buckets is coded that have no policy of their own
    Default {
        /// The code, and what else is asked; "default" follows the number of nodes and drives
        code: String,
        /// Do it although new data would survive less than so far: the code of this outcome
        #[arg(long, value_name = "CODE")]
        confirm: Option<String>,
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

    /// What a command does to what is stored.
    enum Does {
        /// Changes nothing.
        Looks,
        /// Could lower safety or lose data: it passes the outcome gate, and its code insists.
        Gated,
        /// Changes something, and why that needs no gate.
        Harmless(&'static str),
    }

    /// Every command. What isn't here fails the test below: is it gated?
    const ALL: &[(&str, Does)] = &[
        ("up", Does::Harmless("adds empty folders; refuses others; --policy is for a store that is made")),
        ("join", Does::Harmless("adds a machine with empty folders")),
        ("invite", Does::Harmless("lets a machine in, which takes nothing away")),
        ("node list", Does::Looks),
        ("node restart-plan", Does::Looks),
        ("node expunge", Does::Gated),
        ("node rotate-key", Does::Harmless("another key for the same node; the old one is good for a minute more")),
        ("env", Does::Looks),
        ("status", Does::Looks),
        ("events", Does::Looks),
        ("drive list", Does::Looks),
        ("drive add", Does::Harmless("adds room")),
        ("drive drain", Does::Gated),
        ("drive remove", Does::Gated),
        ("key create", Does::Harmless("an access key more")),
        ("key list", Does::Looks),
        ("key revoke", Does::Harmless("closes a door; no data is touched, and a new key opens it")),
        ("key test", Does::Looks),
        ("volume create", Does::Harmless("adds a volume; a name that is taken is refused")),
        ("volume open", Does::Harmless("keeps a key here that its owner types")),
        ("volume list", Does::Looks),
        ("volume revoke", Does::Harmless("closes doors; no data is touched, and the owner makes new grants")),
        ("volume rotate", Does::Harmless("says what it would do; with --apply the new words lead to all there was")),
        ("gateway", Does::Harmless("what S3 clients write over or delete can be had back within the window")),
        ("cp", Does::Harmless("what it writes over can be had back within the window")),
        ("ls", Does::Looks),
        ("rm", Does::Harmless("what it deletes can be had back within the window")),
        ("watch", Does::Looks),
        ("grant", Does::Harmless("lets somebody in, which takes nothing away")),
        ("rescue", Does::Harmless("reads nodes; writes into a folder of the caller's")),
        ("kit status", Does::Looks),
        ("kit export", Does::Harmless("writes a new file of the caller's, and brings the volume's kit up to date")),
        ("kit verify", Does::Looks),
        ("policy list", Does::Looks),
        ("policy set", Does::Gated),
        ("policy default", Does::Gated),
        ("simulate", Does::Looks),
        ("scrub", Does::Harmless("reads; what is damaged is rebuilt")),
        ("verify", Does::Looks),
        ("recover", Does::Gated),
        ("drain", Does::Gated),
        ("remove", Does::Gated),
        ("expunge", Does::Gated),
        ("pace", Does::Harmless("what has no spare piece left is repaired whatever it says")),
        ("trail", Does::Looks),
        ("undo", Does::Gated),
        ("purge", Does::Gated),
        ("bucket delete", Does::Gated),
        ("inspect piece", Does::Looks),
        ("inspect log", Does::Looks),
        ("inspect manifest", Does::Looks),
    ];

    fn leaves(command: &clap::Command, path: &str, to: &mut Vec<(String, clap::Command)>) {
        let path = format!("{path} {}", command.get_name());
        let more: Vec<_> = command.get_subcommands().filter(|one| one.get_name() != "help").collect();
        if more.is_empty() {
            to.push((path.trim().trim_start_matches("abide ").to_owned(), command.clone()));
        }
        more.into_iter().for_each(|one| leaves(one, &path, to));
    }

    /// That each gated one refuses is shown by `node/tests/undo.rs`, `plans.rs`, `recover.rs` and `placement/tests/changes.rs`.
    /// Voters are changed by the store alone, which judges each change likewise; an older release refuses forms that it
    /// doesn't know, so going back is no command.
    #[test]
    fn every_command_that_changes_something_is_gated_or_harmless_for_a_reason() {
        let mut found = Vec::new();
        leaves(&Cli::command(), "", &mut found);
        for (path, command) in &found {
            let row = ALL.iter().find(|(name, _)| name == path);
            let (_, does) = row.unwrap_or_else(|| panic!("abide {path} is new: is it gated, or harmless, and why?"));
            // `code` of a policy is how data is coded; there the outcome's is called `confirm`.
            let insists = match path.starts_with("policy ") {
                true => command.get_arguments().any(|one| one.get_id() == "confirm"),
                false => command.get_arguments().any(|one| one.get_id() == "code"),
            };
            assert_eq!(
                insists,
                matches!(does, Does::Gated),
                "abide {path}: a code is taken exactly where there is a gate"
            );
            assert!(!matches!(does, Does::Harmless(why) if why.is_empty()), "abide {path}: why?");
        }
        for (name, _) in ALL {
            assert!(found.iter().any(|(path, _)| path == name), "there is no abide {name} any more");
        }
    }

    #[test]
    fn half_a_certificate_is_no_certificate() {
        assert!(Cli::try_parse_from(["abide", "up", "d1", "--tls-cert", "c.pem"]).is_err());
        assert!(Cli::try_parse_from(["abide", "up", "d1", "--tls-cert", "c.pem", "--tls-key", "k.pem"]).is_ok());
        assert!(Cli::try_parse_from(["abide", "up"]).is_err(), "a store of no folders");
    }
}
