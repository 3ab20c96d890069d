//! The header `Link` (RFC 8288), as far as the next page is in it. Pure.

/// The target of the first link whose relation is `next`.
pub(super) fn next<'a>(values: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    values.flat_map(links).find(|(_, parameters)| is_next(parameters)).map(|(target, _)| target)
}

/// Each `<target>` with what follows it.
fn links(value: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = value;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once('<')?;
        let (target, parameters) = after.split_once('>')?;
        let end = end_of_parameters(parameters);
        rest = &parameters[end..];
        Some((target.trim(), &parameters[..end]))
    })
}

/// Up to the comma before the next link.
fn end_of_parameters(text: &str) -> usize {
    unquoted(text, ',').unwrap_or(text.len())
}

/// Where that letter first is outside of quotes.
fn unquoted(text: &str, wanted: char) -> Option<usize> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            letter if letter == wanted && !is_quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Relations are words, without regard to case; only the first `rel` counts (RFC 8288 3.3).
fn is_next(parameters: &str) -> bool {
    let mut rest = parameters;
    while !rest.is_empty() {
        let end = unquoted(rest, ';').unwrap_or(rest.len());
        let (parameter, after) = rest.split_at(end);
        rest = after.strip_prefix(';').unwrap_or_default();
        if let Some((name, value)) = parameter.split_once('=')
            && name.trim().eq_ignore_ascii_case("rel")
        {
            return value.trim().trim_matches('"').split_whitespace().any(|word| word.eq_ignore_ascii_case("next"));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        let rows: &[(&[&str], Option<&str>)] = &[
            (&[], None),
            (&["<https://a.example/?after=2>; rel=\"next\""], Some("https://a.example/?after=2")),
            (&["</p?x=1,2>;rel=next"], Some("/p?x=1,2")),
            (&["<a>; rel=prev, <b>; title=\"x, <c>; rel=next\"; rel=\"last Next\""], Some("b")),
            (&["<a>; rel=\"prev\"", "<b>; REL=NEXT"], Some("b")),
            (&["<a>; rel=prev; rel=next"], None),
            (&["<a>; title=\"say \\\", <b>; rel=next\", <c>; rel=next"], Some("c")),
            (&["<a"], None),
            (&["a; rel=next"], None),
            (&["<>; rel=next"], Some("")),
            (&["<a>; rel=nextish"], None),
        ];
        for (values, expected) in rows {
            assert_eq!(next(values.iter().copied()), *expected, "{values:?}");
        }
    }
}
