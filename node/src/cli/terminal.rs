//! This terminal, as that of a command in a container.

use std::io::{self, IsTerminal as _};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncReadExt as _, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};

use super::error::CliError;
use crate::rental::Frame;
use crate::view::TerminalSize;

/// Bytes of stdin that are sent at a time.
const PIECE: usize = 16 << 10;

/// What a terminal has that does not say how large it is.
const USUAL: TerminalSize = TerminalSize { rows: 24, columns: 80 };

/// This terminal, each key of which is the command's until this is dropped.
pub(super) struct Terminal {
    before: Termios,
}

impl Terminal {
    /// Takes it.
    ///
    /// # Errors
    /// When stdin is none.
    pub(super) fn take() -> Result<Terminal, CliError> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Err(CliError::NoTerminal);
        }
        let failed = |error| CliError::file("use as a terminal", "stdin")(io::Error::from(error));
        let before = tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Flush, &raw).map_err(failed)?;
        Ok(Terminal { before })
    }

    /// How large it is.
    pub(super) fn size(&self) -> TerminalSize {
        size()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // There is nobody to tell who could do better.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

fn size() -> TerminalSize {
    match tcgetwinsize(io::stdin()) {
        Ok(found) if found.ws_row > 0 => TerminalSize { rows: found.ws_row, columns: found.ws_col },
        _ => USUAL,
    }
}

/// Sends what a command reads: this process's stdin if it is `interactive`, and each new size of its terminal. Comes back
/// only when that cannot be sent.
pub(super) async fn send(
    mut to: impl AsyncWrite + Unpin,
    interactive: bool,
    on_terminal: bool,
) -> io::Error {
    let sent = async {
        let mut resized = signal(SignalKind::window_change())?;
        let mut stdin = tokio::io::stdin();
        let mut reads = interactive;
        if !interactive {
            Frame::Eof.write(&mut to).await?;
        }
        let mut piece = vec![0; PIECE];
        loop {
            tokio::select! {
                read = stdin.read(&mut piece), if reads => match read? {
                    0 => {
                        reads = false;
                        Frame::Eof.write(&mut to).await?;
                    }
                    len => Frame::Bytes(piece[..len].to_vec().into()).write(&mut to).await?,
                },
                _ = resized.recv(), if on_terminal => Frame::Resize(size()).write(&mut to).await?,
                else => std::future::pending().await,
            }
        }
    };
    let sent: io::Result<std::convert::Infallible> = sent.await;
    match sent {
        Ok(never) => match never {},
        Err(error) => error,
    }
}
