//! A private Redis that keeps an append-only file, written before every answer: in a folder and on a port of its own, ended
//! by its process id, and by a keeper of its own should this process be killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::{Connection, ConnectionLike as _, RedisError, Value};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{PATIENCE, Tool, free_port, tail, within};

/// How long a command of ours may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// That of the user as whom gates and workers come.
pub const PASSWORD: &str = "least";

/// What the documents say that gates and workers need, and no more.
fn least_rights() -> &'static str {
    const DOCUMENT: &str = include_str!("../../docs/operations.md");
    let line = DOCUMENT.lines().find_map(|line| line.strip_prefix("ACL SETUSER forebay on >choose-one "));
    line.expect("the line with the user's rights")
}

/// Where Redis keeps the parts of its append-only file.
const AOF: &str = "appendonlydir";

/// A server.
pub struct Redis {
    folder: TempDir,
    /// Its port on 127.0.0.1.
    pub port: u16,
    child: Option<(Child, Tool)>,
}

impl Redis {
    /// Starts one that is empty.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("forebay-redis-").tempdir().expect("a temporary folder");
        let mut redis = Self { folder, port: free_port(), child: None };
        redis.run(&[]);
        redis
    }

    /// Runs it, again or for the first time, with more `settings`, and waits until it answers, if only that it loads.
    pub fn run(&mut self, settings: &[&str]) {
        assert!(self.child.is_none(), "it runs already");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("a log");
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"]).arg(self.folder.path());
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no"]);
        command.args(["--user", "forebay", "on", &format!(">{PASSWORD}")]).args(least_rights().split(' '));
        // It rewrites the file when a scenario says so.
        command.args(["--auto-aof-rewrite-percentage", "0", "--enable-debug-command", "local"]).args(settings);
        let child = command.stdin(Stdio::null()).stdout(log).spawn().expect("redis-server, which ./test installs");
        let keeper = "read -r end; kill -KILL \"$1\" 2>/dev/null";
        let mut sh = Command::new("sh");
        sh.args(["-c", keeper, "keeper", &child.id().to_string()]).stdin(Stdio::piped());
        self.child = Some((child, Tool::start(&mut sh)));
        within(PATIENCE, "Redis answers", || match self.ask(&["PING"]) {
            Ok(_) => Some(()),
            Err(error) => (error.code() == Some("LOADING")).then_some(()),
        });
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let Some((mut child, _keeper)) = self.child.take() else { return };
        child.kill().expect("an own child");
        child.wait().expect("an own child");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let (child, _) = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("an own child");
    }

    /// Removes all that it has on disk; it must not run.
    pub fn forget(&self) {
        assert!(self.child.is_none(), "it runs");
        fs::remove_dir_all(self.folder.path().join(AOF)).expect("its files");
    }

    /// Copies what it has on disk now; the last command may be there in part, as after a power cut.
    pub fn copy(&self) -> PathBuf {
        let copy = self.folder.path().join("copy");
        let _ = fs::remove_dir_all(&copy);
        copy_folder(&self.folder.path().join(AOF), &copy);
        copy
    }

    /// Puts a copy in the place of what it has; it must not run.
    pub fn put_back(&self, copy: &Path) {
        self.forget();
        copy_folder(copy, &self.folder.path().join(AOF));
    }

    /// A connection past all proxies.
    pub fn connect(&self) -> Result<Connection, RedisError> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?;
        let connection = client.get_connection_with_timeout(TIMEOUT)?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        Ok(connection)
    }

    /// Runs a command over a connection of its own.
    pub fn ask(&self, words: &[&str]) -> Result<Value, RedisError> {
        ask(&mut self.connect()?, words)
    }

    /// [`Self::ask`] for what must succeed.
    pub fn must(&self, words: &[&str]) -> Value {
        self.ask(words).unwrap_or_else(|e| panic!("{words:?}: {e}\n{}", self.log_tail()))
    }

    /// A number of one of its sections of information.
    pub fn info(&self, section: &str, name: &str) -> Option<String> {
        let text: String = redis::from_redis_value(self.must(&["INFO", section])).expect("a text");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().to_owned())
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.log(), 30)
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("redis.log")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command.
pub fn ask(connection: &mut Connection, words: &[&str]) -> Result<Value, RedisError> {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    connection.req_command(&command)?.extract_error()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}
