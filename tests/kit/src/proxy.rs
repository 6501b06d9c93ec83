//! A connection that loses what goes one way: between a host and its broker, for tests of one-way partitions.
//!
//! While a direction is lost its bytes are read and thrown away, as a firewall would do that lost its state; what goes the
//! other way arrives. A stream of bytes can't go on after a hole, so a connection that lost something is cut when the
//! direction is healed.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// Which way is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// None: everything arrives.
    Nothing,
    /// From the host to the broker: acknowledgements, among others.
    ToBroker,
    /// From the broker to the host: deliveries, among others.
    ToHost,
}

/// A running proxy. Ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    lost: watch::Sender<Lost>,
    lost_bytes: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy before a broker.
    ///
    /// # Errors
    /// No port is free.
    pub async fn before(broker: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (lost, watched) = watch::channel(Lost::Nothing);
        let lost_bytes = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost_bytes);
        // Ends with the proxy, and so do the connections: they watch what it holds.
        let task = tokio::spawn(async move {
            while let Ok((host, _)) = listener.accept().await {
                if let Ok(broker) = TcpStream::connect(broker).await {
                    tokio::spawn(connect(host, broker, watched.clone(), Arc::clone(&counted)));
                }
            }
        });
        Ok(Self { address, lost, lost_bytes, task })
    }

    /// The address for the host, `nats://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Loses a direction from now on.
    pub fn lose(&self, lost: Lost) {
        self.lost.send_replace(lost);
    }

    /// How many bytes were lost so far.
    pub fn lost_bytes(&self) -> u64 {
        self.lost_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connect(host: TcpStream, broker: TcpStream, lost: watch::Receiver<Lost>, count: Arc<AtomicU64>) {
    let ((from_host, to_host), (from_broker, to_broker)) = (host.into_split(), broker.into_split());
    // Whichever ends first ends both.
    tokio::select! {
        () = pump(from_host, to_broker, Lost::ToBroker, lost.clone(), &count) => {}
        () = pump(from_broker, to_host, Lost::ToHost, lost, &count) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Lost,
    mut lost: watch::Receiver<Lost>,
    count: &AtomicU64,
) {
    let (mut buffer, mut has_hole) = (vec![0; 64 << 10], false);
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            changed = lost.changed() => {
                if changed.is_err() || (has_hole && *lost.borrow() != way) {
                    return;
                }
                continue;
            }
        };
        let Some(bytes) = read.ok().and_then(|read| buffer.get(..read)).filter(|bytes| !bytes.is_empty())
        else {
            return;
        };
        if *lost.borrow() == way {
            has_hole = true;
            count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        } else if has_hole || to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut from, mut to) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
            }
        });
        Ok(address)
    }

    #[tokio::test]
    async fn what_is_lost_does_not_arrive_and_the_connection_is_cut_afterwards() -> io::Result<()> {
        let proxy = Proxy::before(echo().await?).await?;
        let mut stream = TcpStream::connect(proxy.address).await?;
        let mut byte = [0];
        stream.write_all(b"a").await?;
        stream.read_exact(&mut byte).await?;
        proxy.lose(Lost::ToBroker);
        stream.write_all(b"b").await?;
        while proxy.lost_bytes() == 0 {
            tokio::task::yield_now().await;
        }
        proxy.lose(Lost::Nothing);
        assert_eq!(stream.read(&mut byte).await?, 0, "the connection has a hole and goes on");
        let mut stream = TcpStream::connect(proxy.address).await?;
        stream.write_all(b"c").await?;
        stream.read_exact(&mut byte).await?;
        assert_eq!(byte, *b"c");
        Ok(())
    }
}
