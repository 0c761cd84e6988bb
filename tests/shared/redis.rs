//! A private Redis: on a socket in a folder of its own, ended with the test by its process id.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Client, Connection};
use tempfile::TempDir;

pub struct Redis {
    child: Child,
    socket: PathBuf,
    _folder: TempDir,
}

impl Redis {
    /// Starts one that keeps nothing on disk.
    pub fn start() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let socket = folder.path().join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--unixsocket"])
            .arg(&socket)
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server, which ./test installs");
        let redis = Self { child, socket, _folder: folder };
        redis.connect();
        redis
    }

    /// A connection; waits for the server's first moments.
    pub fn connect(&self) -> Connection {
        let client = Client::open(format!("unix://{}", self.socket.display())).expect("the socket's name");
        let began = Instant::now();
        loop {
            match client.get_connection() {
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
