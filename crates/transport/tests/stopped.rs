//! A real process that is stopped (SIGSTOP) under its callers.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base::{Kind, Kinded};
use common::{HANG, Town, echo, node, until};
use env::Env;
use rustix::process::{Pid, Signal, kill_process};
use transport::{Body, Call, Class, Settings};

const ROLE: &str = "ABIDE_TEST_STOPPED_ROLE";

/// The other process: only if it is told to be.
#[tokio::test(flavor = "multi_thread")]
async fn the_other_process() {
    if std::env::var(ROLE).is_err() {
        return;
    }
    let (env, town) = (Env::real(), Town::new());
    let two =
        town.start(&env, Settings::default(), 2, town.list(1, &[1, 2], &[]), "127.0.0.1:0".parse().unwrap()).await;
    println!("\nlistens {}", two.address().unwrap());
    // Until its parent is gone.
    env.clock.sleep(Duration::from_secs(60)).await;
}

struct Ours(Child);

impl Drop for Ours {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_process_is_noticed_within_two_seconds_and_found_again() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "the_other_process", "--nocapture"]).env(ROLE, "1").stdout(Stdio::piped());
    let mut child = Ours(child.spawn().unwrap());
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let address = lines.map(Result::unwrap).find_map(|line| Some(line.strip_prefix("listens ")?.to_owned())).unwrap();
    let pid = Pid::from_child(&child.0);
    let (env, town) = (Env::real(), Town::new());
    town.book.0.lock().unwrap().insert(node(2), vec![address.parse().unwrap()]);
    let list = town.list(1, &[1, 2], &[]);
    let one = town.start(&env, Settings::default(), 1, list, "127.0.0.1:0".parse().unwrap()).await;
    for class in Class::ALL {
        one.call(node(2), echo(class, b"x", Body::empty())).await.unwrap();
    }
    kill_process(pid, Signal::STOP).unwrap();
    let began = env.clock.now();
    let hang = |class| one.call(node(2), Call::new(HANG, class, ""));
    let (a, b, c) = tokio::join!(hang(Class::Control), hang(Class::Small), hang(Class::Bulk));
    for answer in [a, b, c] {
        assert_eq!(answer.unwrap_err().kind(), Kind::Unreachable);
    }
    let took = env.clock.now().since(began);
    assert!(took < Duration::from_secs(2), "noticed after {took:?}");
    kill_process(pid, Signal::CONT).unwrap();
    until(&env, "it is found again", || one.is_up(node(2)) == Some(true)).await;
    for class in Class::ALL {
        one.call(node(2), echo(class, b"x", Body::empty())).await.unwrap();
    }
}
