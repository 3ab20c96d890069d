//! Measures a whole Postrider: real processes, a real Redis with every write on disk, the SMTP sink.
//!
//! `memory` asks what a queued recipient costs in Redis; `throughput` how many messages a second arrive;
//! `seal` what encryption at rest costs a master;
//! `transitions` what the calls of the store cost beside what redis-benchmark reaches on the same server;
//! `claim` whether a claim stays cheap whatever is queued, `compare` what one job per recipient would cost,
//! `share` how much of a core Redis takes at a given pace, `restart` how long it is away after its death,
//! `sign` what a DKIM signature costs; `split` how fast an audience becomes batches, and what is held of it.
//! The program measured is `POSTRIDER_BIN`, which `scripts/bench` sets to a release build.

mod calls;
mod claim;
mod compare;
mod instructions;
mod memory;
mod people;
mod restart;
mod seal;
mod server;
mod share;
mod sign;
mod split;
mod throughput;
mod transitions;

use clap::{Parser, Subcommand};
use std::time::Duration;

#[derive(Debug, Parser)]
#[command(name = "postrider-bench", about = "Measures Postrider on this machine")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Bytes of Redis per queued recipient: address, name and three merge fields.
    Memory {
        #[arg(long, default_value_t = 1_000_000)]
        recipients: usize,
    },
    /// Messages per second from submit to sink, and the share of one core that Redis takes.
    Throughput {
        #[arg(long, default_value_t = 50_000)]
        recipients: usize,
        #[arg(long, default_value_t = 1)]
        masters: usize,
        #[arg(long, default_value_t = 2)]
        workers: usize,
        /// Connections of each worker to the sink.
        #[arg(long, default_value_t = 32)]
        connections: u32,
        /// The sink answers this much later.
        #[arg(long, default_value_t = 0)]
        latency_ms: u64,
    },
    /// What sealing payloads with a key costs a master.
    Seal {
        /// Batches of 100 recipients.
        #[arg(long, default_value_t = 1_000)]
        batches: usize,
    },
    /// Calls per second and server time of add_batches, claim, checkpoint and finish, against redis-benchmark on
    /// the same server, with appendfsync always and everysec.
    Transitions {
        /// Batches of 100 recipients.
        #[arg(long, default_value_t = 2_000)]
        batches: usize,
        /// Calls under way at once, of the store and of redis-benchmark.
        #[arg(long, default_value_t = 16)]
        callers: usize,
        /// Leases in one claim, reports in one checkpoint and in one finish.
        #[arg(long, default_value_t = 1)]
        in_a_call: usize,
    },
    /// Server time of a claim with 1 to 100,000 ready batches, and beside 10,000 runs that are paused or have no room.
    Claim,
    /// Claim and finish of batches beside one job per recipient: recipients a second, server time, memory.
    Compare {
        #[arg(long, default_value_t = 200_000)]
        recipients: usize,
        /// Single jobs, which take longer.
        #[arg(long, default_value_t = 50_000)]
        jobs: usize,
        #[arg(long, default_value_t = 16)]
        callers: usize,
        /// Leases in one claim and in one finish: a worker takes as many as it has slots for.
        #[arg(long, default_value_t = 4)]
        batches_per_call: usize,
    },
    /// The share of one core that Redis takes while workers report at a steady pace, with appendfsync always.
    Share {
        /// Recipients a second.
        #[arg(long, default_value_t = 10_000)]
        rate: u32,
        #[arg(long, default_value_t = 20)]
        seconds: u32,
        #[arg(long, default_value_t = 4)]
        workers: u8,
        /// How long each of them gathers reports: real ones 5 ms.
        #[arg(long, default_value_t = 5)]
        gather_ms: u64,
    },
    /// Messages a second that are signed with DKIM, beside the signatures alone.
    Sign {
        #[arg(long, default_value_t = 10_000)]
        body_bytes: usize,
    },
    /// Rows a second from an uploaded CSV to batches in Redis, beside parsing the file alone; what a master and Redis hold.
    Split {
        #[arg(long, value_delimiter = ',', default_values_t = [100_000, 1_000_000])]
        rows: Vec<usize>,
    },
    /// Time from the start of a killed server to its first answer and to the first claim.
    Restart {
        #[arg(long, default_value_t = 1_000_000)]
        recipients: usize,
    },
}

fn main() {
    match Arguments::parse().what {
        What::Memory { recipients } => memory::measure(recipients),
        What::Throughput { recipients, masters, workers, connections, latency_ms } => {
            throughput::measure(&throughput::Load { recipients, masters, workers, connections, latency_ms });
        }
        What::Seal { batches } => seal::measure(batches),
        What::Transitions { batches, callers, in_a_call } => transitions::measure(batches, callers, in_a_call),
        What::Claim => claim::measure(),
        What::Compare { recipients, jobs, callers, batches_per_call } => {
            compare::measure(recipients, jobs, callers, batches_per_call);
        }
        What::Share { rate, seconds, workers, gather_ms } => {
            share::measure(rate, seconds, workers, Duration::from_millis(gather_ms));
        }
        What::Sign { body_bytes } => sign::measure(body_bytes),
        What::Split { rows } => split::measure(&rows),
        What::Restart { recipients } => restart::measure(recipients),
    }
}
