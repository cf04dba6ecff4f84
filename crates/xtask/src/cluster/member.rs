//! One node of a development cluster: its process, and what it answers.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

use super::ports::Ports;
use super::{ASK_EVERY, Stops};

/// A node that isn't there by then won't come.
const READY_MAX: Duration = Duration::from_secs(90);
/// How much of a log is shown when its node ended.
const LOG_LINES: usize = 20;

/// One node.
pub struct Member {
    pub name: String,
    pub log: PathBuf,
    /// Whether its home held a node before this run.
    pub set_up: bool,
    binary: PathBuf,
    base: PathBuf,
    home: PathBuf,
    folders: Vec<PathBuf>,
    ports: Ports,
    child: Option<Child>,
}

impl Member {
    /// Whether node `number` under `dir` was made by an earlier run.
    pub fn is_set_up(dir: &Path, number: usize) -> bool {
        let Ok(entries) = fs::read_dir(dir.join(format!("n{number}/home"))) else { return false };
        entries
            .flatten()
            .any(|entry| Path::new(&entry.file_name()).extension().is_some_and(|kind| kind == "node" || kind == "key"))
    }

    /// A node with `drives` folders, or as many as it has already. Refused while it runs.
    pub fn new(binary: &Path, dir: &Path, number: usize, drives: usize) -> Result<Member, String> {
        let name = format!("n{number}");
        let base = dir.join(&name);
        let home = base.join("home");
        let mut folders: Vec<PathBuf> = (1..=drives).map(|drive| base.join(format!("d{drive}"))).collect();
        folders.extend((drives + 1..).map(|drive| base.join(format!("d{drive}"))).take_while(|path| path.exists()));
        for path in folders.iter().chain([&home]) {
            fs::create_dir_all(path).map_err(|error| format!("create {}: {error}", path.display()))?;
        }
        let member = Member {
            log: base.join("log"),
            set_up: Member::is_set_up(dir, number),
            binary: binary.to_owned(),
            name,
            base,
            home,
            folders,
            ports: Ports { s3: 0, cluster: 0 },
            child: None,
        };
        match member.left_running() {
            None => Ok(member),
            Some(pid) => Err(format!(
                "{} under {} runs already, as process {}: stop it with `kill {}`",
                member.name,
                dir.display(),
                pid.as_raw_nonzero(),
                pid.as_raw_nonzero()
            )),
        }
    }

    /// The same node with its ports.
    pub fn at(mut self, ports: Ports) -> Member {
        self.ports = ports;
        self
    }

    /// The process of an earlier run that was left running.
    fn left_running(&self) -> Option<Pid> {
        let pid = Pid::from_raw(fs::read_to_string(self.base.join("pid")).ok()?.trim().parse().ok()?)?;
        test_kill_process(pid).ok()?;
        // Ids come round again: it must be ours by its command line, where that can be seen.
        match fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())) {
            Ok(line) => String::from_utf8_lossy(&line).contains(&*self.home.to_string_lossy()).then_some(pid),
            Err(_) => (!Path::new("/proc/self").exists()).then_some(pid),
        }
    }

    /// Starts it as the first node, or again.
    pub fn up(&mut self, extra: &[String]) -> Result<(), String> {
        self.spawn(&["up"], extra)
    }

    /// Starts it as a new node of the cluster that the ticket is of.
    pub fn join(&mut self, ticket: &str, extra: &[String]) -> Result<(), String> {
        self.spawn(&["join", ticket], extra)
    }

    fn spawn(&mut self, words: &[&str], extra: &[String]) -> Result<(), String> {
        let open = || OpenOptions::new().create(true).append(true).open(&self.log);
        let say = |error| format!("open {}: {error}", self.log.display());
        let (out, err): (File, File) = (open().map_err(say)?, open().map_err(say)?);
        let mut command = self.abide(words);
        command
            .args(&self.folders)
            .args(["--listen", &format!("127.0.0.1:{}", self.ports.s3)])
            .args(["--cluster-listen", &format!("127.0.0.1:{}", self.ports.cluster)])
            .args(extra)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            // A group of its own: Ctrl-C reaches this process alone, which then stops the nodes.
            .process_group(0);
        let child = command.spawn().map_err(|error| format!("start {}: {error}", self.binary.display()))?;
        let pid_file = self.base.join("pid");
        fs::write(&pid_file, child.id().to_string()).map_err(|e| format!("write {}: {e}", pid_file.display()))?;
        self.child = Some(child);
        Ok(())
    }

    fn abide(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--home").arg(&self.home).args(words).env_remove("ABIDE_HOME");
        command
    }

    /// What a command prints; its failure is an error in its own words.
    fn ask(&self, words: &[&str]) -> Result<String, String> {
        let said = |error: String| format!("{}: abide {}: {error}", self.name, words.join(" "));
        let output = self.abide(words).stdin(Stdio::null()).output().map_err(|error| said(error.to_string()))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(said(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
    }

    fn ask_json(&self, words: &[&str]) -> Result<Value, String> {
        let words = [words, &["--json"]].concat();
        let text = self.ask(&words)?;
        serde_json::from_str(&text).map_err(|error| format!("{}: abide {}: {error}", self.name, words.join(" ")))
    }

    /// A ticket for one more node.
    pub fn invite(&self) -> Result<String, String> {
        let answer = self.ask_json(&["invite"])?;
        let ticket = answer["ticket"].as_str();
        Ok(ticket.ok_or_else(|| format!("{}: abide invite gave no ticket: {answer}", self.name))?.to_owned())
    }

    /// What S3 clients need.
    pub fn env(&self) -> Result<Vec<(String, String)>, String> {
        let text = self.ask(&["env"])?;
        let pairs = text.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.trim_matches(['\'', '"']).to_owned())).collect())
    }

    /// Waits until it answers.
    pub fn wait_until_ready(&mut self, stops: &Stops) -> Result<(), String> {
        self.wait(stops, |status| status.is_object())
    }

    /// Waits until it knows `count` nodes to be there.
    pub fn wait_for_nodes(&mut self, count: usize, stops: &Stops) -> Result<(), String> {
        self.wait(stops, |status| alive(status) >= count)
    }

    fn wait(&mut self, stops: &Stops, done: impl Fn(&Value) -> bool) -> Result<(), String> {
        let end = Instant::now() + READY_MAX;
        loop {
            stops.check()?;
            if let Some(how) = self.ended() {
                return Err(format!("{} ended ({how}) instead of serving:\n{}", self.name, self.log_end()));
            }
            let status = self.ask_json(&["status"]);
            if status.as_ref().is_ok_and(&done) {
                return Ok(());
            }
            if Instant::now() > end {
                let last = status.map_or_else(|error| error, |value| value["nodes"].to_string());
                return Err(format!("{} isn't ready after {READY_MAX:?}: {last}\n{}", self.name, self.log_end()));
            }
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// How it ended, told once.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let how = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        _ = fs::remove_file(self.base.join("pid"));
        Some(how)
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        _ = self.ended();
        self.child.is_some()
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ctrl-C. A hung node goes on first, so that it can hear it.
    pub fn interrupt(&self) {
        if let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            // It may have ended by itself meanwhile.
            _ = kill_process(pid, Signal::CONT);
            _ = kill_process(pid, Signal::INT);
        }
    }

    /// Ends it at once; whether there was something to end.
    pub fn kill(&mut self) -> bool {
        let Some(mut child) = self.child.take() else { return false };
        let killed = child.kill().and_then(|()| child.wait()).is_ok();
        _ = fs::remove_file(self.base.join("pid"));
        killed
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        let text = fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// For scripts.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "endpoint": format!("http://127.0.0.1:{}", self.ports.s3),
            "cluster": format!("127.0.0.1:{}", self.ports.cluster),
            "pid": self.pid(),
            "home": self.home,
            "folders": self.folders,
            "log": self.log,
        })
    }

    /// For people.
    pub fn row(&self) -> String {
        let folders: Vec<String> = self.folders.iter().map(|path| path.display().to_string()).collect();
        let s3 = format!("http://127.0.0.1:{}", self.ports.s3);
        let cluster = format!("127.0.0.1:{}", self.ports.cluster);
        let pid = self.pid().map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        format!("{:<5} {s3:<24} {cluster:<22} {pid:>8}  {}", self.name, folders.join(" "))
    }
}

/// How many nodes a status shows to be there. One that names no nodes is of a store of one machine.
fn alive(status: &Value) -> usize {
    match status["nodes"].as_array() {
        Some(nodes) => nodes.iter().filter(|node| node["standing"] == "alive").count(),
        None => usize::from(status.is_object()),
    }
}

#[cfg(test)]
mod tests {
    use super::{alive, json};

    #[test]
    fn only_nodes_that_stand_alive_are_counted() {
        let nodes = json!({"nodes": [{"standing": "alive"}, {"standing": "suspected"}, {"standing": "down"}, {}]});
        assert_eq!(alive(&nodes), 1);
        assert_eq!(alive(&json!({"drives": []})), 1);
        assert_eq!(alive(&json!(null)), 0);
    }
}
