//! Listening sockets, and never one too many.
//!
//! - **Public listener**: a socket a thread with `SO_REUSEPORT`, so that the kernel spreads connections and no thread
//!   hands them to another; one thread alone does without.
//! - **A second process on the port is refused, not joined silently.** `SO_REUSEPORT` would let any process of the same
//!   user take a share of the connections. Against another Forebay an abstract Unix socket named after the address is
//!   held: the kernel gives it to one process of a network namespace (just the scope of a port) and takes it back even
//!   after `kill -9`. Against other programs the address is first bound without `SO_REUSEPORT`, which fails if anyone
//!   listens. The moment between that probe and the real sockets is harmless: a foreign program that comes in between
//!   makes them fail, unless it asked for `SO_REUSEPORT` itself. A plain bind that stays open would be simpler, but no
//!   socket can share a port with it; a lock file would outlive its folder or miss another one.
//! - **Unix socket of the admin listener**: mode 0600 from its first moment, and a file left behind by a dead process
//!   is replaced only after nobody answered on it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Socket, Type};

use crate::limits;

/// Why an address can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Someone else does.
    #[error("{addr} is in use by another process; stop it, or choose another address with ingest.{key}")]
    InUse {
        /// The address.
        addr: String,
        /// The setting that names it.
        key: &'static str,
    },
    /// The path is there and is no socket.
    #[error("{} is there and is not a socket; remove it, or choose another path with ingest.admin_listen", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Anything else.
    #[error("can't listen on {addr}: {source}")]
    Io {
        /// The address.
        addr: String,
        /// The system's reason.
        source: io::Error,
    },
}

fn explain(addr: impl ToString, key: &'static str) -> impl Fn(io::Error) -> ListenError {
    let addr = addr.to_string();
    move |source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { addr: addr.clone(), key },
        _ => ListenError::Io { addr: addr.clone(), source },
    }
}

/// The public listener's sockets and the lock on its address; the lock goes when this is dropped.
#[derive(Debug)]
pub struct Public {
    /// One a thread, not blocking.
    pub sockets: Vec<TcpListener>,
    /// Where they listen; the port that was found where 0 was asked for.
    pub addr: SocketAddr,
    /// Held for its `Drop`.
    pub lock: AddressLock,
}

/// The right to listen on an address, held against every other Forebay of this network namespace.
#[derive(Debug)]
pub struct AddressLock {
    _socket: UnixListener,
}

impl AddressLock {
    fn take(addr: SocketAddr) -> io::Result<Self> {
        let name = UnixAddr::from_abstract_name(format!("forebay/listen/{addr}"))?;
        Ok(Self { _socket: UnixListener::bind_addr(&name)? })
    }
}

/// Opens `threads` (at least 1) sockets on `addr`.
///
/// # Errors
/// [`ListenError::InUse`] where anybody listens there already, or whatever the system says.
pub fn public(addr: SocketAddr, threads: usize) -> Result<Public, ListenError> {
    let failed = explain(addr, "listen");
    let shared = threads > 1;
    if shared && addr.port() != 0 {
        bind(addr, false).map_err(&failed)?;
    }
    let first = bind(addr, shared).map_err(&failed)?;
    let addr = first.local_addr().and_then(|a| a.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into()));
    let addr = addr.map_err(&failed)?;
    // Taken before anything listens: who loses has not stolen a connection.
    let lock = AddressLock::take(addr).map_err(&failed)?;
    let mut sockets = vec![first];
    for _ in 1..threads {
        sockets.push(bind(addr, true).map_err(&failed)?);
    }
    for socket in &sockets {
        socket.listen(limits::BACKLOG).map_err(&failed)?;
    }
    Ok(Public { sockets: sockets.into_iter().map(TcpListener::from).collect(), addr, lock })
}

/// Opens one TCP socket for the admin listener.
///
/// # Errors
/// As [`public`].
pub fn admin_tcp(addr: SocketAddr) -> Result<TcpListener, ListenError> {
    let failed = explain(addr, "admin_listen");
    let socket = bind(addr, false).map_err(&failed)?;
    socket.listen(limits::BACKLOG).map_err(&failed)?;
    Ok(socket.into())
}

fn bind(addr: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a process that has just ended linger in TIME_WAIT; they must not stop its successor. On Linux this
    // does not let two programs listen.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    // What is accepted has it from its listener.
    socket.set_send_buffer_size(limits::SOCKET_SEND_BYTES)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// Opens a Unix socket that only this user may connect to.
///
/// # Errors
/// [`ListenError::InUse`] where somebody answers on it, [`ListenError::NotASocket`] where something else is there.
pub fn admin_unix(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = explain(path.display(), "admin_listen");
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket { path: path.to_owned() }),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(failed(io::ErrorKind::AddrInUse.into())),
        Ok(_) => std::fs::remove_file(path).map_err(&failed)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    // bind gives the file the mode of the umask, and between bind and chmod others could connect. So it is bound under a
    // private folder's name and moved into place with its mode set; connections go by the file, not by the name.
    let folder = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::create_dir(&folder).map_err(&failed)?;
    let result = bind_private(&folder, path).map_err(&failed);
    let _ = std::fs::remove_dir_all(&folder);
    result
}

fn bind_private(folder: &Path, path: &Path) -> io::Result<UnixListener> {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    let inside = folder.join("s");
    let listener = UnixListener::bind(&inside)?;
    std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&inside, path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What an error of `accept` means for the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptError {
    /// That one connection is gone; go on at once.
    Connection,
    /// Out of descriptors or memory: go on after a pause, for the pending connection would fail again at once.
    Exhausted,
    /// The socket itself is of no use any more.
    Fatal,
}

impl AcceptError {
    /// Classifies `error` (accept(2), which passes pending network errors of the new connection on, too).
    pub fn classify(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Self::Exhausted,
            Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP | libc::EFAULT) => Self::Fatal,
            _ => Self::Connection,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_listener_on_the_port_is_refused_whatever_either_ones_threads() {
        for first in [1, 2] {
            let public_one = public("127.0.0.1:0".parse().unwrap(), first).unwrap();
            assert_eq!(public_one.sockets.len(), first);
            for second in [1, 3] {
                let refused = public(public_one.addr, second).unwrap_err();
                assert!(matches!(refused, ListenError::InUse { .. }), "{first} and {second}: {refused}");
            }
            let addr = public_one.addr;
            drop(public_one);
            assert_eq!(public(addr, first).unwrap().addr, addr, "the address is free again");
        }
    }

    #[test]
    fn a_foreign_program_that_shares_its_port_is_not_joined() {
        let foreign = bind("127.0.0.1:0".parse().unwrap(), true).unwrap();
        foreign.listen(1).unwrap();
        let addr = foreign.local_addr().unwrap().as_socket().unwrap();
        assert!(matches!(public(addr, 2).unwrap_err(), ListenError::InUse { .. }));
    }

    #[test]
    fn the_lock_alone_refuses_a_process_that_passed_the_probe() {
        let addr = "127.0.0.1:9".parse().unwrap();
        let _held = AddressLock::take(addr).unwrap();
        assert_eq!(AddressLock::take(addr).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_unix_socket_is_private_and_only_a_dead_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let alive = admin_unix(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        assert!(matches!(admin_unix(&path).unwrap_err(), ListenError::InUse { .. }));
        drop(alive);
        assert!(admin_unix(&path).is_ok(), "a socket that nobody answers on is left over");
        let file = folder.path().join("precious");
        std::fs::write(&file, "data").unwrap();
        assert!(matches!(admin_unix(&file).unwrap_err(), ListenError::NotASocket { .. }));
        assert_eq!(std::fs::read(&file).unwrap(), b"data");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside them");
    }

    #[test]
    fn accept_errors_are_told_apart() {
        for (code, verdict) in [
            (libc::ECONNABORTED, AcceptError::Connection),
            (libc::EPERM, AcceptError::Connection),
            (libc::ENETDOWN, AcceptError::Connection),
            (libc::EMFILE, AcceptError::Exhausted),
            (libc::ENFILE, AcceptError::Exhausted),
            (libc::ENOBUFS, AcceptError::Exhausted),
            (libc::ENOMEM, AcceptError::Exhausted),
            (libc::EBADF, AcceptError::Fatal),
            (libc::EINVAL, AcceptError::Fatal),
        ] {
            assert_eq!(AcceptError::classify(&io::Error::from_raw_os_error(code)), verdict, "{code}");
        }
    }
}
