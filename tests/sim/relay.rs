//! The relay: real server sessions with a script of hostility, connections that carry bytes late or not at all, and the
//! ledger of what was accepted, which is the judge of duplicates.

use crate::coverage::Point;
use crate::world::{Happening, TxId, World};
use postrider_mail::smtp::client::Session;
use postrider_mail::smtp::server::{Action, Answer, ServerSession};

const SIZE_MAX: usize = 1 << 20;
/// A reply that comes late comes within this; longer than any lease of the world.
const SLOW_REPLY_MS: u64 = 20_000;
/// Of a connection that is cut: after how many bytes, either way.
const CUT_BYTES: u64 = 2_500;

pub struct Conn {
    pub worker: usize,
    pub session: Session,
    server: ServerSession,
    pub tx: Option<TxId>,
    pub is_handed_back: bool,
    /// It took a message at least once.
    pub is_usable: bool,
    /// The worker's end is closed.
    pub is_client_gone: bool,
    is_server_gone: bool,
    /// When the last bytes of each direction arrive: TCP keeps their order.
    to_server_at: u64,
    to_client_at: u64,
    lag_ms: u64,
    /// Bytes to the server, or to the client, after which the connection is cut.
    cut_to_server: Option<u64>,
    cut_to_client: Option<u64>,
}

#[derive(Debug, Clone)]
pub enum Bytes {
    Connected,
    Data(Vec<u8>),
    Closed,
}

impl World {
    /// A worker connects; what becomes of it arrives later.
    pub fn connect(&mut self, worker: usize) -> u64 {
        self.last_conn += 1;
        let id = self.last_conn;
        let lag_ms = 1 + self.random.below(self.mix.lag_ms);
        let cuts = if self.is_hostile() { self.mix.cuts } else { 0 };
        let cut = |random: &mut crate::random::Random| random.permille(cuts).then(|| random.below(CUT_BYTES));
        let (cut_to_server, cut_to_client) = (cut(&mut self.random), cut(&mut self.random));
        let conn = Conn {
            worker,
            session: Session::new("worker.example"),
            server: ServerSession::new("relay.example", SIZE_MAX),
            tx: None,
            is_handed_back: false,
            is_usable: false,
            is_client_gone: false,
            is_server_gone: false,
            to_server_at: 0,
            to_client_at: 0,
            lag_ms,
            cut_to_server,
            cut_to_client,
        };
        self.conns.insert(id, conn);
        let refuses = self.is_relay_down || (self.is_hostile() && self.random.permille(self.mix.refuses / 4));
        if refuses {
            self.fault("relay refused");
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.is_server_gone = true;
            }
        }
        self.carry_to_client(id, if refuses { Bytes::Closed } else { Bytes::Connected }, 0);
        id
    }

    pub fn carry_to_server(&mut self, id: u64, bytes: Bytes) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.to_server_at = conn.to_server_at.max(self.now_ms + conn.lag_ms);
        let in_ms = conn.to_server_at - self.now_ms;
        self.after(in_ms, Happening::ToServer(id, bytes));
    }

    fn carry_to_client(&mut self, id: u64, bytes: Bytes, late_ms: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.to_client_at = conn.to_client_at.max(self.now_ms + conn.lag_ms + late_ms);
        let in_ms = conn.to_client_at - self.now_ms;
        self.after(in_ms, Happening::ToClient(id, bytes));
    }

    /// The relay's end of a connection.
    pub fn server_reads(&mut self, id: u64, bytes: Bytes) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        match bytes {
            Bytes::Connected => {}
            Bytes::Closed => {
                conn.is_server_gone = true;
                self.forget_conn(id);
            }
            Bytes::Data(data) => {
                if conn.is_server_gone {
                    return;
                }
                let cut = conn.cut_to_server.filter(|left| *left < data.len() as u64);
                let taken = cut.map_or(data.len(), |left| left as usize);
                conn.cut_to_server = conn.cut_to_server.map(|left| left.saturating_sub(data.len() as u64));
                conn.server.receive(&data[..taken]);
                self.serve(id);
                if cut.is_some() {
                    self.cut(id);
                }
            }
        }
    }

    /// The greeting, once the client is connected.
    pub fn greet(&mut self, id: u64) {
        let refuses = self.is_hostile() && self.random.permille(self.mix.says_goodbye);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let action = if refuses { conn.server.shut_down() } else { conn.server.greeting() };
        if refuses {
            self.fault("421");
        }
        self.act(id, action, 0);
    }

    fn serve(&mut self, id: u64) {
        loop {
            let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.is_server_gone) else { return };
            match conn.server.next_action() {
                None => break,
                Some(Action::Recipient { .. }) => {
                    let answer = self.judge_recipient();
                    let is_slow = self.is_hostile() && self.random.permille(self.mix.slow_replies / 2);
                    let late_ms = if is_slow { self.random.below(SLOW_REPLY_MS / 4) } else { 0 };
                    if let Some(conn) = self.conns.get_mut(&id) {
                        let action = conn.server.answer(answer);
                        self.act(id, action, late_ms);
                    }
                }
                Some(Action::Message(received)) => {
                    let tx = received.header("X-Tx").parse().ok();
                    self.judge_message(id, tx);
                }
                Some(action @ (Action::Write(_) | Action::Close)) => self.act(id, action, 0),
            }
        }
        if self.conns.get(&id).is_some_and(|conn| conn.server.is_closed() && !conn.is_server_gone) {
            self.server_closes(id, 0);
        }
    }

    fn judge_recipient(&mut self) -> Answer {
        if !self.is_hostile() {
            return Answer::Accept;
        }
        if self.random.permille(self.mix.rejects) {
            self.fault("5xx");
            return Answer::Refuse("550 5.1.1 no such user".into());
        }
        if self.random.permille(self.mix.defers) {
            self.fault("4xx");
            return Answer::Refuse("450 4.2.0 try again in 1 seconds".into());
        }
        if self.random.permille(self.mix.says_goodbye) {
            self.fault("421");
            return Answer::Refuse("421 4.3.2 going down".into());
        }
        Answer::Accept
    }

    fn judge_message(&mut self, id: u64, tx: Option<TxId>) {
        let hostile = self.is_hostile();
        let mix = self.mix.clone();
        let mut chance = |permille: u64| hostile && self.random.permille(permille);
        let (defers, rejects) = (chance(mix.defers / 3), chance(mix.rejects / 3));
        let (loses, slow) = (chance(mix.loses_replies), chance(mix.slow_replies));
        if defers || rejects {
            self.fault(if defers { "4xx" } else { "5xx" });
            let line = if defers { "451 4.3.0 local trouble" } else { "554 5.6.0 not this message" };
            return self.answer_message(id, Answer::Refuse(line.into()), 0);
        }
        // From here on it is the relay's, whatever the client learns.
        if let Some(tx) = tx {
            self.accepted(tx);
        }
        let late_ms = if slow { self.random.below(SLOW_REPLY_MS) } else { 0 };
        if loses {
            self.fault("lost reply");
            // Sometimes the connection stays open and nothing comes.
            if self.random.below(50) == 0 {
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.is_server_gone = true;
                }
                return;
            }
            return self.answer_message(id, Answer::Hang, late_ms);
        }
        if slow {
            self.fault("slow reply");
        }
        self.answer_message(id, Answer::Accept, late_ms);
    }

    fn answer_message(&mut self, id: u64, answer: Answer, late_ms: u64) {
        if let Some(conn) = self.conns.get_mut(&id) {
            let action = conn.server.answer(answer);
            self.act(id, action, late_ms);
        }
    }

    fn act(&mut self, id: u64, action: Action, late_ms: u64) {
        match action {
            Action::Write(data) if data.is_empty() => {}
            Action::Write(data) => {
                let Some(conn) = self.conns.get_mut(&id) else { return };
                let cut = conn.cut_to_client.filter(|left| *left < data.len() as u64);
                conn.cut_to_client = conn.cut_to_client.map(|left| left.saturating_sub(data.len() as u64));
                let taken = cut.map_or(data.len(), |left| left as usize);
                self.carry_to_client(id, Bytes::Data(data[..taken].to_vec()), late_ms);
                if cut.is_some() {
                    self.cut(id);
                }
            }
            Action::Close => self.server_closes(id, late_ms),
            // Asked by `serve` only.
            Action::Recipient { .. } | Action::Message(_) => {}
        }
    }

    pub fn cut(&mut self, id: u64) {
        self.fault("connection cut");
        self.coverage.reach(Point::ConnectionCut);
        self.server_closes(id, 0);
    }

    pub fn server_closes(&mut self, id: u64, late_ms: u64) {
        if let Some(conn) = self.conns.get_mut(&id)
            && !conn.is_server_gone
        {
            conn.is_server_gone = true;
            self.carry_to_client(id, Bytes::Closed, late_ms);
        }
    }

    /// Both ends are gone, or the only one that could still act.
    fn forget_conn(&mut self, id: u64) {
        if self.conns.get(&id).is_some_and(|conn| conn.is_client_gone) {
            self.conns.remove(&id);
        }
    }

    /// Every connection is cut and no new one is taken, or the relay is back.
    pub fn relay_falls(&mut self, is_down: bool) {
        self.is_relay_down = is_down;
        if is_down {
            self.fault("relay down");
            let open: Vec<u64> = self.conns.keys().copied().collect();
            open.into_iter().for_each(|id| self.server_closes(id, 0));
        }
    }
}
