//! One page for each run that a person can open: what happened when, what was wrong, how to repeat it. It needs nothing
//! but itself: styles and pictures are inside.

use crate::history::{Fault, History, Op};
use crate::outcome::Outcome;
use crate::run::{Failure, Finished};
use crate::stats::GRACE;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

const WIDTH: f64 = 1100.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 60.0;
/// Latencies from a tenth of a millisecond to ten seconds.
const DECADES: std::ops::RangeInclusive<i32> = 2..=7;
/// More points than these are not told apart by an eye; operations that did not succeed are all drawn.
const MOST_POINTS: usize = 5000;
const MOST_ANOMALIES: usize = 20;

/// What the page says about the run besides what was found.
pub struct Title<'a> {
    pub workload: &'a str,
    pub promise: &'a str,
    pub nemesis: &'a str,
    pub fault: &'a str,
    pub seed: u64,
    pub repeat: &'a str,
    pub commit: &'a str,
}

/// Text that may stand in a page.
fn safe(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// Where a moment is drawn.
fn across(at: u64, end: u64) -> f64 {
    LEFT + (WIDTH - LEFT) * (at.min(end) as f64 / end.max(1) as f64)
}

/// Where a latency is drawn, on a scale of decades.
fn height(us: u64) -> f64 {
    let (low, high) = (f64::from(*DECADES.start()), f64::from(*DECADES.end()));
    let place = ((us.max(1) as f64).log10().clamp(low, high) - low) / (high - low);
    HEIGHT - 20.0 - place * (HEIGHT - 40.0)
}

fn class(op: &Op) -> &'static str {
    match op.outcome {
        Outcome::Ok(_) => "ok",
        Outcome::Failed(_) => "fail",
        Outcome::Open(_) => "info",
        Outcome::Broken(_) => "broken",
    }
}

/// Latency over time, with a band for each fault: dark while it lasted, light until all nodes served again.
fn picture(history: &History) -> String {
    let end = history.ops.iter().map(|op| op.to).max().unwrap_or(1);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"latency over time\">");
    for (number, fault) in history.faults.iter().enumerate() {
        for (class, from, to) in [("fault", fault.begin, fault.healed), ("heal", fault.healed, fault.recovered)] {
            let (x, to) = (across(from, end), across(to, end));
            let _ = write!(
                svg,
                "<rect class=\"{class}\" x=\"{x:.1}\" y=\"10\" width=\"{:.1}\" height=\"{}\"><title>{number}: {}</title></rect>",
                (to - x).max(1.0),
                HEIGHT - 30.0,
                safe(&fault.what)
            );
        }
    }
    for decade in DECADES {
        let y = height(10u64.pow(decade as u32));
        let name = ["0.1 ms", "1 ms", "10 ms", "100 ms", "1 s", "10 s"][(decade - DECADES.start()) as usize];
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"4\" y=\"{:.1}\">{name}</text>",
            y + 4.0
        );
    }
    let whole = seconds(end);
    let step =
        [1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 600.0].into_iter().find(|s| whole / s <= 15.0).unwrap_or(3600.0);
    for mark in 0..=(whole / step) as u64 {
        let at = mark as f64 * step;
        let _ = write!(svg, "<text x=\"{:.1}\" y=\"{}\">{at} s</text>", across((at * 1e6) as u64, end), HEIGHT - 4.0);
    }
    let every = (history.ops.len() / MOST_POINTS).max(1);
    for (number, op) in history.ops.iter().enumerate().filter(|(n, op)| n % every == 0 || !op.is_ok()) {
        let (x, y, class) = (across(op.from, end), height(op.to - op.from), class(op));
        let _ = write!(svg, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.6\"/>");
        if class == "broken" {
            let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\">#{number}</text>");
        }
    }
    svg.push_str("</svg>");
    svg
}

fn pause_text(pause: Option<Duration>) -> String {
    pause.map_or("no majority".to_owned(), |p| format!("{} ms", p.as_millis()))
}

fn fault_rows(faults: &[Fault], pauses: &[Option<Duration>]) -> String {
    let row = |(number, fault): (usize, &Fault)| {
        let pause = pause_text(pauses.get(number).copied().flatten());
        format!(
            "<tr><td>{number}</td><td>{:.1}</td><td>{:.1}</td><td>{:.1}</td><td>{}</td><td>{}</td><td>{pause}</td></tr>\n",
            seconds(fault.begin),
            seconds(fault.healed),
            seconds(fault.recovered),
            safe(&fault.what),
            safe(&fault.proof),
        )
    };
    faults.iter().enumerate().map(row).collect()
}

fn failure_items(failures: &[Failure]) -> String {
    let item = |failure: &Failure| {
        let (kind, what) = match failure {
            Failure::System(what) => ("the system", what),
            Failure::NoProof(what) => ("proves nothing", what),
            Failure::Harness(what) => ("the harness", what),
        };
        format!("<li><b>{kind}</b>: {}</li>\n", safe(what))
    };
    failures.iter().take(MOST_ANOMALIES).map(item).collect()
}

fn anomalies(finished: &Finished) -> String {
    let mut text = String::new();
    for anomaly in finished.verdict.anomalies.iter().take(MOST_ANOMALIES) {
        let _ = write!(text, "<h3>{}</h3><p>{}</p><pre>", safe(&anomaly.kind), safe(&anomaly.what));
        for op in &anomaly.ops {
            let _ = writeln!(text, "{}", safe(&op.story()));
        }
        text.push_str("</pre>\n");
    }
    let rest = finished.verdict.anomalies.len().saturating_sub(MOST_ANOMALIES);
    if rest > 0 {
        let _ = write!(text, "<p>and {rest} more</p>");
    }
    text
}

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:1140px;margin:2em auto;padding:0 1em;color:#1d2430}\
    table{border-collapse:collapse}td,th{padding:.2em .8em .2em 0;text-align:left;vertical-align:top}\
    th{border-bottom:1px solid #999}pre{background:#f4f5f7;padding:.8em;overflow-x:auto}\
    svg{width:100%;height:auto;background:#fbfbfc;border:1px solid #ddd}svg text{font-size:11px;fill:#666}\
    .grid{stroke:#e3e5e9}.fault{fill:#e9b3a8;opacity:.55}.heal{fill:#f3dfb0;opacity:.5}.ok{fill:#3d7a5a;opacity:.45}\
    .fail{fill:#c98a1b}.info{fill:#b03a2e}.broken{fill:#6a1b9a}.passed{color:#2d6a4a}.failed{color:#b03a2e}";

pub fn page(title: &Title<'_>, finished: &Finished) -> String {
    let Finished { history, verdict, stats, failures } = finished;
    let name = format!("{} under {}", title.workload, title.nemesis);
    let (class, result) = if failures.is_empty() { ("passed", "passed") } else { ("failed", "failed") };
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{name}: {result}</title><style>{STYLE}</style>\n\
         <h1>{name}: <span class=\"{class}\">{result}</span></h1>\n\
         <p>Promised: {}.<br>What goes wrong: {}.</p>\n<ul>{}</ul>\n",
        safe(title.promise),
        safe(title.fault),
        failure_items(failures),
    );
    page.push_str(&picture(history));
    let availability = stats.availability.map_or("-".to_owned(), |a| format!("{:.2} %", a * 100.0));
    let _ = write!(
        page,
        "<p><span class=\"ok\">&#9679;</span> ok, orange: certainly not applied, red: unknown, violet: never to be answered. Red band: \
         a fault; yellow: until all nodes served again.</p>\n\
         <h2>Figures</h2><table>\n\
         <tr><td>operations</td><td>{} in {:.0} s: {} ok, {} not applied, {} unknown</td></tr>\n\
         <tr><td>latency of what succeeded</td><td>p50 {:.1} ms, p99 {:.1} ms, most {:.0} ms</td></tr>\n\
         <tr><td>answered on the majority's side</td><td>{}</td></tr>\n\
         <tr><td>groups served on the majority's side</td><td>{availability} of the time (interruptions over {} ms)</td></tr>\n\
         <tr><td>judged</td><td>{}</td></tr>\n<tr><td>commit, seed</td><td>{}, {}</td></tr>\n\
         <tr><td>repeat</td><td><code>{}</code> (the same faults and commands; their interleaving is the machine's)</td></tr>\n</table>\n",
        stats.ops,
        stats.seconds,
        stats.ok,
        stats.failed,
        stats.open,
        stats.p50 as f64 / 1e3,
        stats.p99 as f64 / 1e3,
        stats.most as f64 / 1e3,
        stats.answered.map_or("-".to_owned(), |a| format!("{:.3} % of the operations", a * 100.0)),
        GRACE.as_millis(),
        safe(&verdict.notes.join("; ")),
        safe(title.commit),
        title.seed,
        safe(title.repeat),
    );
    let _ = write!(
        page,
        "<h2>Faults</h2><table><tr><th>#</th><th>from s</th><th>healed</th><th>served</th><th>what</th><th>seen by</th>\
         <th>longest pause of a group</th></tr>\n{}</table>\n",
        fault_rows(&history.faults, &stats.pauses)
    );
    if !verdict.anomalies.is_empty() {
        let _ = write!(page, "<h2>Anomalies</h2>\n{}", anomalies(finished));
    }
    page.push_str("<p>Every operation is in <code>history.jsonl</code>, the nodes' logs are in <code>node-*/log</code>.</p></html>\n");
    page
}

pub fn write(folder: &Path, title: &Title<'_>, finished: &Finished) -> anyhow::Result<()> {
    std::fs::write(folder.join("report.html"), page(title, finished))?;
    Ok(())
}
