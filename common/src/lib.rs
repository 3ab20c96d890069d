//! The words of Postrider: ids, states and their legal transitions, backoff, limits, clock.
//!
//! Every other crate speaks in these types. Nothing here does input or output; nothing here can be
//! wrong once it is built (values are checked where they are parsed).

pub mod address;
pub mod backoff;
pub mod campaign;
pub mod clock;
pub mod duration;
pub mod erasure;
pub mod ids;
pub mod lane;
pub mod lease;
pub mod limits;
pub mod local_time;
pub mod mark;
pub mod message;
pub mod pace;
pub mod payload;
pub mod relay;
pub mod run;
pub mod sabotage;
pub mod seal;
pub mod site;
pub mod source;
pub mod state;
pub mod suppression;
pub mod windows;
pub mod wire;

pub use address::Address;
pub use clock::{Clock, SystemClock};
pub use ids::{BatchId, CampaignName, DefinitionHash, Fence, LaneName, RequestId, RunId, WorkerId};
pub use lease::{Outcome, OutcomeKind};
pub use mark::{Mark, Marks};
pub use message::{MessageSpec, Recipient};
pub use state::{RecipientState, UnknownReason};
