//! When a campaign is due: pure arithmetic over a time zone database. Nothing here knows the time.
//!
//! The only place where zones are calculated with. Instants leave it as milliseconds.

mod countries;
mod decide;
mod due;
mod hours;
mod local;
mod pattern;
mod read;
mod timetable;
mod zones;

pub use countries::zone_of_country;
pub use decide::{Decision, LOOK_AGAIN, Missed, ON_TIME, Position, Rules, Verdict, WAIT};
pub use due::{CatchUp, Due, due};
pub use hours::{AHEAD, Hours, LaneHours, NEVER, State, WrongWindow, clock_of, lane_hours};
pub use jiff::tz::TimeZone;
pub use local::{LocalTimes, NoLocalTimes};
pub use pattern::{Pattern, WrongPattern};
pub use read::{WrongSchedule, read};
pub use timetable::{Note, Occurrence, OnGap, OnOverlap, Timetable, What};
pub use zones::{Origin, SYSTEM_FOLDER, UnknownZone, Zones};
