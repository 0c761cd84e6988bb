//! A whole server for a test: its folder, its configuration, its process and a way to talk to it.
//!
//! - A [`Site`] is what stays over restarts: a temporary folder, two ports, a configuration, the log. A [`Server`] is
//!   one run of the real binary on it.
//! - Only own children are ever killed, by their id. Dropping ends the process and removes the folder; when the test
//!   fails, the end of the server's log is printed first.
//! - Each test binary uses a part of this.
#![allow(dead_code)]

pub mod http;
pub mod postgres;
pub mod proxy;
pub mod sale;
pub mod sql;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use http::{Answer, Request};
use rustix::process::{Pid, Signal, kill_process};

/// The binary under test: the one of this build, or another one that is to be put through the same tests.
pub fn binary() -> String {
    std::env::var("FOREBAY_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_forebay").to_owned())
}

/// How long anything may take that is expected to happen; far more than it takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A free port of the loopback address, below those that the kernel gives to clients: a client's socket could otherwise
/// sit on a server's port between two of its runs.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 1_000) as u16 * 20;
    for _ in 0..20_000 {
        let port = 11_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 11000 and 31000");
}

/// The binary with arguments, without what the environment would set.
pub fn plain<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|n| n.starts_with("FOREBAY_")) {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

/// Waits until `what` holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    within(PATIENCE, what, || holds().then_some(()))
}

/// Waits until `get` gives something, at most `time`.
pub fn within<T>(time: Duration, what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = get() {
            return value;
        }
        assert!(start.elapsed() < time, "not within {time:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The server of all tests that do nothing to the engine itself. It ends with this process, however that ends: its
/// keeper waits for the end of a pipe that only this process holds, ends its own child and removes the folder.
pub fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    static KEEPER: Mutex<Option<Child>> = Mutex::new(None);
    SERVER.get_or_init(|| {
        let site = Site::new();
        let server = site.start();
        let keeper = "read -r end; kill -9 \"$1\" 2>/dev/null; rm -rf \"$2\"";
        let mut command = Command::new("sh");
        command.args(["-c", keeper, "keeper", &server.pid().to_string()]).arg(site.folder.keep());
        *KEEPER.lock().expect("nobody panics with it") = Some(command.stdin(Stdio::piped()).spawn().expect("a shell"));
        server
    })
}

/// What stays over restarts.
pub struct Site {
    /// Everything of this site lies in here.
    pub folder: tempfile::TempDir,
    settings: BTreeMap<(String, String), String>,
    tables: String,
    environment: Vec<(String, String)>,
    role: Option<String>,
    /// The public listener.
    pub public: SocketAddr,
    /// The admin listener.
    pub admin: SocketAddr,
}

impl Site {
    /// A site with free ports, an empty folder and no limits on callers.
    pub fn new() -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let site = Self {
            folder: tempfile::Builder::new().prefix("forebay-test-").tempdir().expect("a temporary folder"),
            settings: BTreeMap::new(),
            tables: String::new(),
            environment: Vec::new(),
            role: None,
            public: local(free_port()),
            admin: local(free_port()),
        };
        let (public, admin, data) = (site.public, site.admin, site.data());
        site.text("ingest.listen", &public.to_string())
            .text("ingest.admin_listen", &admin.to_string())
            .text("buffer.data_dir", data.to_str().expect("a readable path"))
            .text("antiscalper.user_rate", "off")
            .text("shutdown.grace", "10s")
            .env("FOREBAY_SEGMENT_BYTES", "8388608")
    }

    /// Sets `section.key` to a TOML value.
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        let (section, key) = key.split_once('.').expect("section.key");
        self.settings.insert((section.to_owned(), key.to_owned()), value.to_string());
        self
    }

    /// Sets `section.key` to a text.
    pub fn text(self, key: &str, value: &str) -> Self {
        self.set(key, format!("{value:?}"))
    }

    /// Adds TOML tables.
    pub fn tables(mut self, text: &str) -> Self {
        self.tables.push_str(text);
        self
    }

    /// Sets a variable of the environment of every run.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes every run one of this role.
    pub fn role(mut self, role: &str) -> Self {
        self.role = Some(role.to_owned());
        self
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The journal's folder.
    pub fn journal(&self) -> PathBuf {
        self.data().join("journal")
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.data().join("forebay.db")
    }

    /// The database that is configured.
    pub fn store(&self) -> PathBuf {
        let url = self.settings.get(&("store".to_owned(), "url".to_owned()));
        let path = url.and_then(|u| u.trim_matches('"').strip_prefix("sqlite:"));
        path.map_or_else(|| self.database(), PathBuf::from)
    }

    /// The log of all runs.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    /// Writes the configuration and gives its path.
    pub fn config(&self) -> PathBuf {
        let mut text = String::new();
        let mut last = "";
        for ((section, key), value) in &self.settings {
            if section != last {
                let _ = writeln!(text, "[{section}]");
                last = section;
            }
            let _ = writeln!(text, "{key} = {value}");
        }
        let path = self.folder.path().join("test.toml");
        fs::write(&path, text + &self.tables).expect("the configuration can be written");
        path
    }

    /// The binary with arguments and this site's configuration, nothing inherited that could change it.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = plain(arguments);
        command.arg("--config").arg(self.config()).current_dir(self.folder.path());
        command.envs(self.environment.iter().map(|(n, v)| (n, v)));
        command
    }

    /// Runs a command to its end.
    pub fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("the binary runs")
    }

    /// Starts a server without waiting until it is ready; `environment` is for this run only.
    pub fn spawn(&self, environment: &[(&str, &str)]) -> Server {
        self.spawn_by(|mut command| {
            command.envs(environment.iter().copied());
            command
        })
    }

    /// The same, by a command that `change` makes of the usual one; it need not keep its environment.
    pub fn spawn_by(&self, change: impl FnOnce(Command) -> Command) -> Server {
        let log = OpenOptions::new().create(true).append(true).open(self.log()).expect("the log opens");
        let role = self.role.iter().flat_map(|role| ["--role", role]);
        let mut command = change(self.command(["serve"].into_iter().chain(role)));
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        Server {
            child: command.spawn().expect("the server starts"),
            public: self.public,
            admin: self.admin,
            log: self.log(),
            ended: None,
        }
    }

    /// Starts a server and waits until it is ready.
    pub fn start(&self) -> Server {
        let mut server = self.spawn(&[]);
        if let Err(status) = server.ready() {
            panic!("the server ended with {status} before it was ready:\n{}", server.log_tail());
        }
        server
    }

    /// Starts a server that must refuse to: gives its exit status and all it said.
    pub fn refuse(&self) -> (ExitStatus, String) {
        let before = fs::metadata(self.log()).map_or(0, |m| m.len()) as usize;
        let mut server = self.spawn(&[]);
        let status = server.wait(PATIENCE);
        let text = fs::read(self.log()).expect("the log is there");
        (status, String::from_utf8_lossy(&text[before..]).into_owned())
    }
}

/// One run of the server.
pub struct Server {
    child: Child,
    /// The public listener.
    pub public: SocketAddr,
    /// The admin listener.
    pub admin: SocketAddr,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Server {
    /// Waits until the server says that it is ready.
    ///
    /// # Errors
    /// It ended first.
    pub fn ready(&mut self) -> Result<(), ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Err(status);
            }
            let answer = http::once(self.admin, &Request::get("/readyz"), Duration::from_secs(5));
            if answer.is_ok_and(|a| a.status == 200) {
                return Ok(());
            }
            assert!(start.elapsed() < PATIENCE, "not ready within {PATIENCE:?}:\n{}", self.log_tail());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("an own child");
        }
        self.ended
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("an own child");
    }

    /// Waits for the end.
    pub fn wait(&mut self, time: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(start.elapsed() < time, "the server has not ended within {time:?}:\n{}", self.log_tail());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.end();
    }

    /// SIGTERM, and the exit status.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(PATIENCE)
    }

    fn end(&mut self) {
        if self.ended().is_none() {
            self.child.kill().expect("an own child can be killed");
            self.ended = Some(self.child.wait().expect("an own child"));
        }
    }

    /// One request to the public listener.
    pub fn call(&self, request: &Request) -> Answer {
        http::once(self.public, request, PATIENCE).unwrap_or_else(|e| panic!("{request:?}: {e}\n{}", self.log_tail()))
    }

    /// One request to the admin listener.
    pub fn ask_admin(&self, request: &Request) -> Answer {
        http::once(self.admin, request, PATIENCE).unwrap_or_else(|e| panic!("{request:?}: {e}\n{}", self.log_tail()))
    }

    /// The end of the log.
    pub fn log_tail(&self) -> String {
        tail(&self.log, 40)
    }

    /// The thread whose name begins with `name`; see /proc.
    pub fn thread(&self, name: &str) -> u32 {
        let folder = PathBuf::from(format!("/proc/{}/task", self.pid()));
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).expect("an own child") {
            let path = entry.expect("a thread").path();
            let comm = fs::read_to_string(path.join("comm")).unwrap_or_default();
            if comm.starts_with(name) {
                return path.file_name().and_then(|n| n.to_str()?.parse().ok()).expect("a thread's number");
            }
            names.push(comm.trim().to_owned());
        }
        panic!("no thread {name} among {names:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            eprintln!("---- the end of the server's log ----\n{}\n----", self.log_tail());
        }
    }
}

/// The last lines of a file.
pub fn tail(path: &Path, lines: usize) -> String {
    let mut text = String::new();
    let read = File::open(path).and_then(|mut f| {
        let mut bytes = Vec::new();
        f.read_to_end(&mut bytes)?;
        text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(())
    });
    if let Err(e) = read {
        return format!("{}: {e}", path.display());
    }
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A process of a tool, ended when dropped.
pub struct Tool(pub Child);

impl Tool {
    /// Starts it.
    pub fn start(command: &mut Command) -> Self {
        let name = command.get_program().to_owned();
        Self(command.spawn().unwrap_or_else(|e| panic!("{} is needed: {e}", name.display())))
    }

    /// Writes to its standard input, which must be a pipe.
    pub fn write(&mut self, text: &str) {
        let input = self.0.stdin.as_mut().expect("a pipe");
        input.write_all(text.as_bytes()).and_then(|()| input.flush()).expect("the tool reads");
    }

    /// SIGTERM, which lets strace leave its process as it was, and waits.
    pub fn stop(mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
