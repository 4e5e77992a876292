//! Templates and expressions: minijinja with strict undefined values, no escaping but by the filters below, and
//! no way to read a file.

use std::borrow::Cow;
use std::collections::BTreeSet;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, Expression, Template, UndefinedBehavior, Value};
use sha2::{Digest as _, Sha256};

/// What went wrong in a template: the line within it, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TemplateError {
    pub(crate) line: usize,
    pub(crate) message: String,
}

const TOO_LONG: &str = "it runs too long";

impl TemplateError {
    /// How many steps were taken before, about.
    pub(crate) fn steps(&self) -> u64 {
        if self.message.starts_with(TOO_LONG) { FUEL } else { FUEL / 100 }
    }
}

impl From<minijinja::Error> for TemplateError {
    fn from(error: minijinja::Error) -> Self {
        let message = match error.detail() {
            _ if error.kind() == ErrorKind::OutOfFuel => format!("{TOO_LONG}: more than {FUEL} steps"),
            Some(detail) => format!("{}: {detail}", error.kind()),
            None => error.kind().to_string(),
        };
        TemplateError { line: error.line().unwrap_or(1), message }
    }
}

/// The most steps that one rendering may take: those of the embedded blueprints take some hundreds.
pub(crate) const FUEL: u64 = 100_000;

/// Renders templates and evaluates expressions.
#[derive(Debug)]
pub(crate) struct Templates(Environment<'static>);

impl Templates {
    pub(crate) fn new() -> Self {
        let mut environment = Environment::empty();
        environment.set_fuel(Some(FUEL));
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        let mut syntax = SyntaxConfig::builder();
        syntax.keep_trailing_newline(true).trim_blocks(true).lstrip_blocks(true);
        environment.set_syntax(syntax.build().expect("the delimiters are the usual ones"));
        environment.add_filter("redis", redis);
        environment.add_filter("pgconf", pgconf);
        environment.add_filter("conninfo", conninfo);
        environment.add_filter("sql", sql);
        environment.add_filter("ident", ident);
        environment.add_filter("pgpass", pgpass);
        environment.add_filter("urlencode", urlencode);
        environment.add_filter("hex", |number: u64| format!("{number:X}"));
        environment.add_filter("sha256", sha256);
        environment.add_filter("default", minijinja::filters::default);
        environment.add_filter("join", minijinja::filters::join);
        environment.add_filter("length", minijinja::filters::length);
        environment.add_filter("lower", minijinja::filters::lower);
        environment.add_filter("upper", minijinja::filters::upper);
        environment.add_filter("replace", minijinja::filters::replace);
        environment.add_filter("max", minijinja::filters::max);
        environment.add_filter("min", minijinja::filters::min);
        environment.add_filter("map", minijinja::filters::map);
        environment.add_filter("int", minijinja::filters::int);
        environment.add_filter("string", minijinja::filters::string);
        environment.add_filter("reject", minijinja::filters::reject);
        environment.add_filter("select", minijinja::filters::select);
        environment.add_filter("list", minijinja::filters::list);
        environment.add_test("in", minijinja::tests::is_in);
        environment.add_test("none", minijinja::tests::is_none);
        environment.add_test("defined", minijinja::tests::is_defined);
        Templates(environment)
    }

    pub(crate) fn render(&self, source: &str, context: &Value) -> Result<String, TemplateError> {
        Ok(self.0.render_str(source, context.clone())?)
    }

    pub(crate) fn evaluate(&self, expression: &str, context: &Value) -> Result<Value, TemplateError> {
        Ok(self.0.compile_expression(expression)?.eval(context.clone())?)
    }

    pub(crate) fn holds(&self, expression: &str, context: &Value) -> Result<bool, TemplateError> {
        Ok(self.evaluate(expression, context)?.is_true())
    }

    /// A template that is to be rendered many times.
    pub(crate) fn template<'t>(&'t self, source: &'t str) -> Result<Prepared<'t>, TemplateError> {
        Ok(Prepared::Template(self.0.template_from_str(source)?))
    }

    /// An expression that is to be evaluated many times.
    pub(crate) fn expression<'t>(&'t self, source: &'t str) -> Result<Prepared<'t>, TemplateError> {
        Ok(Prepared::Expression(self.0.compile_expression(source)?))
    }

    /// The variables a template names, as dotted paths: those in branches that are not taken, too.
    pub(crate) fn names(&self, source: &str) -> Result<BTreeSet<String>, TemplateError> {
        Ok(self.0.template_from_str(source)?.undeclared_variables(true).into_iter().collect())
    }

    /// The variables an expression names.
    pub(crate) fn names_of_expression(&self, expression: &str) -> Result<BTreeSet<String>, TemplateError> {
        Ok(self.0.compile_expression(expression)?.undeclared_variables(true).into_iter().collect())
    }
}

/// A template or an expression, parsed.
pub(crate) enum Prepared<'t> {
    Template(Template<'t, 't>),
    Expression(Expression<'t, 't>),
}

impl Prepared<'_> {
    /// The text it makes, and how many steps that has taken, about.
    pub(crate) fn text(&self, context: &Value) -> Result<(String, u64), TemplateError> {
        match self {
            Prepared::Template(template) => {
                let captured = template.render_captured(context.clone())?;
                let steps = captured.state().fuel_levels().map_or(FUEL, |(consumed, _)| consumed);
                Ok((captured.into_output(), steps))
            }
            // It has no loops: as long as it is written.
            Prepared::Expression(expression) => Ok((expression.eval(context.clone())?.to_string(), 10)),
        }
    }
}

/// Double-quoted for `redis.conf`.
fn redis(text: Cow<'_, str>) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => {
                quoted.push('\\');
                quoted.push(char::from(byte));
            }
            0x20..=0x7e => quoted.push(char::from(byte)),
            other => quoted.push_str(&format!("\\x{other:02x}")),
        }
    }
    quoted.push('"');
    quoted
}

/// Single-quoted for `postgresql.conf`.
fn pgconf(text: Cow<'_, str>) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Single-quoted for a connection string.
fn conninfo(text: Cow<'_, str>) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// An SQL literal.
fn sql(text: Cow<'_, str>) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// An SQL identifier.
fn ident(text: Cow<'_, str>) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// A field of a `.pgpass` file.
fn pgpass(text: Cow<'_, str>) -> String {
    text.replace('\\', "\\\\").replace(':', "\\:")
}

/// Percent-encoded for a part of a URI.
fn urlencode(text: Cow<'_, str>) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// The SHA-256 of a text, in hexadecimal digits: an identifier that follows from names.
fn sha256(text: Cow<'_, str>) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use minijinja::context;

    use super::*;

    #[test]
    fn values_are_quoted_for_where_they_go() {
        let templates = Templates::new();
        let evil = context! { x => "a'b\"c\\d $e;f:g" };
        for (template, wanted) in [
            ("{{ x | redis }}", "\"a'b\\\"c\\\\d $e;f:g\""),
            ("{{ x | pgconf }}", "'a''b\"c\\\\d $e;f:g'"),
            ("{{ x | conninfo }}", "'a\\'b\"c\\\\d $e;f:g'"),
            ("{{ x | sql }}", "E'a''b\"c\\\\d $e;f:g'"),
            ("{{ x | ident }}", "\"a'b\"\"c\\d $e;f:g\""),
            ("{{ x | pgpass }}", "a'b\"c\\\\d $e;f\\:g"),
            ("{{ x | urlencode }}", "a%27b%22c%5Cd%20%24e%3Bf%3Ag"),
            ("{{ ('a' | sha256)[:8] }}", "ca978112"),
        ] {
            assert_eq!(templates.render(template, &evil).unwrap(), wanted, "{template}");
        }
    }

    #[test]
    fn undefined_names_are_errors_with_their_line() {
        let error = Templates::new().render("a\nb {{ missing }}", &context! {}).unwrap_err();
        assert_eq!(error.line, 2);
        assert!(error.message.contains("undefined"), "{error:?}");
    }
}
