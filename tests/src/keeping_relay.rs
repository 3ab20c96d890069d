//! A relay that takes everything and keeps each message as it came.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

#[derive(Debug)]
pub struct KeepingRelay {
    address: SocketAddr,
    /// Without dot-stuffing.
    pub messages: Receiver<Vec<u8>>,
}

impl KeepingRelay {
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let (kept, messages) = channel();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let kept = kept.clone();
                thread::spawn(move || serve(client, &kept));
            }
        });
        Self { address, messages }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

/// Ends with the client.
fn serve(client: TcpStream, kept: &Sender<Vec<u8>>) -> Option<()> {
    let mut output = client.try_clone().ok()?;
    let mut lines = BufReader::new(client);
    output.write_all(b"220 relay.example\r\n").ok()?;
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        let reply: &[u8] = match line.get(..4).map(<[u8]>::to_ascii_uppercase).as_deref() {
            Some(b"QUIT") => b"221 bye\r\n",
            Some(b"DATA") => {
                output.write_all(b"354 go on\r\n").ok()?;
                kept.send(content(&mut lines)?).ok()?;
                b"250 2.0.0 kept\r\n"
            }
            _ => b"250 fine\r\n",
        };
        output.write_all(reply).ok()?;
    }
}

/// Up to the final dot.
fn content(lines: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let mut line = Vec::new();
        lines.read_until(b'\n', &mut line).ok()?;
        match line.as_slice() {
            b"" => return None,
            b".\r\n" => return Some(message),
            [b'.', rest @ ..] => message.extend_from_slice(rest),
            line => message.extend_from_slice(line),
        }
    }
}
