//! A run as one page: a timeline in lanes, which needs nothing from anywhere else.

use std::collections::BTreeMap;

use super::events::{Event, Mark, Story};
use super::junit::escaped;

const LANE: usize = 22;
const LEFT: usize = 230;
const WIDTH: usize = 1_600;
const TOP: usize = 30;

/// The page.
pub fn page(title: &str, story: &Story, notes: &str) -> String {
    let lanes = story.lanes();
    let end = story.events.iter().map(|event| event.at.millis()).max().unwrap_or(1).max(1);
    let row: BTreeMap<&str, usize> = lanes.iter().enumerate().map(|(row, lane)| (*lane, row)).collect();
    let mut body = String::new();
    grid(&mut body, &lanes, end);
    bars(&mut body, story, &row, end);
    for event in &story.events {
        marks(&mut body, event, &row, end);
    }
    let height = TOP + lanes.len() * LANE + 20;
    let width = LEFT + WIDTH + 20;
    let title = escaped(title);
    let (notes, style, script) = (escaped(notes), STYLE, SCRIPT);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{style}</style>\
         </head><body><h1>{title}</h1>\n<p><label>Only lanes that name <input id=\"only\" placeholder=\"orders-1\">\
         </label> <label><input type=\"checkbox\" id=\"calls\" checked> calls</label> — <b class=\"fault\">▲</b> \
         fault, <b class=\"script\">▼</b> script, <b class=\"bad\">✕</b> broken; bars are engines that run, by epoch, \
         and what is off or stands still. Point at a mark to read it.</p>\n\
         <svg width=\"{width}\" height=\"{height}\" role=\"img\">\n{body}</svg>\n<pre>{notes}</pre>\n\
         <script>{script}</script></body></html>\n"
    )
}

const STYLE: &str = "body{font:14px system-ui,sans-serif;margin:1.5em;color:#222;background:#fff}\
    h1{font-size:1.2em}svg{overflow:visible}svg text{font:11px ui-monospace,monospace;fill:#444}\
    .grid{stroke:#eee}.lane line{stroke:#ddd}.call{fill:#bbb}.plain{fill:#555}\
    .fault{fill:#c60;color:#c60}.script{fill:#06c;color:#06c}.bad{fill:#c00;color:#c00}\
    .badline{stroke:#c00;stroke-dasharray:4 3}.bar{opacity:.35}.hidden{display:none}pre{white-space:pre-wrap}";

const SCRIPT: &str = "const only=document.getElementById('only'),calls=document.getElementById('calls');\
    function show(){const want=only.value.trim();document.querySelectorAll('[data-lane]').forEach(e=>{\
    const off=want&&!e.dataset.lane.includes(want)&&!e.dataset.lane.startsWith('rule')||\
    e.classList.contains('call')&&!calls.checked;e.classList.toggle('hidden',off)})}\
    only.addEventListener('input',show);calls.addEventListener('change',show);";

fn x(millis: u64, end: u64) -> usize {
    let along = u128::from(millis) * WIDTH as u128 / u128::from(end);
    LEFT + usize::try_from(along).unwrap_or(WIDTH)
}

fn y(row: usize) -> usize {
    TOP + row * LANE + LANE / 2
}

fn grid(body: &mut String, lanes: &[&str], end: u64) {
    let bottom = TOP + lanes.len() * LANE;
    let step = [1_000, 5_000, 10_000, 30_000, 60_000, 300_000].into_iter().find(|step| end / step <= 20);
    let step = step.unwrap_or(600_000);
    for at in (0..=end / step).map(|nth| nth * step) {
        let x = x(at, end);
        body.push_str(&format!(
            "<line class=\"grid\" x1=\"{x}\" y1=\"{TOP}\" x2=\"{x}\" y2=\"{bottom}\"/><text x=\"{x}\" y=\"18\">{}s</text>\n",
            at / 1000
        ));
    }
    for (row, lane) in lanes.iter().enumerate() {
        let (y, name) = (y(row), escaped(lane));
        let right = LEFT + WIDTH;
        body.push_str(&format!(
            "<g class=\"lane\" data-lane=\"{name}\"><line x1=\"{LEFT}\" y1=\"{y}\" x2=\"{right}\" y2=\"{y}\"/>\
             <text x=\"0\" y=\"{}\">{name}</text></g>\n",
            y + 4
        ));
    }
}

/// What lasts: in the first lane of its beginning, until the next end there.
fn bars(body: &mut String, story: &Story, row: &BTreeMap<&str, usize>, end: u64) {
    const COLOURS: [&str; 6] = ["#2a7", "#27c", "#a3c", "#c82", "#099", "#66a"];
    let mut open: BTreeMap<&str, &Event> = BTreeMap::new();
    let mut draw = |lane: &str, begin: &Event, until: u64| {
        let Some(row) = row.get(lane) else { return };
        let (from, to) = (x(begin.at.millis(), end), x(until, end));
        let colour = match begin.epoch {
            Some(epoch) => COLOURS[usize::try_from(epoch).unwrap_or(0) % COLOURS.len()],
            None => "#999",
        };
        body.push_str(&format!(
            "<rect class=\"bar\" data-lane=\"{}\" x=\"{from}\" y=\"{}\" width=\"{}\" height=\"12\" fill=\"{colour}\">\
             <title>{} {}</title></rect>\n",
            escaped(lane),
            y(*row) - 6,
            to.saturating_sub(from).max(2),
            begin.at,
            escaped(&begin.text)
        ));
    };
    for event in &story.events {
        let Some(lane) = event.lanes.first() else { continue };
        match event.mark {
            Mark::Begins => {
                if let Some(begin) = open.insert(lane, event) {
                    draw(lane, begin, event.at.millis());
                }
            }
            Mark::Ends => {
                if let Some(begin) = open.remove(lane.as_str()) {
                    draw(lane, begin, event.at.millis());
                }
            }
            _ => {}
        }
    }
    for (lane, begin) in open {
        draw(lane, begin, end);
    }
}

fn marks(body: &mut String, event: &Event, row: &BTreeMap<&str, usize>, end: u64) {
    let at = x(event.at.millis(), end);
    for lane in &event.lanes {
        let Some(row) = row.get(lane.as_str()) else { continue };
        let y = y(*row);
        let shape = match event.mark {
            Mark::Fault => format!("<path d=\"M{at} {} l6 11 h-12 z\"", y - 7),
            Mark::Script => format!("<path d=\"M{at} {} l6 -11 h-12 z\"", y + 7),
            Mark::Bad => format!(
                "<path d=\"M{0} {1} l10 10 m0 -10 l-10 10\" stroke=\"#c00\" stroke-width=\"3\"",
                at.saturating_sub(5),
                y - 5
            ),
            Mark::Call => format!("<circle cx=\"{at}\" cy=\"{y}\" r=\"2\""),
            Mark::Plain | Mark::Begins | Mark::Ends => format!("<circle cx=\"{at}\" cy=\"{y}\" r=\"4\""),
        };
        let class = match event.mark {
            Mark::Fault => "fault",
            Mark::Script => "script",
            Mark::Bad => "bad",
            Mark::Call => "call",
            Mark::Plain | Mark::Begins | Mark::Ends => "plain",
        };
        body.push_str(&format!(
            "{shape} class=\"{class}\" data-lane=\"{}\"><title>{} {}</title></{}>\n",
            escaped(lane),
            event.at,
            escaped(&event.text),
            if shape.starts_with("<path") { "path" } else { "circle" }
        ));
    }
}
