//! `send_window` and `quiet_hours`, as tables of a campaign file and of a lane: one table, or a list of them.

use crate::toml_text::{Node, Table, Value, nearest};
use postrider_common::windows::Window;

const KEYS: [&str; 4] = ["from", "to", "days", "time_zone"];

/// Reads after "must be".
pub const EXPECTED: &str = "a table such as { from = \"08:00\", to = \"20:00\", days = \"MON-FRI\", time_zone = \"Europe/Berlin\" }, \
                            or a list of such tables";

/// Errors: line, and what is wrong.
pub fn read(key: &str, node: &Node) -> Result<Vec<Window>, (usize, String)> {
    match &node.value {
        Value::Table(table) => Ok(vec![one(key, table)?]),
        Value::List(items) => {
            let each = |(index, item): (usize, &Node)| match &item.value {
                Value::Table(table) => one(&format!("{key}[{index}]"), table),
                other => Err((item.line, format!("{key}[{index}] must be {EXPECTED}, not {}", other.kind()))),
            };
            items.iter().enumerate().map(each).collect()
        }
        other => Err((node.line, format!("{key} must be {EXPECTED}, not {}", other.kind()))),
    }
}

fn one(key: &str, table: &Table) -> Result<Window, (usize, String)> {
    let mut window = Window::default();
    for entry in &table.entries {
        let place = match entry.key.as_str() {
            "from" => &mut window.from,
            "to" => &mut window.to,
            "days" => &mut window.days,
            "time_zone" => &mut window.time_zone,
            other => {
                let near = nearest(other, KEYS).unwrap_or_default();
                return Err((entry.line, format!("there is no key {key}.{other}; the nearest is {key}.{near}")));
            }
        };
        match &entry.node.value {
            Value::Text(text) => text.trim().clone_into(place),
            other => {
                let why = format!("{key}.{} must be a text in quotes, not {}", entry.key, other.kind());
                return Err((entry.line, why));
            }
        }
    }
    let line = table.entries.first().map_or(1, |entry| entry.line);
    window.span().map_err(|(name, why)| (line, format!("{key}.{name}: {why}")))?;
    Ok(window)
}
