//! Measures the transport over loopback: bulk bytes per CPU-second of both ends together, and
//! calls per second.
//!
//! `cargo run --release -p transport --example measure [GIB]`; between two machines
//! `measure listen ADDRESS` on one and `measure ask ADDRESS MIB STREAMS` on the other.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{BYTES, COUNT, Town, echo, node, zeros};
use env::Env;
use transport::{Body, Call, Carrier, Class, Endpoint, Settings, Target};

/// CPU time of the whole process: both ends run in it.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn report(what: &str, began: (Instant, Duration), gib: f64) {
    let (wall, cpu) = (began.0.elapsed().as_secs_f64(), (cpu() - began.1).as_secs_f64());
    let gb = gib * 1.073_741_824;
    println!("{what:28} {:7.0} MB/s   {:.3} CPU-s/GB   {:.2} GB/CPU-s", gb * 1000.0 / wall, cpu / gb, gb / cpu);
}

async fn read(one: &Endpoint, len: u64) {
    let ask = Call::new(BYTES, Class::Bulk, len.to_le_bytes().to_vec());
    let mut reply = one.call(node(2), ask).await.unwrap();
    while let Some(part) = reply.body.next().await {
        part.unwrap();
    }
}

async fn write(one: &Endpoint, len: u64) {
    let call = Call::new(COUNT, Class::Bulk, "").with_body(zeros(len)).with_timeout(Duration::from_secs(600));
    one.call(node(2), call).await.unwrap();
}

async fn calls(one: &Endpoint, callers: usize, class: Class, size: usize) {
    let seconds = 2;
    let began = (Instant::now(), cpu());
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let one = one.clone();
            let body = Bytes::from(vec![1; size]);
            tokio::spawn(async move {
                let mut count = 0u64;
                while began.0.elapsed() < Duration::from_secs(seconds) {
                    let body = Body::from(body.clone());
                    let reply = one.call(node(2), echo(class, b"head", body)).await.unwrap();
                    assert_eq!(reply.body.collect(size).await.unwrap().len(), size);
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += task.await.unwrap();
    }
    let (wall, cpu) = (began.0.elapsed().as_secs_f64(), (cpu() - began.1).as_secs_f64());
    println!(
        "{class:?} calls, {callers:2} callers, {size:6} B   {:8.0}/s   {:5.1} µs CPU each, both ends",
        count as f64 / wall,
        cpu * 1e6 / count as f64
    );
}

/// What a handshake costs, and what an idle connection keeps: both ends together.
async fn idle(env: &Env, to: &Endpoint) {
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4
    };
    let carrier = transport::TcpCarrier::new(env.clone(), common::key(1), Duration::from_secs(1)).unwrap();
    let target = Target { node: None, keys: vec![], addresses: vec![to.address().unwrap()] };
    let (began, before) = (cpu(), resident());
    let mut open = Vec::new();
    for _ in 0..100 {
        open.push(carrier.dial(&target, Class::Small).await.unwrap());
    }
    println!(
        "handshake {:.0} µs CPU, both ends; a connection keeps {} KiB, both ends",
        (cpu() - began).as_secs_f64() * 1e4,
        (resident() - before) / 100
    );
}

/// One side of two: reads with some streams and says how fast it was.
async fn between(mode: &str, args: &[String]) {
    let (env, town) = (Env::real(), Town::new());
    let list = town.list(1, &[1, 2], &[]);
    let address = args[0].parse().unwrap();
    if mode == "listen" {
        let _two = town.start(&env, Settings::default(), 2, list, address).await;
        return std::future::pending().await;
    }
    let (mib, streams): (u64, u64) = (args[1].parse().unwrap(), args[2].parse().unwrap());
    town.book.0.lock().unwrap().insert(node(2), vec![address]);
    let one = town.start(&env, Settings::default(), 1, list, "0.0.0.0:0".parse().unwrap()).await;
    for round in ["cold", "warm"] {
        let began = Instant::now();
        futures_util::future::join_all((0..streams).map(|_| read(&one, (mib << 20) / streams))).await;
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{round}: {mib} MiB with {streams} streams in {seconds:.2} s: {:.0} Mbit/s",
            mib as f64 * 8.388_608 / seconds
        );
    }
    let began = Instant::now();
    one.call(node(2), echo(Class::Control, b"x", Body::empty())).await.unwrap();
    one.call(node(2), echo(Class::Control, b"x", Body::empty())).await.unwrap();
    println!("two control calls: {:?}", began.elapsed());
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(mode @ ("listen" | "ask")) = args.first().map(String::as_str) {
        return between(mode, &args[1..]).await;
    }
    let gib: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(4);
    let (env, town) = (Env::real(), Town::new());
    let list = town.list(1, &[1, 2], &[]);
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let one = town.start(&env, Settings::default(), 1, list.clone(), anywhere).await;
    let two = town.start(&env, Settings::default(), 2, list, anywhere).await;
    idle(&env, &two).await;
    read(&one, 1 << 20).await;
    for streams in [1u64, 4] {
        let began = (Instant::now(), cpu());
        futures_util::future::join_all((0..streams).map(|_| read(&one, (gib << 30) / streams))).await;
        report(&format!("read, {streams} streams"), began, gib as f64);
        let began = (Instant::now(), cpu());
        futures_util::future::join_all((0..streams).map(|_| write(&one, (gib << 30) / streams))).await;
        report(&format!("write, {streams} streams"), began, gib as f64);
    }
    for (class, size) in [(Class::Control, 100), (Class::Control, 4096), (Class::Small, 4096), (Class::Small, 65_536)] {
        for callers in [1, 32] {
            calls(&one, callers, class, size).await;
        }
    }
}
