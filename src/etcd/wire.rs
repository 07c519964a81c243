//! What the bytes of a connection go over: TCP, and in tests a pipe in memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// See the [module](self).
#[derive(Debug)]
pub(super) enum Wire {
    Tcp(TcpStream),
    #[cfg(test)]
    Pipe(tokio::io::DuplexStream),
}

macro_rules! on_either {
    ($wire:expr, $stream:ident => $do:expr) => {
        match $wire {
            Wire::Tcp($stream) => $do,
            #[cfg(test)]
            Wire::Pipe($stream) => $do,
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_either!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_either!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_either!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        on_either!(self, stream => stream.is_write_vectored())
    }
}

/// Endpoints that lead to pipes, for engines that run on a paused clock: TCP would have time pass meanwhile.
#[cfg(test)]
pub(crate) mod simulated {
    use futures_util::future::BoxFuture;
    use std::cell::RefCell;
    use std::io;
    use tokio::io::DuplexStream;

    type Dialing = BoxFuture<'static, io::Result<DuplexStream>>;
    type Dial = Box<dyn Fn(&str) -> Option<Dialing>>;

    thread_local! {
        static DIAL: RefCell<Option<Dial>> = const { RefCell::new(None) };
    }

    /// From now on `dial` opens the connections of this thread to the endpoints that it knows.
    pub(crate) fn dial_by(dial: impl Fn(&str) -> Option<Dialing> + 'static) {
        DIAL.set(Some(Box::new(dial)));
    }

    pub(in crate::etcd) fn dialing(endpoint: &str) -> Option<Dialing> {
        DIAL.with_borrow(|dial| dial.as_ref()?(endpoint))
    }
}
