//! One connection to a relay: connects, then carries one message at a time until it is closed.
//!
//! The session decides what to write; this writes it. Right before every write of a chunk with a final
//! dot it looks at the lease: past its trust nothing is written and the connection is closed.
//!
//! With a crash journal the reply to a final dot is looked at, noted, and only then taken from the system:
//! so a process that is killed has read no reply that its journal does not know, and the relay's system sees
//! which replies were not read (a connection with unread bytes is reset).

use super::hold::Transmission;
use super::pool::{PoolConfig, Report};
use super::tls::Tls;
use crate::config::{LoginConfig, Security};
use postrider_common::clock::Clock;
use postrider_common::lease::{Outcome, OutcomeKind};
use postrider_common::limits::TRANSACTION_MS_MAX;
use postrider_common::sabotage::{Fault, planted};
use postrider_mail::smtp::client::{Event, Login, Lost, Session, WRITE_TIMEOUT};
use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

/// For the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// For name lookup and each address tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without work is closed after this: relays count open ones, and close them themselves.
const IDLE: Duration = Duration::from_secs(15);
/// Everything before the final dot; with the 600 s after it this is what one transaction may take.
const BEFORE_DOT: Duration = Duration::from_millis(TRANSACTION_MS_MAX - 600_000);
/// Signs of life of one transaction are not sent more often.
const PROGRESS: Duration = Duration::from_secs(1);
const READ_BYTES: usize = 4096;

pub(super) struct Connection {
    id: u64,
    clock: Arc<dyn Clock>,
    reports: mpsc::Sender<Report>,
    stream: TcpStream,
    /// What is written and read goes through it.
    tls: Option<Tls>,
    config: Arc<PoolConfig>,
    session: Session,
    /// The message in flight is given up because its lease is over.
    is_handed_back: bool,
    /// Until when the message in flight must have come to its final dot.
    dot_due: Instant,
    progressed: Instant,
    /// Bytes that the session has, and that are still to be taken from the system.
    untaken: usize,
}

/// Lives until the connection is closed; its last words are `Report::Gone`.
pub(super) async fn run(
    id: u64,
    config: Arc<PoolConfig>,
    clock: Arc<dyn Clock>,
    mut transmissions: mpsc::Receiver<Transmission>,
    reports: mpsc::Sender<Report>,
) {
    let (unbegun, failure) = match Connection::open(id, config, clock, reports.clone()).await {
        Err(failure) => (None, Some(failure)),
        Ok(mut connection) => (connection.serve(&mut transmissions).await, None),
    };
    transmissions.close();
    let unbegun = unbegun.or_else(|| transmissions.try_recv().ok());
    // The pool is gone only when the process ends.
    let _ = reports.send(Report::Gone { id, unbegun, failure }).await;
}

/// Whether a relay can be used: connects, logs in, says goodbye.
pub(super) async fn try_out(config: PoolConfig, clock: Arc<dyn Clock>) -> Result<(), (String, String)> {
    let mut connection = Connection::open(0, Arc::new(config), clock, mpsc::channel(1).0).await?;
    connection.quit().await;
    Ok(())
}

/// What is said on a connection.
fn session(config: &PoolConfig) -> Result<Session, String> {
    let mut session = Session::new(&config.ehlo);
    if config.security == Security::StartTls {
        session = session.with_starttls();
    }
    if let Some(LoginConfig { user, secret, method }) = &config.login {
        session = session.with_login(Login { user: user.clone(), secret: secret.read()?, method: *method });
    }
    Ok(session)
}

async fn connect(config: &PoolConfig) -> io::Result<TcpStream> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    let addresses =
        timeout(CONNECT_TIMEOUT, lookup_host((config.host.as_str(), config.port))).await.map_err(late)??;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no usable address");
    for address in addresses {
        match timeout(CONNECT_TIMEOUT, connect_to(config, address)).await.map_err(late) {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) | Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_to(config: &PoolConfig, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(source) = config.source_address {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    // Every write is a whole command group; waiting for more would cost a delayed acknowledgement each.
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

/// What the relay said right after it.
async fn shake_hands(stream: &mut TcpStream, tls: &mut Tls) -> Result<Vec<u8>, String> {
    let mut buffer = [0; READ_BYTES];
    let mut said = Vec::new();
    loop {
        let sealed = tls.seal(&[]).map_err(|error| error.to_string())?;
        stream.write_all(&sealed).await.map_err(|error| error.to_string())?;
        if !tls.is_handshaking() {
            return Ok(said);
        }
        match stream.read(&mut buffer).await {
            Ok(count) if count > 0 => match tls.open(&buffer[..count]) {
                Ok(plain) => said.extend(plain),
                Err(why) => {
                    // So that the relay can say in its log what was wrong.
                    if let Ok(alert) = tls.seal(&[]) {
                        let _ = stream.write_all(&alert).await;
                    }
                    return Err(why);
                }
            },
            Ok(_) => return Err("the relay closed the connection during the handshake".into()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

impl Connection {
    /// A connection that takes messages; or why there is none, as code and detail.
    async fn open(
        id: u64,
        config: Arc<PoolConfig>,
        clock: Arc<dyn Clock>,
        reports: mpsc::Sender<Report>,
    ) -> Result<Self, (String, String)> {
        let session = session(&config).map_err(|why| ("auth".to_owned(), why))?;
        let stream = connect(&config).await.map_err(|error| ("connect".to_owned(), error.to_string()))?;
        let now = Instant::now();
        let mut connection = Self {
            id,
            clock,
            reports,
            stream,
            tls: None,
            config,
            session,
            is_handed_back: false,
            dot_due: now,
            progressed: now,
            untaken: 0,
        };
        if connection.config.security == Security::Tls {
            connection.secure().await?;
        }
        connection.ready().await?;
        Ok(connection)
    }

    /// Makes the handshake. From here on everything goes through TLS.
    async fn secure(&mut self) -> Result<(), (String, String)> {
        let failed = |why: String| ("tls".to_owned(), why);
        let config = self.config.tls.clone().ok_or_else(|| failed("this relay has no TLS".into()))?;
        let mut tls = Tls::new(config, &self.config.host).map_err(failed)?;
        let shaken = timeout(HANDSHAKE_TIMEOUT, shake_hands(&mut self.stream, &mut tls)).await;
        let said = shaken.unwrap_or_else(|_| Err("the handshake took too long".to_owned())).map_err(failed)?;
        self.tls = Some(tls);
        self.session.secured();
        self.session.receive(&said);
        Ok(())
    }

    /// Waits until the session takes a message.
    async fn ready(&mut self) -> Result<(), (String, String)> {
        loop {
            match self.pump(None).await {
                Event::StartTls => self.secure().await?,
                Event::Ready => return Ok(()),
                Event::Closed { code, detail } => return Err((code, detail)),
                // Nothing was given to it.
                Event::Done(_) => {}
            }
        }
    }

    /// Carries messages until the connection ends; a transmission that was not begun comes back.
    async fn serve(&mut self, transmissions: &mut mpsc::Receiver<Transmission>) -> Option<Transmission> {
        let mut is_new = true;
        loop {
            if self.reports.send(Report::Idle { id: self.id, is_new }).await.is_err() {
                return None;
            }
            is_new = false;
            let Some(transmission) = self.wait(transmissions).await else {
                self.quit().await;
                return None;
            };
            if let Some(unbegun) = self.carry(transmission).await {
                return Some(unbegun);
            }
            if self.ready_again().await.is_err() {
                return None;
            }
        }
    }

    /// The next transmission; None: the connection was idle for too long, or is gone.
    async fn wait(&mut self, transmissions: &mut mpsc::Receiver<Transmission>) -> Option<Transmission> {
        let mut buffer = [0; READ_BYTES];
        let idle_until = Instant::now() + IDLE;
        loop {
            tokio::select! {
                biased;
                transmission = transmissions.recv() => return transmission,
                read = self.stream.read(&mut buffer) => match read {
                    Ok(count) if count > 0 => self.received(&buffer[..count]),
                    Ok(_) | Err(_) => self.session.connection_lost(Lost::Closed),
                },
                () = tokio::time::sleep_until(idle_until) => return None,
            }
            if matches!(self.session.event(), Some(Event::Closed { .. })) {
                return None;
            }
        }
    }

    /// Sends to one recipient. A transmission that certainly did not begin, because the connection was dead, comes
    /// back, once.
    async fn carry(&mut self, mut transmission: Transmission) -> Option<Transmission> {
        if transmission.is_recalled() || !transmission.hold.is_trusted(self.clock.boot_ms()) {
            transmission.hand_back().await;
            return None;
        }
        let (now_ms, signers) = (self.clock.wall_ms(), self.config.signing.current());
        let outgoing = match transmission.hold.batch.render(transmission.index, now_ms, &signers) {
            Ok(outgoing) => outgoing,
            Err(outcome) => {
                transmission.end(outcome).await;
                return None;
            }
        };
        self.is_handed_back = false;
        self.dot_due = Instant::now() + BEFORE_DOT;
        if self.session.send(outgoing).is_err() {
            return Some(transmission);
        }
        loop {
            match self.pump(Some(&mut transmission)).await {
                Event::StartTls | Event::Ready => {}
                Event::Done(verdict) => {
                    let is_unsent = verdict.kind == OutcomeKind::Deferred;
                    if is_unsent && self.is_handed_back {
                        transmission.hand_back().await;
                    } else if is_unsent && self.session.is_stale() && !transmission.is_retried {
                        transmission.is_retried = true;
                        return Some(transmission);
                    } else {
                        let outcome = Outcome {
                            retry_after_ms: verdict.retry_after_ms,
                            ..transmission.outcome(verdict.kind, &verdict.code, &verdict.detail)
                        };
                        transmission.end(outcome).await;
                    }
                    self.take_rest();
                    return None;
                }
                // A verdict always comes first; dropping the transmission gives it one all the same.
                Event::Closed { .. } => return None,
            }
        }
    }

    /// After a message: the session may have to tidy up first.
    async fn ready_again(&mut self) -> Result<(), (String, String)> {
        if self.session.phase() == postrider_mail::smtp::client::Phase::Idle {
            // Only the event of being ready is left to take.
            while let Some(event) = self.session.event() {
                if let Event::Closed { code, detail } = event {
                    return Err((code, detail));
                }
            }
            return Ok(());
        }
        self.ready().await
    }

    async fn quit(&mut self) {
        self.session.quit();
        loop {
            if let Event::Closed { .. } = self.pump(None).await {
                return;
            }
        }
    }

    /// Writes and reads until the session has an event.
    async fn pump(&mut self, mut transmission: Option<&mut Transmission>) -> Event {
        loop {
            if let Some(event) = self.session.event() {
                return event;
            }
            match self.session.take_output() {
                Some(write) if write.carries_final_dot => match transmission.as_deref_mut() {
                    Some(transmission) => self.write_final_dot(&write.bytes, transmission).await,
                    None => self.session.refuse_final_dot(),
                },
                Some(write) => self.write(&write.bytes).await,
                None => self.read(transmission.as_deref_mut()).await,
            }
        }
    }

    /// As they are on the wire. None: they cannot be.
    fn sealed<'a>(&mut self, bytes: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        match &mut self.tls {
            None => Some(Cow::Borrowed(bytes)),
            Some(tls) => tls.seal(bytes).ok().map(Cow::Owned),
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        let Some(bytes) = self.sealed(bytes) else { return self.session.connection_lost(Lost::Closed) };
        match timeout(WRITE_TIMEOUT, self.stream.write_all(&bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => self.session.connection_lost(Lost::Closed),
            Err(_) => self.session.connection_lost(Lost::Timeout),
        }
    }

    /// Writes content and final dot, looking at the lease before every piece that is handed to the system.
    async fn write_final_dot(&mut self, bytes: &[u8], transmission: &mut Transmission) {
        // The last bytes on the wire have the dot also through TLS: a record that is not whole says nothing.
        let Some(bytes) = self.sealed(bytes) else { return self.session.connection_lost(Lost::WriteCut) };
        let mut written = 0;
        let due = Instant::now() + WRITE_TIMEOUT;
        // Before the look at the lease, so that nothing comes between that and the write.
        let is_noted = transmission.note_dot();
        while written < bytes.len() {
            let may = transmission.hold.is_trusted(self.clock.boot_ms())
                && (!transmission.is_cut() || planted(Fault::IgnoreDeadline));
            if !may || !is_noted {
                self.is_handed_back = true;
                match written {
                    0 => self.session.refuse_final_dot(),
                    _ => self.session.connection_lost(Lost::WriteCut),
                }
                return;
            }
            match self.stream.try_write(&bytes[written..]) {
                Ok(count) => {
                    written += count;
                    transmission.is_dot_written = written == bytes.len();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let is_ready = tokio::select! {
                        biased;
                        () = transmission.cut(), if !planted(Fault::IgnoreDeadline) => true,
                        ready = timeout_at(due, self.stream.writable()) => matches!(ready, Ok(Ok(()))),
                    };
                    if !is_ready {
                        return self.session.connection_lost(Lost::WriteCut);
                    }
                }
                Err(_) => return self.session.connection_lost(Lost::WriteCut),
            }
        }
    }

    async fn read(&mut self, transmission: Option<&mut Transmission>) {
        let mut buffer = [0; READ_BYTES];
        self.take_rest();
        let reply_due = Instant::now() + self.session.timeout();
        let Some(transmission) = transmission else {
            let read = timeout_at(reply_due, self.stream.read(&mut buffer)).await;
            return self.took(read, &buffer);
        };
        if self.session.dot_may_be_written() {
            // Nothing but the reply decides now.
            if transmission.hold.is_noted() && self.untaken == 0 {
                let seen = timeout_at(reply_due, self.stream.peek(&mut buffer)).await;
                if let Ok(Ok(count)) = seen {
                    self.untaken = count;
                    if count > 0 {
                        return self.give(&buffer[..count]);
                    }
                }
                return self.took(seen, &buffer);
            }
            let read = timeout_at(reply_due, self.stream.read(&mut buffer)).await;
            return self.took(read, &buffer);
        }
        let due = reply_due.min(self.dot_due);
        tokio::select! {
            biased;
            () = transmission.cut(), if !planted(Fault::IgnoreDeadline) => {
                self.is_handed_back = true;
                self.session.connection_lost(Lost::Closed);
            }
            read = timeout_at(due, self.stream.read(&mut buffer)) => self.took(read, &buffer),
        }
        if self.progressed.elapsed() >= PROGRESS {
            self.progressed = Instant::now();
            transmission.progressed();
        }
    }

    fn took(&mut self, read: Result<io::Result<usize>, tokio::time::error::Elapsed>, buffer: &[u8]) {
        match read {
            Ok(Ok(count)) if count > 0 => self.received(&buffer[..count]),
            Ok(Ok(_) | Err(_)) => self.session.connection_lost(Lost::Closed),
            Err(_) => self.session.connection_lost(Lost::Timeout),
        }
    }

    /// Gives the session what it has not seen yet.
    fn received(&mut self, bytes: &[u8]) {
        let seen = self.untaken.min(bytes.len());
        self.untaken -= seen;
        self.give(&bytes[seen..]);
    }

    /// Gives the session what came on the wire.
    fn give(&mut self, bytes: &[u8]) {
        match self.tls.as_mut().map(|tls| tls.open(bytes)) {
            None => self.session.receive(bytes),
            Some(Ok(plain)) => self.session.receive(&plain),
            Some(Err(_)) => self.session.connection_lost(Lost::Closed),
        }
    }

    /// Takes from the system what was only looked at. What does not come now is passed over when it does.
    fn take_rest(&mut self) {
        let mut buffer = [0; READ_BYTES];
        while self.untaken > 0 {
            let most = self.untaken.min(READ_BYTES);
            match self.stream.try_read(&mut buffer[..most]) {
                Ok(count) if count > 0 => self.untaken -= count,
                Ok(_) | Err(_) => return,
            }
        }
    }
}
