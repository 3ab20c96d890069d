//! What sealing costs a master's processor: payloads of 100 recipients, packed, sealed and opened.

use crate::people;
use postrider_common::ids::{BatchId, RunId};
use postrider_common::payload;
use postrider_master::seal::{Vault, What, new_line};
use std::hint::black_box;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

const BATCH_RECIPIENTS: usize = 100;

pub fn measure(batches: usize) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let line = new_line(&"bench".parse().expect("a name")).expect("this build seals");
    std::fs::write(file.path(), line).expect("the key file can be written");
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).expect("it can be made private");
    let vault = Vault::read(file.path()).expect("the key file can be read");
    let recipients = people::recipients(batches * BATCH_RECIPIENTS, 1);
    let run = RunId::derive("bench", "seal");
    let (mut packing, mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let (mut plain_bytes, mut sealed_bytes) = (0, 0);
    for (batch, sequence) in recipients.chunks(BATCH_RECIPIENTS).zip(1..) {
        let id = BatchId { run: run.clone(), sequence };
        let begun = Instant::now();
        let plain: Vec<u8> = payload::encode(batch).into();
        packing += begun.elapsed();
        plain_bytes += plain.len();
        let begun = Instant::now();
        let sealed = vault.seal(What::Batch(&id), plain).expect("it can be sealed");
        sealing += begun.elapsed();
        sealed_bytes += sealed.len();
        let begun = Instant::now();
        black_box(vault.open(What::Batch(&id), sealed).expect("it can be opened"));
        opening += begun.elapsed();
    }
    let per = |took: Duration| took.as_nanos() as f64 / recipients.len() as f64;
    println!("recipients                        {}", recipients.len());
    println!("packing, ns per recipient         {:.1}", per(packing));
    println!("sealing, ns per recipient         {:.1}", per(sealing));
    println!("opening, ns per recipient         {:.1}", per(opening));
    println!("sealing adds, bytes per recipient {:.2}", (sealed_bytes - plain_bytes) as f64 / recipients.len() as f64);
}
