//! A TCP proxy between the server under test and a PostgreSQL or Redis server, which breaks connections at a COMMIT or at a
//! call that admits: before the server hears of it, or after it has done it and before the answer is through.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is done at the next COMMIT, or the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing.
    Never = 0,
    /// The connection breaks before the server hears of it.
    Before = 1,
    /// The connection breaks when the server has done it; its answer is lost.
    After = 2,
}

/// What begins a request at which connections break, and how its answer begins: `None` is the first bytes after it.
type Words = (&'static [u8], Option<&'static [u8]>);

const COMMIT: Words = (b"Q\0\0\0\x0bCOMMIT\0", Some(b"C\0\0\0\x0bCOMMIT\0"));
const SUBMIT: Words = (b"_submit\r\n", None);

struct Shared {
    words: Words,
    cut: AtomicU8,
    /// Whether the next cut is for good.
    stays: AtomicBool,
    fired: AtomicU64,
    over: AtomicBool,
    refuse: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

/// The proxy; it ends when dropped.
pub struct Proxy {
    /// Its port.
    pub port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// In front of a PostgreSQL server at `port` on the loopback address.
    pub fn before(port: u16) -> Self {
        Self::at(port, COMMIT)
    }

    /// In front of a Redis there.
    pub fn before_redis(port: u16) -> Self {
        Self::at(port, SUBMIT)
    }

    fn at(port: u16, words: Words) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let own = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            words,
            cut: AtomicU8::default(),
            stays: AtomicBool::default(),
            fired: AtomicU64::default(),
            over: AtomicBool::default(),
            refuse: AtomicBool::default(),
            sockets: Mutex::default(),
        });
        let all = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if all.over.load(Ordering::SeqCst) {
                    return;
                }
                if all.refuse.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                all.carry(client, server);
            }
        });
        Self { port: own, shared }
    }

    /// Cuts at the next COMMIT, or the next call, once.
    pub fn cut(&self, cut: Cut) {
        self.shared.cut.store(cut as u8, Ordering::SeqCst);
    }

    /// The same, and from then on breaks all connections and takes none.
    pub fn cut_off(&self, cut: Cut) {
        self.shared.stays.store(true, Ordering::SeqCst);
        self.cut(cut);
    }

    /// How often it has.
    pub fn fired(&self) -> u64 {
        self.shared.fired.load(Ordering::SeqCst)
    }

    /// Breaks all connections, and takes none while `yes`.
    pub fn refuse(&self, yes: bool) {
        self.shared.refuse.store(yes, Ordering::SeqCst);
        self.shared.break_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.break_all();
        // The listener's thread looks at the flag when somebody comes.
        let _ = TcpStream::connect_timeout(&([127, 0, 0, 1], self.port).into(), Duration::from_secs(1));
    }
}

impl Shared {
    fn break_all(&self) {
        for socket in self.sockets.lock().expect("nobody panics with it").drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn carry(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let twin = |socket: &TcpStream| socket.try_clone().expect("a second handle");
        self.sockets.lock().expect("nobody panics with it").extend([twin(&client), twin(&server)]);
        let (request, answer) = self.words;
        // Whether a request is on its way on this connection.
        let asked = Arc::new(AtomicBool::new(false));
        for (from, to, cut) in [(twin(&client), twin(&server), Cut::Before), (server, client, Cut::After)] {
            let (all, asked) = (self.clone(), asked.clone());
            let has = move |part: &[u8], word: &[u8]| part.windows(word.len()).any(|window| window == word);
            let is_it = move |part: &[u8]| match (cut, answer) {
                (Cut::After, None) => asked.swap(false, Ordering::SeqCst),
                (Cut::After, Some(answer)) => has(part, answer),
                _ => has(part, request) && (answer.is_some() || !asked.swap(true, Ordering::SeqCst)),
            };
            std::thread::spawn(move || all.pass(from, to, cut, is_it));
        }
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream, cut: Cut, is_it: impl Fn(&[u8]) -> bool) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let part = &buffer[..length];
            let now = (cut as u8, Cut::Never as u8);
            if is_it(part) && self.cut.compare_exchange(now.0, now.1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                if self.stays.swap(false, Ordering::SeqCst) {
                    self.refuse.store(true, Ordering::SeqCst);
                    self.break_all();
                }
                self.fired.fetch_add(1, Ordering::SeqCst);
                break;
            }
            if to.write_all(part).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}
