//! JUnit XML: what most machines that run tests can show.

use std::time::Duration;

/// A test.
#[derive(Debug, Clone)]
pub struct Test {
    /// The group it belongs to.
    pub group: String,
    /// Its name.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// What failed: a line, and everything.
    pub failed: Option<(String, String)>,
}

/// The tests as a document.
pub fn document(suite: &str, tests: &[Test]) -> String {
    let failed = tests.iter().filter(|test| test.failed.is_some()).count();
    let took: f64 = tests.iter().map(|test| test.took.as_secs_f64()).sum();
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    text.push_str(&format!(
        "<testsuites>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{failed}\" time=\"{took:.3}\">\n",
        escaped(suite),
        tests.len()
    ));
    for test in tests {
        let (group, name, took) = (escaped(&test.group), escaped(&test.name), test.took.as_secs_f64());
        text.push_str(&format!("<testcase classname=\"{group}\" name=\"{name}\" time=\"{took:.3}\""));
        match &test.failed {
            None => text.push_str("/>\n"),
            Some((line, all)) => text.push_str(&format!(
                ">\n<failure message=\"{}\">{}</failure>\n</testcase>\n",
                escaped(line),
                escaped(all)
            )),
        }
    }
    text.push_str("</testsuite>\n</testsuites>\n");
    text
}

/// A text as XML and HTML have it; what XML cannot hold at all is left out.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(letter),
            letter if letter.is_control() => {}
            letter => out.push(letter),
        }
    }
    out
}
