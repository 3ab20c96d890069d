//! How workers get batches: `poll` waits for work and answers, `definitions` keeps what is rendered,
//! `turnstile` keeps a hint from becoming a stampede, `fit` keeps an answer within one message.

pub mod definitions;
pub mod fit;
pub mod poll;
pub mod turnstile;

pub use definitions::Definitions;
pub use poll::{LeaseWish, long_poll};
pub use turnstile::Turnstile;
