//! Messages as no client library would send them.

use anyhow::{Result, ensure};
use busway_testkit::nats::NatsServer;
use std::io::{Read as _, Write as _};

/// Publishes past every client library, header block as given, and waits until the server has taken it.
///
/// # Errors
/// The server hangs up over it; the error has the server's word.
pub fn publish(server: &NatsServer, subject: &str, block: &[u8], payload: &[u8]) -> Result<()> {
    let mut stream = std::net::TcpStream::connect(server.address())?;
    stream.write_all(b"CONNECT {\"verbose\":false,\"headers\":true}\r\n")?;
    let sizes = format!("HPUB {subject} {} {}\r\n", block.len(), block.len() + payload.len());
    let message = [sizes.as_bytes(), block, payload, b"\r\nPING\r\n"].concat();
    // A server that does not want it hangs up in the middle, and has said why.
    let sent = stream.write_all(&message);
    let mut told = Vec::new();
    let mut buffer = [0; 4096];
    // The pong says that the server has taken what came before it.
    while !told.windows(4).any(|window| window == b"PONG") {
        let read = stream.read(&mut buffer).unwrap_or(0);
        ensure!(read > 0, "the server hung up: {} {sent:?}", String::from_utf8_lossy(&told));
        told.extend(buffer.iter().take(read));
    }
    Ok(())
}
