//! How workers get batches: `poll` waits for work and answers, `definitions` keeps what is rendered,
//! `turnstile` keeps a hint from becoming a stampede, `fit` keeps an answer within one message, `gate` knows of send windows.

pub mod definitions;
pub mod fit;
pub mod gate;
pub mod poll;
pub mod turnstile;

pub use definitions::Definitions;
pub use gate::Gates;
pub use poll::{LeaseWish, long_poll};
pub use turnstile::Turnstile;
