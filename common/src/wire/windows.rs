//! When sending may begin. What is wrong in it is told by whoever reads the spans.

use crate::local_time::UnknownZone;
use crate::windows::{RecipientClock, Window, Windows};
use postrider_proto::v1;

impl From<v1::SendWindows> for Windows {
    fn from(wire: v1::SendWindows) -> Self {
        let all = |windows: Vec<v1::SendWindow>| windows.into_iter().map(Into::into).collect();
        Self { send: all(wire.send), quiet: all(wire.quiet), clock: wire.clock.map(Into::into) }
    }
}

impl From<Windows> for v1::SendWindows {
    fn from(windows: Windows) -> Self {
        let all = |windows: Vec<Window>| windows.into_iter().map(Into::into).collect();
        Self { send: all(windows.send), quiet: all(windows.quiet), clock: windows.clock.map(Into::into) }
    }
}

impl From<v1::SendWindow> for Window {
    fn from(wire: v1::SendWindow) -> Self {
        let v1::SendWindow { from, to, days, time_zone } = wire;
        Self { from, to, days, time_zone }
    }
}

impl From<Window> for v1::SendWindow {
    fn from(window: Window) -> Self {
        let Window { from, to, days, time_zone } = window;
        Self { from, to, days, time_zone }
    }
}

impl From<v1::RecipientClock> for RecipientClock {
    fn from(wire: v1::RecipientClock) -> Self {
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let v1::RecipientClock { zone, country, default_zone, unknown_is_default } = wire;
        let unknown_zone = if unknown_is_default { UnknownZone::Default } else { UnknownZone::BadRow };
        Self { zone: some(zone), country: some(country), default_zone, unknown_zone }
    }
}

impl From<RecipientClock> for v1::RecipientClock {
    fn from(clock: RecipientClock) -> Self {
        let RecipientClock { zone, country, default_zone, unknown_zone } = clock;
        let unknown_is_default = unknown_zone == UnknownZone::Default;
        let (zone, country) = (zone.unwrap_or_default(), country.unwrap_or_default());
        Self { zone, country, default_zone, unknown_is_default }
    }
}
