//! A private Redis: on a socket in a folder of its own, ended with the test by its process id.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Client, Connection};
use tempfile::TempDir;

pub struct Redis {
    child: Child,
    socket: PathBuf,
    settings: Vec<String>,
    folder: TempDir,
}

fn spawn(socket: &Path, folder: &TempDir, settings: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", "0", "--daemonize", "no", "--unixsocket"])
        .arg(socket)
        .arg("--dir")
        .arg(folder.path())
        .args(settings)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server, which ./test installs")
}

impl Redis {
    /// Starts one that keeps nothing on disk.
    pub fn start() -> Self {
        Self::start_with(&["--save", "", "--appendonly", "no"])
    }

    /// Starts one with these settings.
    pub fn start_with(settings: &[&str]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let socket = folder.path().join("redis.sock");
        let settings: Vec<_> = settings.iter().map(|word| (*word).to_owned()).collect();
        let child = spawn(&socket, &folder, &settings);
        let redis = Self { child, socket, settings, folder };
        redis.connect();
        redis
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Kills it and starts it again.
    pub fn restart(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("its end");
        self.child = spawn(&self.socket, &self.folder, &self.settings);
        self.connect();
    }

    /// A connection; waits for the server's first moments.
    pub fn connect(&self) -> Connection {
        let client = Client::open(self.url()).expect("the socket's name");
        let began = Instant::now();
        loop {
            // One that still reads its files answers everything with an error.
            let ready = client.get_connection().and_then(|mut connection| {
                redis::cmd("PING").exec(&mut connection)?;
                Ok(connection)
            });
            match ready {
                Ok(connection) => return connection,
                Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "no Redis: {error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
