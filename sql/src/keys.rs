//! Where a query wants the keys of recipients: at `:keys`, outside of texts, names in quotes and comments.

/// What stands in a query for the keys.
pub const PLACEHOLDER: &str = ":keys";

/// Whether it has a place for keys.
pub fn wants_keys(query: &str) -> bool {
    pieces(query).len() > 1
}

/// The query with `place(n)` for each place, counted from 0.
#[cfg(any(feature = "drivers", test))]
pub(crate) fn with(query: &str, mut place: impl FnMut(usize) -> String) -> String {
    let mut text = String::with_capacity(query.len());
    for (at, piece) in pieces(query).into_iter().enumerate() {
        if at > 0 {
            text.push_str(&place(at - 1));
        }
        text.push_str(piece);
    }
    text
}

/// What stands between the places. A colon before one is a cast of Postgres, a letter behind it another name.
fn pieces(query: &str) -> Vec<&str> {
    let is_of_name = |c: char| c.is_alphanumeric() || c == '_';
    let (mut pieces, mut begin) = (Vec::new(), 0);
    let mut at = 0;
    while let Some(rest) = query.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(PLACEHOLDER)
            && !query[..at].ends_with(':')
            && !rest[PLACEHOLDER.len()..].starts_with(is_of_name)
        {
            pieces.push(&query[begin..at]);
            at += PLACEHOLDER.len();
            begin = at;
            continue;
        }
        at += skipped(rest);
    }
    pieces.push(&query[begin..]);
    pieces
}

/// Bytes of what is next: a text, a name, a comment, or one character.
fn skipped(rest: &str) -> usize {
    let through = |begin: usize, end: &str| rest[begin..].find(end).map_or(rest.len(), |at| begin + at + end.len());
    match rest.chars().next() {
        // Doubled, a quote ends one and begins the next: the same.
        Some('\'') => through(1, "'"),
        Some('"') => through(1, "\""),
        Some('`') => through(1, "`"),
        Some('-') if rest.starts_with("--") => through(2, "\n"),
        Some('/') if rest.starts_with("/*") => through(2, "*/"),
        Some(c) => c.len_utf8(),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_where_they_are_meant() {
        let check = |query: &str, expected: &str| {
            assert_eq!(with(query, |n| format!("<{n}>")), expected);
            assert_eq!(wants_keys(query), expected.contains('<'), "{query}");
        };
        check("SELECT 1", "SELECT 1");
        check("SELECT * FROM p WHERE id IN (:keys)", "SELECT * FROM p WHERE id IN (<0>)");
        check("id = ANY(:keys::bigint[]) OR x IN (:keys)", "id = ANY(<0>::bigint[]) OR x IN (<1>)");
        check(
            "':keys' \":keys\" `:keys` -- :keys\n /* :keys */ x::keys :keyset :keys",
            "':keys' \":keys\" `:keys` -- :keys\n /* :keys */ x::keys :keyset <0>",
        );
        check("'it''s :keys' || :keys", "'it''s :keys' || <0>");
        check("'never closed :keys", "'never closed :keys");
        check("\u{e4}:keys\u{e4} :keys", "\u{e4}:keys\u{e4} <0>");
        check("", "");
    }
}
