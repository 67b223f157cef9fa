//! One aligned line per event: exits and signals.

use jiff::tz::TimeZone;
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use super::{escape::escape, lines::Style, net};
use crate::{model::Owner, pipeline::EventRow};

const CONTAINER: usize = 20;
const COMM: usize = 16;

/// The line that names the columns of a lens, if it has any.
pub fn header(lens: &str) -> Option<String> {
    match lens {
        "exits" => Some(format!(
            "{:8}  {:CONTAINER$}  {:>7}  {:COMM$} {:>8}  {:14} CAUSE\n",
            "TIME", "CONTAINER", "PID", "COMM", "LIVED", "HOW"
        )),
        "signals" => Some(format!(
            "{:8}  {:CONTAINER$}  {:12} {:28}  {:24}  RESULT\n",
            "TIME", "CONTAINER", "SIGNAL", "FROM", "TO"
        )),
        _ => None,
    }
}

pub fn line(row: &EventRow, style: &Style) -> Option<String> {
    match row.event {
        "exit" => Some(exit(row, &style.zone)),
        "signal" => Some(signal(row, &style.zone)),
        "packet" => Some(net::packet_line(row, &style.zone)),
        _ => None,
    }
}

/// What happened, in one line without time, container and process. Not escaped.
pub fn summary(row: &EventRow) -> String {
    let field = |key: &str| row.fields.get(key).unwrap_or(&Value::Null);
    let text = |key: &str| field(key).as_str().unwrap_or("?").to_owned();
    match row.event {
        "exit" => {
            let lived = field("lifetime_ns").as_u64().map_or_else(String::new, |ns| format!(" after {}", span(ns)));
            let code = field("exit_code").as_u64().map_or_else(|| text("signal"), |code| format!("exit {code}"));
            format!("{code}{lived}")
        }
        "signal" => {
            let sender = &field("sender")["process"];
            let from = sender["comm"]
                .as_str()
                .map_or_else(|| "the kernel".to_owned(), |comm| format!("{comm} {}", sender["pid"]));
            let init = if field("to_init") == &Value::Bool(true) { " to PID 1" } else { "" };
            let count = field("count").as_u64().filter(|count| *count > 1);
            let times = count.map_or_else(String::new, |count| format!(", {count} times"));
            format!("{}{init} from {from}: {}, {}{times}", text("signal"), text("result"), text("disposition"))
        }
        "packet" => net::packet_way(row),
        other => other.to_owned(),
    }
}

fn exit(row: &EventRow, zone: &TimeZone) -> String {
    let field = |key: &str| row.fields.get(key).unwrap_or(&Value::Null);
    let process = row.process.as_ref();
    let comm = process.map_or_else(String::new, |process| escape(&process.comm).into_owned());
    let pid = process.map_or(0, |process| process.pid);
    let how = match (field("signal").as_str(), field("exit_code").as_u64()) {
        (Some(signal), _) if field("core") == &Value::Bool(true) => format!("{signal} (core)"),
        (Some(signal), _) => signal.to_owned(),
        (None, Some(code)) => format!("exit {code}"),
        (None, None) => "unknown".to_owned(),
    };
    let cause = &field("cause");
    let finding = cause["finding"].as_str().unwrap_or("");
    let text = match cause["kind"].as_str().unwrap_or("") {
        "oom" => format!("OOM kill ({finding})"),
        "init-died" => "PID 1 of the container died".to_owned(),
        "crash" => field("fault_address")
            .as_str()
            .map_or_else(|| "its own fault".to_owned(), |at| format!("its own fault at {at}")),
        "signal" => match cause["by"]["process"]["comm"].as_str() {
            Some(by) => {
                let mut chain = format!("{} ({})", escape(by), cause["by"]["process"]["pid"]);
                for via in cause["via"].as_array().into_iter().flatten() {
                    chain.push_str(&format!(
                        " for {} ({})",
                        escape(via["process"]["comm"].as_str().unwrap_or("?")),
                        via["process"]["pid"]
                    ));
                }
                chain
            }
            None => row.unknown.get("cause").cloned().unwrap_or_else(|| "the kernel".to_owned()),
        },
        _ => String::new(),
    };
    let lived = field("lifetime_ns").as_u64().map_or_else(|| "?".to_owned(), span);
    let line = format!(
        "{}  {}  {pid:>7}  {} {lived:>8}  {how:14} {text}",
        row.time.clock(zone),
        pad(&label(&row.container), CONTAINER),
        pad(&comm, COMM),
    );
    line.trim_end().to_owned() + "\n"
}

fn signal(row: &EventRow, zone: &TimeZone) -> String {
    let field = |key: &str| row.fields.get(key).unwrap_or(&Value::Null);
    let sender = field("sender");
    let from = match sender["process"]["comm"].as_str() {
        Some(comm) => {
            let place =
                sender["container"]["name"].as_str().or_else(|| sender["container"]["id"].as_str()).unwrap_or("host");
            format!(
                "{} {} ({})",
                escape(comm),
                sender["process"]["pid"],
                escape(&place.chars().take(12).collect::<String>())
            )
        }
        None => "the kernel".to_owned(),
    };
    let process = row.process.as_ref();
    let to = process.map_or_else(String::new, |process| {
        let init = if field("to_init") == &Value::Bool(true) { " PID 1" } else { "" };
        format!("{} {}{init}", escape(&process.comm), process.pid)
    });
    let mut result =
        format!("{}, {}", field("result").as_str().unwrap_or("?"), field("disposition").as_str().unwrap_or("?"));
    if let Some(count) = field("count").as_u64().filter(|count| *count > 1) {
        result.push_str(&format!(", {count} times"));
    }
    format!(
        "{}  {}  {:12} {}  {}  {result}\n",
        row.time.clock(zone),
        pad(&label(&row.container), CONTAINER),
        field("signal").as_str().unwrap_or("?"),
        pad(&from, 28),
        pad(&to, 24),
    )
}

fn label(container: &Owner) -> String {
    container.as_ref().map_or_else(|| "host".to_owned(), |container| escape(&container.label()).into_owned())
}

/// To a width in columns; longer text is cut, and shows it.
fn pad(text: &str, width: usize) -> String {
    let mut cut = String::new();
    let mut used = 0;
    for char in text.chars() {
        let own = unicode_width::UnicodeWidthChar::width(char).unwrap_or(0);
        if used + own > width.saturating_sub(usize::from(text.width() > width)) {
            cut.push('…');
            used += 1;
            break;
        }
        cut.push(char);
        used += own;
    }
    cut + &" ".repeat(width.saturating_sub(used))
}

/// `0.4ms`, `9.8s`, `3h12m`, `5d4h`.
fn span(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    match seconds {
        0 => format!("{:.1}ms", ns as f64 / 1e6),
        1..60 => format!("{:.1}s", ns as f64 / 1e9),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}
