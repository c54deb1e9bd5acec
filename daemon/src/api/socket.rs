//! The Unix socket: made in a folder that others cannot write to, bound under a umask, freed of
//! what a killed daemon left behind, removed when the server ends.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::serve::Listener;
use protocol::home::{SocketPathTooLong, check_socket_path};
use rustix::fs::Mode;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::access::Caller;

/// Connections at once. A client needs one, and one more per stream that it follows.
const CONNECTIONS_MAX: usize = 128;

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum BindError {
    /// A Unix socket cannot have such a path.
    #[error(transparent)]
    TooLong(#[from] SocketPathTooLong),
    /// Somebody answers there.
    #[error(
        "another aynid is running: it answers at {0:?}; stop it with `ayni node stop`, or give \
         this one another home"
    )]
    InUse(PathBuf),
    /// Something else has that name.
    #[error("{0:?} is in the way: it is not a socket; move it, or set `socket` under [api]")]
    NotASocket(PathBuf),
    /// Others could put their own socket there.
    #[error("the socket folder {path:?} can be written by others (mode {mode:o}); {mend}")]
    LooseFolder {
        /// The folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What to do.
        mend: String,
    },
    /// The system refused.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BindError {
    let path = path.to_owned();
    move |error| BindError::Io { action, path, error }
}

/// A bound socket; accepts a bounded number of connections and names the caller of each.
pub(super) struct Socket {
    listener: UnixListener,
    permits: Arc<Semaphore>,
}

/// Removes the socket file, and the note that names it, when dropped. Must be dropped before the
/// listener: while that one lives nobody else can take the path, so what is removed is our own.
pub(super) struct SocketFiles {
    socket: PathBuf,
    note: Option<PathBuf>,
}

impl Drop for SocketFiles {
    fn drop(&mut self) {
        remove(&self.socket);
        if let Some(note) = &self.note {
            remove(note);
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(%error, ?path, "cannot remove a file of the local interface");
        }
        _ => {}
    }
}

/// Binds `path` and writes it into the file `note`. Must be called inside a tokio runtime.
pub(super) fn bind(
    path: &Path,
    note: Option<&Path>,
    group_read: bool,
) -> Result<(SocketFiles, Socket), BindError> {
    check_socket_path(path)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    prepare_folder(parent, group_read)?;
    clear_stale(path)?;
    // The umask belongs to the process: for a moment other threads make files that are more
    // private than they asked for, never less. The group's bits are added afterwards.
    let before = rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let bound = StdUnixListener::bind(path);
    rustix::process::umask(before);
    let listener = match bound {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            return Err(BindError::InUse(path.to_owned()));
        }
        bound => bound.map_err(failed("bind the socket", path))?,
    };
    let mut files = SocketFiles { socket: path.to_owned(), note: None };
    if group_read {
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))
            .map_err(failed("set the mode of", path))?;
    }
    if let Some(note) = note {
        write_note(note, path)?;
        files.note = Some(note.to_owned());
    }
    listener.set_nonblocking(true).map_err(failed("prepare", path))?;
    let listener = UnixListener::from_std(listener).map_err(failed("listen at", path))?;
    Ok((files, Socket { listener, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }))
}

fn prepare_folder(folder: &Path, group_read: bool) -> Result<(), BindError> {
    let (wanted, forbidden) = if group_read { (0o750, 0o002) } else { (0o700, 0o022) };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(wanted)
        .create(folder)
        .map_err(failed("make the socket folder", folder))?;
    let mode = fs::metadata(folder).map_err(failed("look at", folder))?.mode() & 0o7777;
    if mode & forbidden != 0 {
        let mend = format!("close it with `chmod {wanted:o} {}`", folder.display());
        return Err(BindError::LooseFolder { path: folder.to_owned(), mode, mend });
    }
    Ok(())
}

/// Removes a socket at which nobody answers.
fn clear_stale(path: &Path) -> Result<(), BindError> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata.map_err(failed("look at", path))?,
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match StdUnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the stale socket", path))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("try the socket that is already at", path)(error)),
    }
}

/// Whole or not at all: clients read it at any time.
fn write_note(note: &Path, socket: &Path) -> Result<(), BindError> {
    let absolute = std::path::absolute(socket).map_err(failed("resolve", socket))?;
    let mut fresh = note.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    fs::write(&fresh, format!("{}\n", absolute.display())).map_err(failed("write", &fresh))?;
    fs::rename(&fresh, note).map_err(failed("write", note))
}

impl Listener for Socket {
    type Io = Connection;
    type Addr = Caller;

    async fn accept(&mut self) -> (Connection, Caller) {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .expect("the semaphore lives as long as the listener and is never closed");
        let (stream, _) = Listener::accept(&mut self.listener).await;
        let uid = stream.peer_cred().map(|credentials| credentials.uid()).ok();
        (Connection { stream, _permit: permit }, Caller { uid })
    }

    fn local_addr(&self) -> io::Result<Caller> {
        Ok(Caller { uid: Some(rustix::process::geteuid().as_raw()) })
    }
}

/// A connection, counted while it lives.
pub(super) struct Connection {
    stream: UnixStream,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("exists").mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_is_private_and_removed_at_the_end() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (path, note) = (dir.path().join("run/ayni.sock"), dir.path().join("socket"));
        let bound = bind(&path, Some(&note), false).expect("free path");
        assert_eq!((mode(&path) & 0o077, mode(&dir.path().join("run"))), (0, 0o700));
        assert_eq!(fs::read_to_string(&note).expect("note"), format!("{}\n", path.display()));
        drop(bound);
        assert!(!path.exists() && !note.exists());
    }

    #[tokio::test]
    async fn a_living_socket_is_respected_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("run/s");
        let bound = bind(&path, None, false).expect("free path");
        assert!(matches!(bind(&path, None, false), Err(BindError::InUse(_))));
        assert!(path.exists(), "a refused daemon removes nothing");
        drop(bound);
        // What `kill -9` leaves: the file without a listener.
        drop(StdUnixListener::bind(&path).expect("free path"));
        assert!(path.exists());
        let _bound = bind(&path, None, false).expect("a stale socket is replaced");
    }

    #[tokio::test]
    async fn what_is_not_ours_is_left_alone() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("s");
        fs::write(&path, "precious").expect("writable");
        assert!(matches!(bind(&path, None, false), Err(BindError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).expect("kept"), "precious");

        let open = dir.path().join("open");
        fs::create_dir(&open).expect("writable");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("own folder");
        let refused = bind(&open.join("s"), None, false);
        assert!(matches!(refused, Err(BindError::LooseFolder { mode: 0o777, .. })));

        let long = dir.path().join("x".repeat(120));
        assert!(matches!(bind(&long, None, false), Err(BindError::TooLong(_))));
    }

    #[tokio::test]
    async fn a_group_may_reach_the_socket_when_configured() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("run/s");
        let _bound = bind(&path, None, true).expect("free path");
        assert_eq!((mode(&path), mode(&dir.path().join("run"))), (0o660, 0o750));
    }
}
