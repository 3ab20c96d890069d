//! The text alternative of an HTML mail that comes without one.
//!
//! Not a browser: tags become breaks and spaces, links keep their target, entities are decoded, and what
//! is not shown (style, script, comments) is left out. Any input gives some text.

/// Deeper in white space than this a message gains nothing.
const BLANK_LINES_MAX: usize = 1;

/// Plain text of `html`. Lines end with LF.
pub fn from_html(html: &str) -> String {
    let mut text = Text { output: String::with_capacity(html.len() / 2), breaks: 0, space: false, pre: 0 };
    let mut link: Option<(String, usize)> = None;
    let mut rest = html;
    let after_tags = html.rfind('>').map_or(html.len(), |last| html.len() - last - 1);
    while let Some(at) = rest.find('<') {
        text.push(&decode(&rest[..at]));
        rest = &rest[at..];
        // Past the last `>` there is no tag, and each search for its end would run through all the rest.
        let Some(tag) = (rest.len() > after_tags).then(|| Tag::parse(rest)).flatten() else {
            text.push("<");
            rest = &rest[1..];
            continue;
        };
        rest = &rest[tag.length..];
        match (tag.name.as_str(), tag.closes) {
            (hidden @ ("script" | "style" | "title" | "template"), false) if !tag.closes_itself => {
                rest = after_close(rest, hidden);
            }
            ("a", false) => link = tag.attribute("href").filter(|url| is_link(url)).map(|url| (url, text.output.len())),
            ("a", true) => {
                if let Some((url, start)) = link.take() {
                    text.link(&url, start);
                }
            }
            ("img", _) => text.push(&tag.attribute("alt").unwrap_or_default()),
            ("br", _) => text.line(),
            ("hr", _) => {
                text.block(1);
                text.push("---");
                text.block(1);
            }
            ("pre", closes) => {
                text.block(1);
                text.pre = if closes { text.pre.saturating_sub(1) } else { text.pre + 1 };
            }
            ("li", false) => {
                text.block(0);
                text.push("- ");
            }
            ("td" | "th", _) => text.space = true,
            (name, _) if PARAGRAPHS.contains(&name) => text.block(1),
            (name, _) if BLOCKS.contains(&name) => text.block(0),
            _ => {}
        }
    }
    text.push(&decode(rest));
    if let Some((url, start)) = link {
        text.link(&url, start);
    }
    if !text.output.is_empty() {
        text.output.push('\n');
    }
    text.output
}

const PARAGRAPHS: [&str; 13] =
    ["p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "blockquote", "form"];
const BLOCKS: [&str; 16] = [
    "div",
    "tr",
    "section",
    "article",
    "header",
    "footer",
    "main",
    "nav",
    "li",
    "dt",
    "dd",
    "center",
    "address",
    "figure",
    "figcaption",
    "body",
];

fn is_link(url: &str) -> bool {
    let url = url.trim();
    !url.is_empty() && !url.starts_with('#') && !url.to_ascii_lowercase().starts_with("javascript:")
}

struct Text {
    output: String,
    /// Line ends owed before the next word.
    breaks: usize,
    /// A space is owed before the next word.
    space: bool,
    /// Depth of `<pre>`.
    pre: usize,
}

impl Text {
    fn push(&mut self, text: &str) {
        if self.pre > 0 {
            self.settle();
            self.output.extend(text.chars().filter(|c| *c == '\n' || !c.is_control()));
            return;
        }
        for (index, word) in text.split(|c: char| c.is_whitespace() || c.is_control()).enumerate() {
            self.space |= index > 0;
            if !word.is_empty() {
                self.settle();
                self.output.push_str(word);
            }
        }
    }

    fn settle(&mut self) {
        if self.output.is_empty() {
            self.breaks = 0;
        } else if self.breaks > 0 {
            self.output.truncate(self.output.trim_end_matches([' ', '\n']).len());
            self.output.extend(std::iter::repeat_n('\n', self.breaks));
        } else if self.space && !self.output.ends_with('\n') {
            self.output.push(' ');
        }
        (self.breaks, self.space) = (0, false);
    }

    fn line(&mut self) {
        self.breaks = (self.breaks + 1).min(1 + BLANK_LINES_MAX);
    }

    fn block(&mut self, blank_lines: usize) {
        self.breaks = self.breaks.max(1 + blank_lines.min(BLANK_LINES_MAX));
    }

    /// Adds the target after what was shown since `start`, unless that is the target.
    fn link(&mut self, url: &str, start: usize) {
        let url = url.trim();
        let shown = self.output.get(start..).unwrap_or_default().trim();
        let bare = url.strip_prefix("mailto:").unwrap_or(url);
        if shown == url || shown == bare || url.strip_prefix("https://") == Some(shown) {
            return;
        }
        if shown.is_empty() {
            self.push(url);
        } else {
            self.push(&format!(" <{url}>"));
        }
    }
}

struct Tag<'a> {
    /// Lower-case; empty for comments and declarations.
    name: String,
    closes: bool,
    closes_itself: bool,
    attributes: &'a str,
    /// Bytes up to and with its `>`.
    length: usize,
}

impl<'a> Tag<'a> {
    /// `None`: the `<` is only a character.
    fn parse(html: &'a str) -> Option<Self> {
        if let Some(rest) = html.strip_prefix("<!--") {
            let length = rest.find("-->").map_or(html.len(), |end| 4 + end + 3);
            return Some(Self { name: String::new(), closes: false, closes_itself: true, attributes: "", length });
        }
        let inner = html.strip_prefix('<')?;
        if inner.starts_with(['!', '?']) {
            let length = html.find('>').map_or(html.len(), |end| end + 1);
            return Some(Self { name: String::new(), closes: false, closes_itself: true, attributes: "", length });
        }
        let closes = inner.starts_with('/');
        let inner = inner.strip_prefix('/').unwrap_or(inner);
        if !inner.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return None;
        }
        let end = end_of_tag(inner)?;
        let body = &inner[..end];
        let name_end = body.find(|c: char| c.is_ascii_whitespace() || c == '/').unwrap_or(body.len());
        let length = html.len() - inner.len() + end + 1;
        let name = body[..name_end].to_ascii_lowercase();
        Some(Self { name, closes, closes_itself: body.ends_with('/'), attributes: &body[name_end..], length })
    }

    fn attribute(&self, name: &str) -> Option<String> {
        let mut rest = self.attributes;
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/' || c == '=');
            if rest.is_empty() {
                return None;
            }
            let end = rest.find(|c: char| c.is_ascii_whitespace() || c == '=' || c == '/').unwrap_or(rest.len());
            let found = &rest[..end];
            rest = rest[end..].trim_start();
            let mut value = "";
            if let Some(after) = rest.strip_prefix('=') {
                let after = after.trim_start();
                let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''));
                let (start, end) = match quote {
                    Some(quote) => (1, after[1..].find(quote).map_or(after.len(), |end| end + 1)),
                    None => (0, after.find(|c: char| c.is_ascii_whitespace()).unwrap_or(after.len())),
                };
                value = &after[start..end];
                rest = after.get(end + usize::from(quote.is_some())..).unwrap_or_default();
            }
            if found.eq_ignore_ascii_case(name) {
                return Some(decode(value));
            }
        }
    }
}

/// The index of the `>` that ends a tag, which one in quotes does not.
fn end_of_tag(inner: &str) -> Option<usize> {
    let mut quote = None;
    for (index, byte) in inner.bytes().enumerate() {
        match (byte, quote) {
            (b'>', None) => return Some(index),
            (b'"' | b'\'', None) => quote = Some(byte),
            (byte, Some(open)) if byte == open => quote = None,
            _ => {}
        }
    }
    // An unclosed quote: take the first `>` rather than swallow the rest of the mail.
    inner.find('>')
}

fn after_close<'a>(rest: &'a str, name: &str) -> &'a str {
    let mut from = 0;
    while let Some(at) = rest[from..].find("</") {
        let tail = &rest[from + at + 2..];
        if tail.get(..name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name)) {
            return tail.find('>').map_or("", |end| &tail[end + 1..]);
        }
        from += at + 2;
    }
    ""
}

/// Decodes the entities that mails use; others stay as they are.
fn decode(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        output.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(ENTITY_BYTES_MAX).position(|byte| byte == b';');
        match end.and_then(|end| Some((entity(&rest[1..end])?, end))) {
            Some((character, end)) => {
                output.push(character);
                rest = &rest[end + 1..];
            }
            None => {
                output.push('&');
                rest = &rest[1..];
            }
        }
    }
    output.push_str(rest);
    output
}

const ENTITY_BYTES_MAX: usize = 12;

fn entity(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        // A control character is no text, and a NUL would make the message unsendable.
        return char::from_u32(code).map(|c| if c.is_control() || c == '\u{a0}' { ' ' } else { c });
    }
    ENTITIES.iter().find(|(known, _)| *known == name).map(|(_, character)| *character)
}

const ENTITIES: [(&str, char); 60] = [
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("nbsp", ' '),
    ("hellip", '…'),
    ("mdash", '—'),
    ("ndash", '–'),
    ("lsquo", '‘'),
    ("rsquo", '’'),
    ("ldquo", '“'),
    ("rdquo", '”'),
    ("laquo", '«'),
    ("raquo", '»'),
    ("bull", '•'),
    ("middot", '·'),
    ("copy", '©'),
    ("reg", '®'),
    ("trade", '™'),
    ("euro", '€'),
    ("pound", '£'),
    ("yen", '¥'),
    ("cent", '¢'),
    ("sect", '§'),
    ("para", '¶'),
    ("deg", '°'),
    ("plusmn", '±'),
    ("times", '×'),
    ("divide", '÷'),
    ("frac12", '½'),
    ("frac14", '¼'),
    ("larr", '←'),
    ("rarr", '→'),
    ("check", '✓'),
    ("iexcl", '¡'),
    ("iquest", '¿'),
    ("szlig", 'ß'),
    ("auml", 'ä'),
    ("ouml", 'ö'),
    ("uuml", 'ü'),
    ("Auml", 'Ä'),
    ("Ouml", 'Ö'),
    ("Uuml", 'Ü'),
    ("agrave", 'à'),
    ("aacute", 'á'),
    ("acirc", 'â'),
    ("ccedil", 'ç'),
    ("egrave", 'è'),
    ("eacute", 'é'),
    ("ecirc", 'ê'),
    ("iacute", 'í'),
    ("ntilde", 'ñ'),
    ("oacute", 'ó'),
    ("ocirc", 'ô'),
    ("uacute", 'ú'),
    ("aring", 'å'),
    ("oslash", 'ø'),
    ("aelig", 'æ'),
    ("Eacute", 'É'),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_markup_that_never_ends_is_not_slow() {
        let pieces = ["<a ", "<a '", "<a \"<a '", "<!-- ", "</", "<style>", "&", "<a href='", "<pre>", "<a>"];
        for piece in pieces {
            for html in [piece.repeat(200_000), format!("{}>", piece.repeat(200_000))] {
                let start = std::time::Instant::now();
                from_html(&html);
                // Linear work takes a tenth of a second without optimisation, quadratic work hours.
                assert!(start.elapsed().as_secs() < 20, "{piece}");
            }
        }
    }

    #[test]
    fn html_becomes_text() {
        let rows = [
            (
                "<h1>Hello</h1>\n<p>Dear  <b>Ada</b>,<br>welcome &amp; enjoy</p>",
                "Hello\n\nDear Ada,\nwelcome & enjoy\n",
            ),
            ("<a href=\"https://x.example/?a=1&amp;b=2\">Read more</a>!", "Read more <https://x.example/?a=1&b=2>!\n"),
            ("<a href='https://x.example/'>https://x.example/</a>", "https://x.example/\n"),
            ("<a href=mailto:a@x.example>a@x.example</a> <a href='#top'>top</a>", "a@x.example top\n"),
            ("<a href='https://x.example/'><img src=x alt='Logo'></a>", "Logo <https://x.example/>\n"),
            ("<ul><li>one<li>two</ul>after", "- one\n- two\n\nafter\n"),
            ("<style>p > a { }</style><script>if (a<b) '</scr'</script><!-- <p> -->x", "x\n"),
            ("1 < 2 &lt; 3 &#8364; &#x41; &unknown; & &", "1 < 2 < 3 € A &unknown; & &\n"),
            ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\nc\n"),
            ("<pre>a\n  b</pre>c", "a\n  b\n\nc\n"),
            ("a&nbsp;&nbsp;b&#0;&#13;&#10;c", "a b c\n"),
            ("<a title=\"a>b\" href='https://x.example'>y</a><b", "y <https://x.example><b\n"),
            ("<p></p><div> </div>", ""),
            ("", ""),
        ];
        for (html, text) in rows {
            assert_eq!(from_html(html), text, "{html}");
        }
    }
}
