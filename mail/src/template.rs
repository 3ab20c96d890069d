//! Templates: compiled once per definition, rendered once per recipient.
//!
//! A template sees the recipient and nothing else: no files, no network, no clock, no other templates
//! than the parts of its own definition. What it may use is bounded by fuel (steps), output bytes and
//! depth. Same recipient, same output.

use crate::message::{BuildError, Sender, headers};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};
use postrider_common::limits::TEMPLATE_BYTES_MAX;
use postrider_common::{MessageSpec, Recipient};
use std::collections::BTreeMap;
use std::io;

/// Steps of the engine for one part of one message. A long digest takes some thousands.
const FUEL_MAX: u64 = 200_000;
/// Depth of includes, macros and blocks. The engine's own bound of 500 overflows a thread of 2 MiB in a
/// build without optimisation.
const DEPTH_MAX: usize = 100;
/// Bytes that one part of one message may become.
pub const OUTPUT_BYTES_MAX: usize = 4 * 1024 * 1024;

const SUBJECT: &str = "template.subject";
const HTML: &str = "template.html";
const TEXT: &str = "template.text";
const HEADER: &str = "headers.";
/// The field that holds the address, unless the recipient has a field of that name.
const ADDRESS_FIELD: &str = "email";

/// Why a definition cannot be used for any recipient.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part}{}: {message}", position(*line, *column))]
pub struct TemplateError {
    /// `template.subject`, `template.html`, `headers.X-Name`, `from`, …
    pub part: String,
    /// From 1; 0: the part as a whole.
    pub line: usize,
    /// In characters, from 1; 0: not known.
    pub column: usize,
    pub message: String,
}

/// Why one recipient's message cannot be rendered. Its outcome is rejected with the code `render`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part}{}: {message}", position(*line, *column))]
pub struct RenderError {
    pub part: String,
    /// From 1; 0: the part as a whole.
    pub line: usize,
    /// In characters, from 1; 0: not known.
    pub column: usize,
    pub message: String,
}

impl RenderError {
    /// The word in the place of a reply code.
    pub const CODE: &'static str = "render";
}

fn position(line: usize, column: usize) -> String {
    match (line, column) {
        (0, _) => String::new(),
        (line, 0) => format!(" line {line}"),
        (line, column) => format!(" line {line}, column {column}"),
    }
}

/// The parts of one message, before they are encoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    pub subject: String,
    /// Empty: the message is text only.
    pub html: String,
    /// Empty: made from the HTML.
    pub text: String,
    /// In the order of their names.
    pub headers: Vec<(String, String)>,
}

/// The compiled templates of one definition.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    /// Names of the header fields, and of their templates.
    headers: Vec<(String, String)>,
    has_html: bool,
    has_text: bool,
}

impl Template {
    /// Compiles every part and checks what can be checked without a recipient: syntax, sizes, names of
    /// filters, tests and functions on the way an empty recipient takes, header names, addresses.
    pub fn compile(spec: &MessageSpec) -> Result<Self, TemplateError> {
        check_sender(spec)?;
        if spec.html.trim().is_empty() && spec.text.trim().is_empty() {
            return Err(whole(HTML, "both html and text are empty: give at least one"));
        }
        let mut parts = vec![(SUBJECT.to_owned(), &spec.subject)];
        let mut names: Vec<(String, String)> = Vec::new();
        for (name, source) in &spec.headers {
            let part = format!("{HEADER}{name}");
            headers::check_name(name).map_err(|why| whole(&part, why))?;
            if names.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                return Err(whole(&part, "the header is given twice: header names do not depend on case"));
            }
            names.push((name.clone(), part.clone()));
            parts.push((part, source));
        }
        let (has_html, has_text) = (!spec.html.is_empty(), !spec.text.is_empty());
        parts.extend(has_html.then(|| (HTML.to_owned(), &spec.html)));
        parts.extend(has_text.then(|| (TEXT.to_owned(), &spec.text)));

        let mut environment = environment();
        for (part, source) in &parts {
            if source.len() > TEMPLATE_BYTES_MAX {
                let why = format!("it has {} bytes, at most {TEMPLATE_BYTES_MAX} are allowed", source.len());
                return Err(whole(part, why));
            }
            environment
                .add_template_owned(part.clone(), (*source).clone())
                .map_err(|error| template_error(&error, part, source))?;
        }
        check_names(&environment, &parts)?;
        Ok(Self { environment, headers: names, has_html, has_text })
    }

    /// Renders every part for one recipient. Its fields are the variables, and `email` is its address
    /// unless a field has that name. A variable that is missing is an error, never an empty text; so is
    /// printing a null.
    pub fn render(&self, recipient: &Recipient) -> Result<Rendered, RenderError> {
        let variables = variables(recipient);
        let mut rendered = Rendered { subject: self.part(SUBJECT, &variables)?, ..Rendered::default() };
        if self.has_html {
            rendered.html = self.part(HTML, &variables)?;
        }
        if self.has_text {
            rendered.text = self.part(TEXT, &variables)?;
        }
        for (name, part) in &self.headers {
            rendered.headers.push((name.clone(), self.part(part, &variables)?));
        }
        Ok(rendered)
    }

    fn part(&self, part: &str, variables: &Value) -> Result<String, RenderError> {
        let failed = |error: &Error, source: &str| {
            let TemplateError { part, line, column, message } = template_error(error, part, source);
            RenderError { part, line, column, message }
        };
        let template = self.environment.get_template(part).map_err(|error| failed(&error, ""))?;
        let mut output = Limited(Vec::with_capacity(template.source().len() + 256));
        template
            .render_captured_to(variables.clone(), &mut output)
            .map_err(|error| failed(&error, template.source()))?;
        String::from_utf8(output.0).map_err(|_| RenderError {
            part: part.to_owned(),
            line: 0,
            column: 0,
            message: "the output is not UTF-8".into(),
        })
    }
}

fn variables(recipient: &Recipient) -> Value {
    let mut variables: BTreeMap<&str, Value> =
        recipient.fields.iter().map(|(name, value)| (name.as_str(), Value::from(Serde(value)))).collect();
    variables.entry(ADDRESS_FIELD).or_insert_with(|| Value::from(recipient.address.as_str()));
    Value::from(variables)
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // It would print every variable in reach into a mail.
    environment.remove_global("debug");
    environment.set_debug(false);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // By the part and never by what it is called: a subject is not HTML.
    environment.set_auto_escape_callback(|part| if part == HTML { AutoEscape::Html } else { AutoEscape::None });
    environment.set_fuel(Some(FUEL_MAX));
    environment.set_recursion_limit(DEPTH_MAX);
    environment.set_formatter(|output, state, value| {
        if value.is_none() {
            let why = "the value is null: use {{ name or 'other' }} or test it with {% if %}";
            return Err(Error::new(ErrorKind::UndefinedError, why));
        }
        minijinja::escape_formatter(output, state, value)
    });
    environment
}

/// An unknown filter is found by the engine only when it is reached, which is too late: all recipients
/// would be refused. So each part runs once with every variable missing, and only errors that do not
/// depend on the recipient count.
fn check_names(environment: &Environment<'static>, parts: &[(String, &String)]) -> Result<(), TemplateError> {
    let mut trial = environment.clone();
    trial.set_undefined_behavior(UndefinedBehavior::Chainable);
    for (part, source) in parts {
        let Ok(template) = trial.get_template(part) else { continue };
        let Err(error) = template.render_captured_to(Value::from(BTreeMap::<&str, Value>::new()), io::sink()) else {
            continue;
        };
        match error.kind() {
            ErrorKind::UnknownFilter
            | ErrorKind::UnknownTest
            | ErrorKind::UnknownFunction
            | ErrorKind::TemplateNotFound
            | ErrorKind::UnknownBlock => return Err(template_error(&error, part, source)),
            _ => {}
        }
    }
    Ok(())
}

fn check_sender(spec: &MessageSpec) -> Result<(), TemplateError> {
    Sender::new(spec, false).map(|_| ()).map_err(|error| match error {
        BuildError::Field { name, why } => whole(name, why),
        BuildError::Header { name, why } => whole(&format!("{HEADER}{name}"), why),
        BuildError::Body { part, why } => whole(part, why),
    })
}

fn whole(part: &str, message: impl Into<String>) -> TemplateError {
    TemplateError { part: part.to_owned(), line: 0, column: 0, message: message.into() }
}

/// The engine's error, with the position in the part that it happened in: an included part or, when the
/// engine names none, the part that was asked for.
fn template_error(error: &Error, part: &str, source: &str) -> TemplateError {
    let own = error.name().is_none_or(|name| name == part);
    let line = error.line().unwrap_or_default();
    let column = error.range().filter(|_| own).map(|range| column(source, range.start)).unwrap_or_default();
    let mut message = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it takes too many steps: a loop is too long".to_owned(),
        (ErrorKind::WriteFailure, _) => format!("it becomes longer than {OUTPUT_BYTES_MAX} bytes"),
        (kind, None) => kind.to_string(),
        (ErrorKind::SyntaxError, Some(detail)) => format!("syntax error: {detail}"),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
    };
    if error.kind() == ErrorKind::UndefinedError
        && let Some(name) = error.range().filter(|_| own).and_then(|range| source.get(range))
    {
        message = format!("{message} (in '{}')", name.trim());
    }
    let part = if own { part.to_owned() } else { error.name().unwrap_or(part).to_owned() };
    TemplateError { part, line, column, message }
}

fn column(source: &str, offset: usize) -> usize {
    let before = source.get(..offset).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    line.chars().count() + 1
}

/// Fuel does not bound output: one step may write a megabyte.
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    fn spec(subject: &str, html: &str, text: &str) -> MessageSpec {
        MessageSpec {
            from: "Acme <digest@acme.example>".into(),
            subject: subject.into(),
            html: html.into(),
            text: text.into(),
            ..MessageSpec::default()
        }
    }

    fn recipient(fields: Json) -> Recipient {
        let Json::Object(fields) = fields else { panic!("fields are an object") };
        Recipient { address: "ada@example.com".parse().unwrap(), key: "ada".into(), fields }
    }

    fn render(subject: &str, html: &str, fields: Json) -> Result<Rendered, RenderError> {
        Template::compile(&spec(subject, html, "")).unwrap().render(&recipient(fields))
    }

    #[test]
    fn only_html_is_escaped() {
        let mut spec = spec("{{ n }}", "<p>{{ n }}", "{{ n }} {{ email }}");
        spec.headers.insert("X-Name".into(), "{{ n }}".into());
        let rendered = Template::compile(&spec).unwrap().render(&recipient(json!({"n": "a<b>&'c"}))).unwrap();
        assert_eq!(rendered.subject, "a<b>&'c");
        assert_eq!(rendered.html, "<p>a&lt;b&gt;&amp;&#x27;c");
        assert_eq!(rendered.text, "a<b>&'c ada@example.com");
        assert_eq!(rendered.headers, [("X-Name".to_owned(), "a<b>&'c".to_owned())]);
    }

    #[test]
    fn a_field_named_email_wins_over_the_address() {
        assert_eq!(render("{{ email }}", "x", json!({"email": "x"})).unwrap().subject, "x");
        assert_eq!(render("{{ email }}", "x", json!({})).unwrap().subject, "ada@example.com");
    }

    #[test]
    fn a_missing_or_null_value_is_an_error_and_never_printed() {
        for (html, fields) in [
            ("Hi\n {{ name }},", json!({})),
            ("Hi\n {{ name }},", json!({"name": null})),
            ("Hi\n {{ a.name }},", json!({"a": {}})),
            ("Hi\n {{ a.b.name }},", json!({"a": {}})),
        ] {
            let error = render("s", html, fields.clone()).unwrap_err();
            assert_eq!((error.part.as_str(), error.line), (HTML, 2), "{html} {fields}: {error}");
        }
        let fields = json!({"name": null});
        let html = "{{ name or 'friend' }}{% if name %}x{% endif %}{{ other|default('y') }}";
        assert_eq!(render("s", html, fields).unwrap().html, "friendy");
    }

    #[test]
    fn errors_carry_line_and_column() {
        let rows = [
            ("a\n  {{ b ", 2),
            ("a\n{% if x %}", 2),
            ("one\ntwo {{ x|no_such_filter }}", 2),
            ("{% include 'other.html' %}", 1),
            ("{{ no_such_function() }}", 1),
            ("{{ debug() }}", 1),
        ];
        for (html, line) in rows {
            let error = Template::compile(&spec("s", html, "")).unwrap_err();
            assert_eq!((error.part.as_str(), error.line), (HTML, line), "{html}: {error}");
            assert!(error.column > 0, "{html}: {error}");
        }
        let error = Template::compile(&spec("a {{ é }", "x", "")).unwrap_err();
        assert_eq!((error.part.as_str(), error.line), (SUBJECT, 1), "{error}");
        let error = render("s", "é {{ name }}", json!({})).unwrap_err();
        assert_eq!((error.line, error.column), (1, 6), "{error}");
    }

    type Change = fn(&mut MessageSpec);

    #[test]
    fn what_no_message_can_have_is_refused_when_compiled() {
        let cases: [(&str, Change); 8] = [
            ("from", |s| s.from = "nobody".into()),
            ("from", |s| s.from = "A <a@acme.example>\r\nBcc: x@example.com".into()),
            ("from", |s| s.from = "a@acme.example, b@acme.example".into()),
            ("reply_to", |s| s.reply_to = "x".into()),
            ("return_path", |s| s.return_path = "x y".into()),
            ("headers.Bcc", |s| drop(s.headers.insert("Bcc".into(), "x".into()))),
            ("headers.X-A\r\nBcc", |s| drop(s.headers.insert("X-A\r\nBcc".into(), "x".into()))),
            ("template.html", |s| s.html = " ".into()),
        ];
        for (part, change) in cases {
            let mut spec = spec("s", "x", "");
            change(&mut spec);
            let error = Template::compile(&spec).map(|_| ()).unwrap_err();
            assert_eq!(error.part, part, "{error}");
        }
    }

    #[test]
    fn loops_output_and_depth_are_bounded() {
        let fields = json!({"big": "x".repeat(60_000), "list": vec![0; 1000]});
        let rows = [
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "{% for i in list %}{{ big }}{% endfor %}",
            "{{ 'x' * 90000000 }}",
            "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
            "{% include 'template.html' %}",
        ];
        for html in rows {
            let template = Template::compile(&spec("s", html, "")).unwrap();
            let (template, recipient) = (&template, recipient(fields.clone()));
            let result = std::thread::scope(|scope| {
                let thread = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
                thread.spawn_scoped(scope, move || template.render(&recipient)).unwrap().join().unwrap()
            });
            assert!(result.is_err(), "{html}");
        }
    }

    #[test]
    fn a_field_cannot_pass_for_markup_or_template() {
        let fields = json!({"n": "{{ email }}{% raw %}", "o": {"__minijinja_ValueHandle": 1}});
        assert_eq!(render("{{ n }}", "x{{ o }}", fields).unwrap().subject, "{{ email }}{% raw %}");
    }
}
