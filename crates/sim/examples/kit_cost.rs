//! What kits cost beside the writes that they follow: real nodes in one process, over loopback and real folders.
//!
//! `cargo run --release -p sim --example kit_cost -- [NODES] [SECONDS] [FOLDER] [--json]`
//!
//! All bytes that are written to files and to sockets are counted, and of them those of kits: files in `kits/` on all nodes, and the
//! parcels that bring them. CPU of kits is that of the task that keeps them and of the work on kits' files, and for each parcel that
//! a holder takes the time of its check, measured here. Idle costs are measured first and taken off.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use base::{GroupId, PolicyId, SegmentId, UserId, VolumeId, Wall};
use bytes::Bytes;
use client::Bucket;
use codec::Versioned;
use crypt::VolumeRoot;
use env::{BoxFuture, Disk, Entry, Env, File, Listener, Net, Open, Space, Spawn, Stream};
use kit::spread::{Label, Parcel};
use kit::{Body, Change, Code, Log, Object, Position, Segment, State};
use namespace::{Attrs, Command, Condition, NewVersion};
use node::{Health, Node, Settings};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What was counted; of kits apart.
#[derive(Default)]
struct Counts {
    disk: AtomicU64,
    kit_disk: AtomicU64,
    net: AtomicU64,
    parcels: AtomicU64,
    parcel_bytes: AtomicU64,
    kit_cpu: AtomicU64,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    disk: f64,
    kit_disk: f64,
    net: f64,
    parcels: f64,
    parcel_bytes: f64,
    kit_cpu: f64,
    cpu: f64,
}

impl Counts {
    fn seen(&self) -> Seen {
        let of = |count: &AtomicU64| count.load(Relaxed) as f64;
        Seen {
            disk: of(&self.disk),
            kit_disk: of(&self.kit_disk),
            net: of(&self.net),
            parcels: of(&self.parcels),
            parcel_bytes: of(&self.parcel_bytes),
            kit_cpu: of(&self.kit_cpu) / 1e9,
            cpu: cpu(),
        }
    }
}

impl Seen {
    fn with(self, other: Seen, both: impl Fn(f64, f64) -> f64) -> Seen {
        Seen {
            disk: both(self.disk, other.disk),
            kit_disk: both(self.kit_disk, other.kit_disk),
            net: both(self.net, other.net),
            parcels: both(self.parcels, other.parcels),
            parcel_bytes: both(self.parcel_bytes, other.parcel_bytes),
            kit_cpu: both(self.kit_cpu, other.kit_cpu),
            cpu: both(self.cpu, other.cpu),
        }
    }

    fn since(self, before: Seen) -> Seen {
        self.with(before, |now, then| now - then)
    }

    fn least(self, other: Seen) -> Seen {
        self.with(other, f64::min)
    }

    /// A second of it.
    fn over(self, secs: f64) -> Seen {
        self.with(self, |all, _| all / secs)
    }
}

/// CPU seconds of this process, all threads, to the clock tick of 10 ms.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

thread_local! {
    static STAT: std::fs::File = std::fs::File::open("/proc/thread-self/schedstat").unwrap();
    /// What runs now is the keeping of kits.
    static IN_KITS: Cell<bool> = const { Cell::new(false) };
    /// The work that runs now touched a kit's file.
    static TOUCHED: Cell<bool> = const { Cell::new(false) };
}

/// Nanoseconds that this thread ran.
fn ran() -> u64 {
    let mut bytes = [0; 64];
    let len = STAT.with(|stat| stat.read_at(&mut bytes, 0)).unwrap();
    let text = std::str::from_utf8(&bytes[..len]).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

struct CountedDisk(Arc<dyn Disk>, Arc<Counts>);

struct CountedFile {
    file: Arc<dyn File>,
    counts: Arc<Counts>,
    is_kit: bool,
    /// A copy of a log, not its label.
    is_log: bool,
}

impl Disk for CountedDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let is_kit = path.components().any(|part| part.as_os_str() == "kits");
        TOUCHED.set(TOUCHED.get() || is_kit);
        let is_log = is_kit && path.extension().is_some_and(|end| end == "kit");
        Ok(Arc::new(CountedFile { file: self.0.open(path, how)?, counts: self.1.clone(), is_kit, is_log }))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.0.read_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }
    fn exists(&self, path: &Path) -> bool {
        self.0.exists(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.0.space(path)
    }
    fn make_private(&self, path: &Path) -> io::Result<()> {
        self.0.make_private(path)
    }
    fn is_private(&self, path: &Path) -> io::Result<bool> {
        self.0.is_private(path)
    }
    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        self.0.canonical(path)
    }
}

impl CountedFile {
    fn wrote(&self, len: usize) {
        self.counts.disk.fetch_add(len as u64, Relaxed);
        if self.is_kit {
            self.counts.kit_disk.fetch_add(len as u64, Relaxed);
            if self.is_log {
                self.counts.parcels.fetch_add(1, Relaxed);
                self.counts.parcel_bytes.fetch_add(len as u64, Relaxed);
            }
        }
    }
}

impl File for CountedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }
    fn read_vec_at(&self, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        self.file.read_vec_at(len, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.wrote(bytes.len());
        self.file.write_at(bytes, offset)
    }
    fn write_parts_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        self.wrote(parts.iter().map(|part| part.len()).sum());
        self.file.write_parts_at(parts, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch_hole(offset, len)
    }
    fn try_lock(&self) -> io::Result<bool> {
        self.file.try_lock()
    }
    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }
    fn is_deleted(&self) -> bool {
        self.file.is_deleted()
    }
    fn is_at(&self, path: &Path) -> bool {
        self.file.is_at(path)
    }
}

struct CountedNet(Arc<dyn Net>, Arc<Counts>);

struct CountedListener(Box<dyn Listener>, Arc<Counts>);

struct CountedStream(Box<dyn Stream>, Arc<Counts>);

impl Net for CountedNet {
    fn bind(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = self.0.bind(address).await?;
            Ok(Box::new(CountedListener(listener, self.1.clone())) as Box<dyn Listener>)
        })
    }
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = self.0.connect(address).await?;
            Ok(Box::new(CountedStream(stream, self.1.clone())) as Box<dyn Stream>)
        })
    }
}

impl Listener for CountedListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.0.accept().await?;
            Ok((Box::new(CountedStream(stream, self.1.clone())) as Box<dyn Stream>, peer))
        })
    }
    fn address(&self) -> io::Result<SocketAddr> {
        self.0.address()
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, to)
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.0).poll_write(context, from);
        if let Poll::Ready(Ok(len)) = &done {
            self.1.net.fetch_add(*len as u64, Relaxed);
        }
        done
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.0).poll_write_vectored(context, from);
        if let Poll::Ready(Ok(len)) = &done {
            self.1.net.fetch_add(*len as u64, Relaxed);
        }
        done
    }
    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

struct CountedSpawn(Arc<dyn Spawn>, Arc<Counts>);

/// The task that keeps kits.
struct Keeping(BoxFuture<'static, ()>, Arc<Counts>);

impl Future for Keeping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let before = ran();
        IN_KITS.set(true);
        let done = self.0.as_mut().poll(context);
        IN_KITS.set(false);
        self.1.kit_cpu.fetch_add(ran() - before, Relaxed);
        done
    }
}

impl Spawn for CountedSpawn {
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        let task = if name == "keep kits" { Box::pin(Keeping(task, self.1.clone())) } else { task };
        self.0.spawn(name, task);
    }
    fn blocking(&self, work: Box<dyn FnOnce() + Send + 'static>) {
        let (is_ours, counts) = (IN_KITS.get(), self.1.clone());
        self.0.blocking(Box::new(move || {
            TOUCHED.set(false);
            let before = ran();
            work();
            if is_ours || TOUCHED.get() {
                counts.kit_cpu.fetch_add(ran() - before, Relaxed);
            }
        }));
    }
}

fn counted(counts: &Arc<Counts>) -> Env {
    let env = Env::real();
    Env {
        disk: Arc::new(CountedDisk(env.disk.clone(), counts.clone())),
        net: Arc::new(CountedNet(env.net.clone(), counts.clone())),
        spawn: Arc::new(CountedSpawn(env.spawn.clone(), counts.clone())),
        ..env
    }
}

fn settings(dir: &Path, node: usize, port: SocketAddr, nodes: usize) -> Settings {
    let mut settings = Settings::new(vec![dir.join(format!("drive{node}"))], dir.join(format!("home{node}")));
    settings.pieces.reserve_bytes = 1 << 20;
    (settings.cluster_listen, settings.addresses) = (port, vec![port]);
    settings.name = format!("n{node}");
    settings.nodes_per_shard = nodes;
    settings
}

async fn put(node: &Node, bucket: &Bucket, key: String, len: usize) {
    let bytes: Vec<u8> = (0..len).map(|at| (at * 7 + key.len()) as u8).collect();
    let mut writer = node.client().writer(bucket, Some(len as u64)).named(&key);
    writer.write(Bytes::from(bytes)).await.unwrap();
    let content = writer.finish().await.unwrap();
    // As S3 makes them.
    let attrs = Attrs::from([
        ("content-type".to_owned(), b"application/octet-stream".to_vec()),
        ("owner".to_owned(), vec![b'o'; 32]),
    ]);
    let new =
        NewVersion { size: content.size, etag: "0123456789abcdef0123456789abcdef".into(), attrs, body: content.body };
    node.client().commit(bucket, Command::Put { key, new, condition: Condition::default() }).await.unwrap();
}

/// Objects of a bucket's kit, if all its holders have all of it.
fn fresh(nodes: &[Node], bucket: &str) -> Option<usize> {
    let kits = nodes.iter().flat_map(|node| node.kits().unwrap_or_default());
    let mut ours = kits.filter(|kit| kit.bucket.as_deref() == Some(bucket));
    ours.find(|kit| kit.holders.len() + 1 >= nodes.len().min(3) && kit.holders.iter().all(|holder| holder.fresh))
        .map(|kit| kit.objects)
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain: {what}");
}

/// A random object of one segment, in a pack, or of many segments.
fn object(env: &Env, number: u64, segments: usize) -> Object {
    let segment = || Segment {
        id: SegmentId(env.random()),
        code: Code { policy: PolicyId(1), k: 4, m: 2 },
        group: GroupId(u32::from_le_bytes(env.random()) % 200),
        len: 64 << 20,
        bare_key: env.random(),
        root: env.random(),
    };
    let modified = Wall(1_795_230_600_000 + number * 37);
    let body = Body::Segments((0..segments).map(|_| segment()).collect());
    Object {
        version: number,
        null: true,
        marker: false,
        modified,
        size: (segments as u64) << 26,
        attrs: Vec::new(),
        body,
    }
}

/// Bytes of a kit for each segment, beyond names.
fn bytes_per_segment(env: &Env, objects: u64, segments: usize) -> f64 {
    let mut state = State::default();
    let mut names = 0;
    for number in 0..objects {
        let path = format!("photos/{number:08}.jpg");
        names += path.len();
        state.apply(Change::Put { path, object: object(env, number, segments) });
    }
    let (bytes, _) = Log::create(&VolumeRoot::new([1; 32]), VolumeId(1), [2; 16], state, || env.random()).unwrap();
    (bytes.len() - names) as f64 / (objects as f64 * segments as f64)
}

/// Seconds that the check of one parcel takes a holder.
fn check_secs(env: &Env) -> f64 {
    const TURNS: u32 = 2000;
    let root = VolumeRoot::new([1; 32]);
    let position = Position { seq: 1, at: Wall(1) };
    let (bytes, mut log) = Log::create(&root, VolumeId(1), [2; 16], State::default(), || env.random()).unwrap();
    let changes = vec![Change::Put { path: "x".into(), object: object(env, 1, 20) }, Change::Position(position)];
    let more = log.append(changes, || env.random()).unwrap();
    let parcel = Parcel::new(&root, Label::of(&log), bytes.len() as u64, &more).encode();
    let before = cpu();
    assert!((0..TURNS).all(|_| Parcel::decode(&parcel).unwrap().is_genuine()));
    (cpu() - before) / f64::from(TURNS)
}

struct Row {
    what: String,
    per_second: f64,
    put: [f64; 3],
    kit: [f64; 3],
}

async fn measure(nodes: &[Node], counts: &Counts, what: (&str, usize, usize), length: Duration, check: f64) -> Row {
    let (name, len, writers) = what;
    let owner = UserId(nodes[0].access().await.unwrap().user);
    let bucket = nodes[0].client().create_bucket(&format!("{name}-{writers}"), &owner, "").await.unwrap();
    until("its kit is there", || fresh(nodes, &bucket.name).is_some()).await;
    // What was done before may go on for a while: the quietest moment counts.
    let mut idle: Option<Seen> = None;
    for _ in 0..4 {
        let (idle_began, before) = (Instant::now(), counts.seen());
        tokio::time::sleep(Duration::from_secs(2)).await;
        let one = counts.seen().since(before).over(idle_began.elapsed().as_secs_f64());
        idle = Some(idle.map_or(one, |idle| idle.least(one)));
    }
    let idle = idle.unwrap_or_default();
    let (began, before, ends) = (Instant::now(), counts.seen(), AtomicBool::new(false));
    let work = (0..writers).map(|writer| {
        let (ends, bucket, node) = (&ends, &bucket, &nodes[writer % nodes.len()]);
        async move {
            let mut done = 0u64;
            while !ends.load(Relaxed) && began.elapsed() < length {
                put(node, bucket, format!("photos/2026/{writer:03}/{done:08}.jpg"), len).await;
                done += 1;
            }
            done
        }
    });
    let commits: u64 = futures_util::future::join_all(work).await.into_iter().sum();
    let took = began.elapsed().as_secs_f64();
    for turn in 0.. {
        if fresh(nodes, &bucket.name) == Some(commits as usize) {
            break;
        }
        let kits = || nodes.iter().map(|node| node.kits().unwrap_or_default()).collect::<Vec<_>>();
        assert!(turn < 1500, "of {commits} objects kits have: {:?}", kits());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let secs = began.elapsed().as_secs_f64();
    let seen = counts.seen().since(before);
    let (count, share) = (commits as f64, secs);
    // A parcel's label, place and signature go along; this node's own copy isn't sent.
    let sent = (nodes.len() - 1) as f64 / nodes.len() as f64;
    let kit_net = (seen.parcel_bytes + seen.parcels * 200.0) * sent;
    let kit_cpu = seen.kit_cpu + seen.parcels * check;
    let kit = [seen.kit_disk - idle.kit_disk * share, kit_net, (kit_cpu - idle.kit_cpu * share) * 1e6];
    let all = [seen.disk - idle.disk * share, seen.net - idle.net * share, (seen.cpu - idle.cpu * share) * 1e6];
    let put = [0, 1, 2].map(|at| (all[at] - kit[at]) / count);
    Row {
        what: format!("{len} bytes, {writers} writers"),
        per_second: count / took,
        put,
        kit: kit.map(|one| one / count),
    }
}

fn main() {
    // What the nodes say to it, with `ABIDE_LOG=info`.
    if let Ok(filter) = std::env::var("ABIDE_LOG") {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let as_json = words.iter().position(|word| word == "--json").map(|at| words.remove(at)).is_some();
    let number = |at: usize, otherwise: u64| words.get(at).map_or(otherwise, |word| word.parse().unwrap());
    let (nodes, seconds) = (number(0, 3) as usize, number(1, 8));
    let folder = words.get(2).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = folder.join(format!("kit-cost-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let rows = runtime.block_on(run(&dir, nodes, Duration::from_secs(seconds), as_json));
    runtime.shutdown_timeout(Duration::from_secs(1));
    std::fs::remove_dir_all(&dir).unwrap();
    if !as_json {
        show(&rows);
    }
}

async fn run(dir: &Path, count: usize, length: Duration, as_json: bool) -> Vec<Row> {
    let counts: Arc<Counts> = Arc::default();
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<SocketAddr> = held.iter().map(|one| one.local_addr().unwrap()).collect();
    drop(held);
    (0..count).for_each(|node| std::fs::create_dir_all(dir.join(format!("drive{node}"))).unwrap());
    let settings = |node: usize| settings(dir, node, ports[node], count);
    let mut nodes = vec![Node::open(counted(&counts), settings(0)).await.unwrap().node];
    for node in 1..count {
        let ticket = nodes[0].invite(Duration::from_secs(600)).await.unwrap();
        nodes.push(Node::join(counted(&counts), settings(node), &ticket).await.unwrap().node);
    }
    let voters = if count < 5 { count.min(3) } else { 5 };
    until("there are voters", || {
        nodes[0].nodes().unwrap_or_default().iter().filter(|one| one.voter.contains(&1)).count() == voters
    })
    .await;
    let mut status = nodes[0].status().await.unwrap();
    for _ in 0..3000 {
        if status.health == Health::Green && !status.policy.starts_with("1 ") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        status = nodes[0].status().await.unwrap();
    }
    let env = Env::real();
    let check = check_secs(&env);
    if !as_json {
        println!(
            "a segment takes {:.1} bytes of a kit in objects of one, {:.1} in objects of a hundred, beyond names (72 at the most)",
            bytes_per_segment(&env, 20_000, 1),
            bytes_per_segment(&env, 200, 100)
        );
        println!(
            "{count} nodes, {}, {voters} voters; a holder checks a parcel in {:.0} µs\n",
            status.policy,
            check * 1e6
        );
    }
    let mut rows = Vec::new();
    for what in [("inline", 4096, 1), ("inline", 4096, 32), ("packed", 4097, 1), ("packed", 4097, 32)] {
        rows.push(measure(&nodes, &counts, what, length, check).await);
    }
    if as_json {
        let all: Vec<String> = rows.iter().map(json).collect();
        println!("[{}]", all.join(",\n "));
    }
    for node in &nodes {
        node.close().await;
    }
    rows
}

fn json(row: &Row) -> String {
    let Row { what, per_second, put, kit } = row;
    format!(
        "{{\"what\":{what:?},\"commits_per_second\":{per_second:.0},\"put\":{{\"disk\":{:.0},\"net\":{:.0},\"cpu_us\":{:.0}}},\"kit\":{{\"disk\":{:.0},\"net\":{:.0},\"cpu_us\":{:.1}}}}}",
        put[0], put[1], put[2], kit[0], kit[1], kit[2]
    )
}

fn show(rows: &[Row]) {
    println!("{:<24} {:>9} {:>26} {:>26} {:>22}", "each commit", "", "bytes to files", "bytes to sockets", "CPU, µs");
    println!("{:<24} {:>9} {:>26} {:>26} {:>22}", "PUT of", "a second", "PUT, kit", "PUT, kit", "PUT, kit");
    for Row { what, per_second, put, kit } in rows {
        let cell = |at: usize| {
            let share = kit[at] / put[at] * 100.0;
            format!("{:.0}, {:.0}: {share:.1} %{}", put[at], kit[at], if share > 5.0 { " > 5" } else { "" })
        };
        println!("{what:<24} {per_second:>9.0} {:>26} {:>26} {:>22}", cell(0), cell(1), cell(2));
    }
}
