//! A private PostgreSQL server for tests: in a temporary folder, on a free port of the loopback address, run by another user
//! where the tests run as root, which the server refuses.
//!
//! It ends with this process, however that ends: its keeper waits for the end of a pipe that only this process holds, then
//! stops the server by its process id and removes the folder.
#![allow(dead_code)]

use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long the server may take for anything; far more than it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where Debian and others put programs that only servers need.
fn program(name: &str) -> PathBuf {
    let mut folders: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin")).collect())
        .unwrap_or_default();
    folders.sort();
    let found = folders.iter().rev().map(|folder| folder.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| PathBuf::from(name))
}

/// Whom the server runs as: the user `postgres` where these tests are root's.
fn user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("there are users");
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("there is a user `postgres`");
    let field = |i: usize| line.split(':').nth(i).and_then(|id| id.parse().ok()).expect("an id");
    Some((field(2), field(3)))
}

fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    if let Some((user, group)) = user() {
        command.uid(user).gid(group);
    }
    command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    command
}

/// A port below those that the kernel gives to clients.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(7);
    let port = |n: u32| 31_000 + (start.wrapping_add(n) % 1_500) as u16;
    let mut ports = std::iter::repeat_with(|| port(NEXT.fetch_add(1, Ordering::Relaxed))).take(1_500);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}

/// A server.
pub struct Postgres {
    folder: PathBuf,
    /// Its port on 127.0.0.1.
    pub port: u16,
    server: Option<Child>,
    settings: Vec<String>,
    keeper: Option<Child>,
}

/// A database of its own, dropped with this.
pub struct Scratch {
    server: &'static Postgres,
    /// Its name.
    pub name: String,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.server.try_sql("postgres", &format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

impl Scratch {
    /// Its URL.
    pub fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// Runs SQL and gives the rows.
    pub fn sql(&self, sql: &str) -> Vec<Vec<String>> {
        self.server.sql(&self.name, sql)
    }
}

impl Postgres {
    /// The server of all tests of this process that do nothing to the server itself.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<Postgres> = OnceLock::new();
        SERVER.get_or_init(|| Self::start(&[]))
    }

    /// A fresh database on the shared server.
    pub fn scratch() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let server = Self::shared();
        let name = format!("shop_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        server.sql("postgres", &format!("CREATE DATABASE {name}"));
        Scratch { server, name }
    }

    /// A server of its own, with `settings` such as `max_connections=20`. Nothing is synced: these tests cut no power.
    pub fn start(settings: &[&str]) -> Self {
        let mut server = Self::made(settings);
        server.run();
        server
    }

    /// The same with encryption, by a certificate that nobody has signed but itself.
    pub fn start_encrypted() -> Self {
        let mut server = Self::made(&["ssl=on"]);
        let (certificate, key) = (server.folder.join("server.crt"), server.folder.join("server.key"));
        let mut openssl = command("openssl");
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-keyout",
        ]);
        let made = openssl.arg(&key).arg("-out").arg(&certificate).output().expect("openssl is needed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server.settings.push(format!("ssl_cert_file={}", certificate.display()));
        server.settings.push(format!("ssl_key_file={}", key.display()));
        server.run();
        server
    }

    fn made(settings: &[&str]) -> Self {
        let folder = Self::folder();
        let mut initdb = command("initdb");
        initdb.args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"]);
        let made = initdb.arg(folder.join("data")).output().expect("initdb is needed: apt-get install postgresql");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Self { folder, port: free_port(), server: None, settings, keeper: None }
    }

    /// A server that repeats what `self` writes.
    pub fn replica(&self) -> Self {
        let folder = Self::folder();
        let mut copy = command("pg_basebackup");
        copy.args(["-U", "postgres", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-R", "-c", "fast", "-D"]);
        let made = copy.arg(folder.join("data")).output().expect("pg_basebackup");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut server = Self { folder, port: free_port(), server: None, settings: Vec::new(), keeper: None };
        server.run();
        server
    }

    fn folder() -> PathBuf {
        let folder = tempfile::Builder::new().prefix("forebay-pg-").tempdir().expect("a temporary folder").keep();
        if let Some((user, group)) = user() {
            chown(&folder, Some(user), Some(group)).expect("root gives folders away");
        }
        folder
    }

    /// Runs it, again or for the first time, and waits until it answers.
    pub fn run(&mut self) {
        assert!(self.server.is_none(), "it runs already");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("a log");
        let mut postgres = command("postgres");
        postgres.arg("-D").arg(self.folder.join("data")).arg("-k").arg(&self.folder);
        postgres.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-c", "fsync=off", "-c", "max_wal_size=256MB"]);
        for setting in &self.settings {
            postgres.args(["-c", setting]);
        }
        postgres.stdout(log.try_clone().expect("a second handle")).stderr(log);
        let server = postgres.spawn().expect("postgres is needed: apt-get install postgresql");
        let keeper = "read -r end; kill -INT \"$1\" 2>/dev/null; kill -CONT \"$1\" 2>/dev/null; \
                      while kill -0 \"$1\" 2>/dev/null; do sleep 0.05; done; rm -rf \"$2\"";
        let mut command = Command::new("sh");
        command.args(["-c", keeper, "keeper", &server.id().to_string()]).arg(&self.folder);
        self.end_keeper();
        self.keeper = Some(command.stdin(Stdio::piped()).spawn().expect("a shell"));
        self.server = Some(server);
        let start = Instant::now();
        while self.try_sql("postgres", "SELECT 1").is_err() {
            assert!(start.elapsed() < PATIENCE, "the server does not answer:\n{}", self.log_text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The keeper of a run that has ended must not take the folder away.
    fn end_keeper(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            let _ = keeper.kill();
            let _ = keeper.wait();
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// What it has logged.
    pub fn log_text(&self) -> String {
        let mut text = String::new();
        let _ = fs::File::open(self.log()).and_then(|mut file| file.read_to_string(&mut text));
        text
    }

    /// Its URL for a database.
    pub fn url(&self, database: &str) -> String {
        self.url_at(self.port, database)
    }

    /// The same through another port.
    pub fn url_at(&self, port: u16, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/{database}")
    }

    /// The URL by the server's Unix socket.
    pub fn socket_url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost:{}/{database}?host={}", self.port, self.folder.display())
    }

    /// Runs SQL in a session of its own and gives the rows.
    ///
    /// # Errors
    /// What psql said.
    pub fn try_sql(&self, database: &str, sql: &str) -> Result<Vec<Vec<String>>, String> {
        let mut psql = Command::new(program("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-F", "\u{1f}", "-c", sql]).arg(self.url(database));
        let output = psql.stdin(Stdio::null()).output().map_err(|e| format!("psql is needed: {e}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().map(|line| line.split('\u{1f}').map(str::to_owned).collect()).collect())
    }

    /// [`Self::try_sql`] of what must succeed.
    pub fn sql(&self, database: &str, sql: &str) -> Vec<Vec<String>> {
        self.try_sql(database, sql).unwrap_or_else(|e| panic!("{sql}: {e}\n{}", self.log_text()))
    }

    /// A session of psql that reads statements from its standard input.
    pub fn shell(&self, database: &str) -> Child {
        let mut psql = Command::new(program("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]).arg(self.url(database));
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("psql")
    }

    /// Ends it at once, as `pg_ctl stop -m immediate` does: nothing is finished, and the next start recovers.
    pub fn crash(&mut self) {
        self.end(Signal::QUIT);
    }

    /// Ends it, finishing what is under way, as `pg_ctl stop -m fast` does.
    pub fn stop(&mut self) {
        self.end(Signal::INT);
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut server) = self.server.take() else { return };
        kill_process(Pid::from_child(&server), signal).expect("an own child");
        server.wait().expect("an own child");
        self.end_keeper();
    }

    /// Sends a signal to the server and all its sessions.
    pub fn signal(&self, signal: Signal) {
        let Some(server) = &self.server else { panic!("it does not run") };
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.id())).unwrap_or_default();
        kill_process(Pid::from_child(server), signal).expect("an own child");
        for child in children.split_whitespace().filter_map(|id| id.parse().ok()).filter_map(Pid::from_raw) {
            let _ = kill_process(child, signal);
        }
    }

    /// Whether a connection is taken.
    pub fn listens(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    /// The folder of its data, for whoever wants to look.
    pub fn data(&self) -> &Path {
        &self.folder
    }

    /// Whose the server's files are.
    pub fn owner(&self) -> u32 {
        fs::metadata(&self.folder).map_or(0, |found| found.uid())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end(Signal::QUIT);
        let _ = fs::remove_dir_all(&self.folder);
    }
}
