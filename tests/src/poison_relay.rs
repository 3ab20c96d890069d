//! A relay's door where a recipient can wait who ends workers: what comes is passed on to the sink, until somebody
//! names that recipient. His connection stands still from then on, and the test is told where it came from.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

#[derive(Debug)]
pub struct PoisonRelay {
    address: SocketAddr,
    state: Arc<State>,
    /// Address of whoever named the recipient.
    pub named_by: Receiver<String>,
}

#[derive(Debug)]
struct State {
    recipient: String,
    sink: Mutex<String>,
    is_harmless: AtomicBool,
    named: Sender<String>,
}

impl PoisonRelay {
    pub fn start(recipient: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let (named, named_by) = channel();
        let recipient = format!("RCPT TO:<{}>", recipient.to_lowercase());
        let state = Arc::new(State { recipient, sink: Mutex::default(), is_harmless: AtomicBool::new(false), named });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                thread::spawn(move || state.serve(client));
            }
        });
        Self { address, state, named_by }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Where to pass things on to; until then connections are closed.
    pub fn pass_on_to(&self, sink: &str) {
        sink.clone_into(&mut self.state.sink.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// From now on the recipient is as any other.
    pub fn become_harmless(&self) {
        self.state.is_harmless.store(true, Ordering::SeqCst);
    }
}

impl State {
    /// Ends with either side.
    fn serve(&self, mut client: TcpStream) {
        let address = self.sink.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Ok(mut sink) = TcpStream::connect(address) else { return };
        let from = client.peer_addr().map_or(String::new(), |peer| peer.ip().to_string());
        let (Ok(mut to_client), Ok(mut from_sink)) = (client.try_clone(), sink.try_clone()) else { return };
        let _ = sink.set_nodelay(true).and_then(|()| client.set_nodelay(true));
        thread::spawn(move || {
            let _ = std::io::copy(&mut from_sink, &mut to_client);
            let _ = to_client.shutdown(Shutdown::Both);
        });
        // Commands may come in pieces: the end of what was passed on is looked at again.
        let (mut seen, mut chunk) = (String::new(), vec![0; 16 * 1024]);
        while let Ok(read @ 1..) = client.read(&mut chunk) {
            seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
            let is_named = seen.to_lowercase().contains(&self.recipient.to_lowercase());
            if is_named && !self.is_harmless.load(Ordering::SeqCst) {
                let _ = self.named.send(from);
                // Nothing of it reaches the sink; it ends with its worker.
                while let Ok(1..) = client.read(&mut chunk) {}
                break;
            }
            let keep = seen.char_indices().rev().nth(self.recipient.len()).map_or(0, |(at, _)| at);
            seen.drain(..keep);
            if sink.write_all(&chunk[..read]).is_err() {
                break;
            }
        }
        let _ = sink.shutdown(Shutdown::Both);
    }
}
