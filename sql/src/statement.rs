//! Whether a query is one statement, where the server does not tell: SQLite runs one after the other.

/// Whether nothing but blanks and comments stands behind a semicolon. By <https://www.sqlite.org/lang.html>: texts and names in
/// quotes that are doubled within, names in brackets, comments of both kinds.
pub(crate) fn is_one(text: &str) -> bool {
    let mut letters = text.chars().peekable();
    let mut ended = false;
    while let Some(letter) = letters.next() {
        match letter {
            '-' if letters.peek() == Some(&'-') => skip_to(&mut letters, '\n'),
            '/' if letters.peek() == Some(&'*') => {
                letters.next();
                let mut last = ' ';
                for letter in letters.by_ref() {
                    if (last, letter) == ('*', '/') {
                        break;
                    }
                    last = letter;
                }
            }
            ';' => ended = true,
            blank if blank.is_whitespace() => {}
            _ if ended => return false,
            // Doubled, it ends one and begins the next: the same.
            '\'' | '"' | '`' => skip_to(&mut letters, letter),
            '[' => skip_to(&mut letters, ']'),
            _ => {}
        }
    }
    true
}

fn skip_to(letters: &mut impl Iterator<Item = char>, end: char) {
    for letter in letters {
        if letter == end {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_statement_is_seen_wherever_it_hides() {
        for one in [
            "SELECT 1",
            "SELECT 1;",
            "SELECT 1; -- and\n",
            "SELECT 1 /* ; */; /* ; SELECT 2 */",
            "SELECT ';', \";\", `;`, [;], 'it''s; fine' -- ; SELECT",
            "SELECT 1 - 2 / 3",
        ] {
            assert!(is_one(one), "{one}");
        }
        for two in [
            "SELECT 1; SELECT 2",
            "ATTACH 'x' AS x; SELECT * FROM x.t",
            "SELECT ''; SELECT 2",
            "SELECT 1 -- ; x\n; SELECT 2",
            "SELECT 1 /* ' */ ; SELECT 2 -- '",
            "SELECT [']; SELECT 2 --'",
            ";;x",
        ] {
            assert!(!is_one(two), "{two}");
        }
    }
}
