//! A run for a terminal.

use std::collections::BTreeMap;

use super::events::{Event, Mark, Story};
use crate::run::Outcome;

/// So many events lead up to a bad one, for people.
const LED_UP: usize = 20;
/// So many lines of a difference are shown.
const LINES: usize = 40;

fn sign(mark: Mark) -> &'static str {
    match mark {
        Mark::Plain | Mark::Begins | Mark::Ends => " ",
        Mark::Call => "·",
        Mark::Fault => "!",
        Mark::Script => ">",
        Mark::Bad => "X",
    }
}

fn line(event: &Event) -> String {
    let epoch = event.epoch.map_or(String::new(), |epoch| format!("e{epoch}"));
    let lane = event.lanes.first().map_or("", String::as_str);
    format!("{:>9} {} {:<4} {:<24} {}\n", event.at.to_string(), sign(event.mark), epoch, lane, event.text)
}

/// What happened but calls, lane by lane in a column, with epochs and faults; then what led up to the first bad event.
pub fn lanes(story: &Story) -> String {
    let mut text =
        String::from("     time   epoch lane                     what (! fault, > script, X broken)\n");
    let told = story.events.iter().filter(|event| event.mark != Mark::Call);
    text.extend(told.map(line));
    if story.bad.is_some() {
        text.push_str("\nwhat led up to it, as far as lanes connect it (· a call that changes something):\n");
        text.extend(story.led_up(LED_UP).into_iter().map(line));
    }
    text
}

/// What differs between two runs in what happened, whatever the times: `-` without, `+` with.
pub fn difference(without: &Story, with: &Story) -> String {
    let told = |story: &Story| -> Vec<(String, String)> {
        let events = story.events.iter().filter(|event| event.mark != Mark::Call);
        events.map(|event| (event.text.clone(), line(event))).collect()
    };
    let (before, after) = (told(without), told(with));
    let mut text = String::new();
    let mut lines = 0;
    for (sign, line) in diff(&before, &after) {
        lines += 1;
        if lines > LINES {
            text.push_str("  (and more)\n");
            break;
        }
        text.push_str(&format!("{sign} {line}"));
    }
    if text.is_empty() { "nothing differs in what happened\n".to_owned() } else { text }
}

/// The lines that only one of two lists has, by the longest common subsequence of their texts.
fn diff<'a>(before: &'a [(String, String)], after: &'a [(String, String)]) -> Vec<(char, &'a str)> {
    let same_begin = before.iter().zip(after).take_while(|(left, right)| left.0 == right.0).count();
    let (left, right) = (&before[same_begin..], &after[same_begin..]);
    let width = right.len() + 1;
    let mut common = vec![0_u32; (left.len() + 1) * width];
    for row in (0..left.len()).rev() {
        for column in (0..right.len()).rev() {
            common[row * width + column] = if left[row].0 == right[column].0 {
                common[(row + 1) * width + column + 1] + 1
            } else {
                common[(row + 1) * width + column].max(common[row * width + column + 1])
            };
        }
    }
    let (mut row, mut column) = (0, 0);
    let mut told = Vec::new();
    while row < left.len() || column < right.len() {
        let same = row < left.len() && column < right.len() && left[row].0 == right[column].0;
        if same {
            row += 1;
            column += 1;
        } else if column == right.len()
            || row < left.len() && common[(row + 1) * width + column] >= common[row * width + column + 1]
        {
            told.push(('-', left[row].1.as_str()));
            row += 1;
        } else {
            told.push(('+', right[column].1.as_str()));
            column += 1;
        }
    }
    told
}

/// Who called most, a line each.
pub fn busiest(outcome: &Outcome, most: usize) -> String {
    let mut calls: BTreeMap<(String, &str, &str), u64> = BTreeMap::new();
    for site in &outcome.sites {
        let role = site.actor.split('@').next().unwrap_or_default().to_owned();
        *calls.entry((role, site.workflow, site.operation)).or_default() += u64::from(site.calls);
    }
    let mut calls: Vec<_> = calls.into_iter().collect();
    calls.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let seconds = outcome.timings.simulated_ms.max(1000) / 1000;
    let line = |((role, workflow, operation), count): ((String, &str, &str), u64)| {
        format!("{count:>8} {:>5}/s {role} {workflow} {operation}\n", count / seconds)
    };
    calls.into_iter().take(most).map(line).collect()
}
