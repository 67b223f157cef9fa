//! Medians and the tables that show them.

use super::{
    here::Samples,
    load::Kind,
    subjects::{Group, Maker, Subject},
    tcp,
};

/// What is made of `asked ns/…` of a tool and of nobody.
const SLOWER: &str = "slower ns/";

/// The middle one, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Three digits are what medians of a few rounds are good for.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 9999.5 => format!("{:.0} k", value / 1000.0),
        large if large >= 99.95 || large == 0.0 => format!("{value:.0}"),
        large if large >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn cell(values: &[f64]) -> String {
    let Some(median) = median(values) else { return "–".to_owned() };
    let (low, high) =
        values.iter().fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(*value), high.max(*value)));
    if number(low) == number(high) {
        return number(median);
    }
    format!("{} ({}–{})", number(median), number(low), number(high))
}

/// What to show of a group: the metric as it is kept, and its heading.
fn columns(group: &Group) -> Vec<(String, String)> {
    let plain = |metric: &str, heading: &str| (metric.to_owned(), heading.to_owned());
    if group.loads == [Kind::Tcp] {
        return tcp::COLUMNS.map(|(metric, heading)| plain(metric, heading)).into();
    }
    let mut columns = Vec::new();
    if !group.in_guest {
        columns.push(plain("attached ms", "start to attached, ms"));
        columns.push(plain("steady MB", "resident after 2 s, MB"));
        columns.push(plain("peak MB", "peak, MB"));
    }
    for kind in group.loads {
        let event = kind.event();
        if kind.is_timed() {
            columns.push((format!("asked ns/{event}"), format!("CPU ns per {event}, of the load")));
            columns.push((format!("{SLOWER}{event}"), format!("slow-down, ns per {event}")));
            columns.push((format!("cpu ns/{event}"), format!("tool's CPU ns per {event}")));
            continue;
        }
        let cost = if group.in_guest { "kernel instructions" } else { "kernel ns" };
        columns.push((format!("kernel ns/{event}"), format!("{cost} per {event}")));
        columns.push((format!("hits/{event}"), format!("hits per {event}")));
        columns.push((format!("ns/hit of {event}"), format!("{cost} per hit of {event}s")));
        if !group.in_guest {
            columns.push((format!("cpu ns/{event}"), format!("tool's CPU ns per {event}")));
            columns.push((format!("{event}s/s"), format!("{event}s a second, as they came")));
        }
    }
    if group.in_guest {
        columns.push(plain("verified", "instructions verified, in all"));
    } else {
        columns.push(plain("loaded peak MB", "peak under load, MB"));
        columns.push(plain("missing", "events not shown"));
        columns.push(plain("said lost", "of these said to be lost"));
    }
    columns
}

/// By how much the load is slower in each round than nobody's in the same round: what else the machine does changes slowly.
fn slower(group: &Group, samples: &Samples) -> Samples {
    let mut samples = samples.clone();
    let nobody = group.subjects.iter().find(|subject| subject.maker == Maker::Nobody);
    for event in group.loads.iter().map(|kind| kind.event()) {
        let asked = format!("asked ns/{event}");
        let alone = nobody.and_then(|nobody| samples.get(nobody.name)?.get(&asked).cloned());
        let Some(alone) = alone else { continue };
        for subject in group.subjects.iter().filter(|subject| subject.maker != Maker::Nobody) {
            let Some(own) = samples.get_mut(subject.name) else { continue };
            let times =
                own.get(&asked).map(|times| times.iter().zip(&alone).map(|(time, alone)| time - alone).collect());
            own.extend(times.map(|times| (format!("{SLOWER}{event}"), times)));
        }
    }
    samples
}

/// One row a metric, one column a tool; beside each peer, ctrace's share of it.
pub fn table(group: &Group, samples: &Samples) -> String {
    let samples = &slower(group, samples);
    let subjects: Vec<&Subject> = group.subjects.iter().filter(|subject| samples.contains_key(subject.name)).collect();
    let mut rows = vec![std::iter::once(String::new()).chain(subjects.iter().map(|s| s.name.to_owned())).collect()];
    for (metric, heading) in columns(group) {
        let values = |subject: &Subject| samples[subject.name].get(&metric).map_or(&[][..], Vec::as_slice);
        let ours = subjects.iter().find(|subject| subject.maker == Maker::Ctrace);
        let ours = ours.and_then(|subject| median(values(subject)));
        // Nobody counts it here, or nobody lost anything.
        if metric != "missing" && subjects.iter().all(|subject| values(subject).iter().all(|value| *value == 0.0)) {
            continue;
        }
        let nobodys = subjects.iter().find(|subject| subject.maker == Maker::Nobody);
        let alone = nobodys.and_then(|subject| median(values(subject)));
        // What is with and without is beside each other already.
        let pairs = group.loads == [Kind::Tcp];
        let compared = !pairs && !["missing", "said lost"].contains(&metric.as_str()) && !metric.ends_with("s/s");
        let mut row = vec![heading];
        for subject in &subjects {
            let mut text = cell(values(subject));
            if let (Some(ours), Some(theirs)) = (ours, median(values(subject)))
                && subject.maker != Maker::Ctrace
                && compared
                && theirs > 0.0
            {
                text += &format!(" → ×{}", number(ours / theirs));
            }
            if let (Some(alone), Some(own)) = (alone, median(values(subject)))
                && subject.maker != Maker::Nobody
                && metric.ends_with("s/s")
                && !pairs
            {
                text += &format!(", ×{} of nobody's", number(own / alone));
            }
            row.push(text);
        }
        rows.push(row);
    }
    aligned(&rows)
}

/// Markdown that is a table for the eye as well.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &[String]| {
        let cells: Vec<String> = widths
            .iter()
            .zip(row)
            .map(|(width, cell)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
            .collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        text += &line(row);
        if number == 0 {
            text += &line(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>());
        }
    }
    text
}

/// Each goal with what was found, and whether it is met.
pub fn goals(group: &Group, samples: &Samples) -> String {
    let samples = &slower(group, samples);
    let mut text = String::new();
    let of = |maker: Maker, metric: &str| {
        let subject = group.subjects.iter().find(|subject| subject.maker == maker)?;
        median(samples.get(subject.name)?.get(metric)?)
    };
    let mut goal = |what: &str, found: Option<f64>, bound: Option<f64>| {
        let (Some(found), Some(bound)) = (found, bound) else { return };
        let verdict = if found <= bound { "met" } else { "**not met**" };
        text += &format!("* {what}: {verdict} ({} against {})\n", number(found), number(bound));
    };
    let ours = |metric: &str| of(Maker::Ctrace, metric);
    if !group.in_guest {
        let attached = "attached ms";
        goal(
            "attached within twice the time of libbpf-tools",
            ours(attached),
            of(Maker::Libbpf, attached).map(|t| 2.0 * t),
        );
        goal("attached in a third of bpftrace's time", ours(attached), of(Maker::Bpftrace, attached).map(|t| t / 3.0));
        goal("resident under 10 MB", ours("steady MB"), Some(10.0));
        goal("peak under 30 MB, under load as well", ours("loaded peak MB"), Some(30.0));
    }
    if group.loads == [Kind::Tcp] {
        let taken = |maker: Maker| of(maker, tcp::STREAM_LEFT).map(|left| 100.0 - left);
        let counting = Maker::Bpftrace;
        goal("less % of the stream taken than by bpftrace, by device", taken(Maker::Ctrace), taken(counting));
        let more = ours(tcp::MORE_CPU);
        goal("less CPU ns per transaction than bpftrace, by device", more, of(counting, tcp::MORE_CPU));
        return text + &noise(group, samples);
    }
    let mut alone = None;
    for kind in group.loads.iter().filter(|kind| kind.is_timed()) {
        let metric = format!("{SLOWER}{}", kind.event());
        let peers = group.subjects.iter().filter(|subject| subject.maker == Maker::Bpftrace);
        let peers = peers.filter_map(|subject| median(samples.get(subject.name)?.get(&metric)?));
        let best = peers.min_by(f64::total_cmp);
        if *kind == Kind::Floods {
            goal("less than the best of the others", ours(&metric), best);
            goal("below 3 % of a CPU at 100,000 a second, with all that it costs", ours(&metric), Some(300.0));
            let nobody = group.subjects.iter().find(|subject| subject.maker == Maker::Nobody);
            let nobodys =
                nobody.and_then(|nobody| samples.get(nobody.name)?.get(&format!("asked ns/{}", kind.event())));
            alone = nobodys
                .map(|values| format!("* nobody's runs took {}: what lies within that is noise\n", cell(values)));
        } else {
            goal(
                "less than half of the slow-down of the best of the others",
                ours(&metric),
                best.map(|best| best / 2.0),
            );
        }
    }
    for kind in group.loads.iter().filter(|kind| !kind.is_timed()) {
        let event = kind.event();
        for (maker, whose) in [(Maker::Libbpf, "libbpf-tools'"), (Maker::Bpftrace, "bpftrace's")] {
            for (metric, what) in [
                (format!("ns/hit of {event}"), format!("cost per hit of {event}s")),
                (format!("kernel ns/{event}"), format!("cost per {event}, all hits together,")),
            ] {
                goal(&format!("{what} no more than {whose}"), ours(&metric), of(maker, &metric));
            }
        }
        if *kind == Kind::Packets {
            goal(
                "below 3 % of a CPU at 100,000 a second, in the programs",
                ours(&format!("kernel ns/{event}")),
                Some(300.0),
            );
        }
    }
    let silent = ours("missing").zip(ours("said lost")).map(|(missing, said)| (missing - said).max(0.0));
    goal("no event is lost without being counted", silent, Some(0.0));
    text + &alone.unwrap_or_default()
}

/// How far apart two runs are that nothing tells apart.
fn noise(group: &Group, samples: &Samples) -> String {
    let nobody = group.subjects.iter().find(|subject| subject.maker == Maker::Nobody);
    let nobodys = |metric: &str| samples.get(nobody?.name)?.get(metric).map(|values| cell(values));
    let (Some(left), Some(more)) = (nobodys(tcp::STREAM_LEFT), nobodys(tcp::MORE_CPU)) else { return String::new() };
    format!(
        "* nobody beside nobody: {left} % of the stream, {more} ns per transaction more; what lies within that is noise\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::subjects::by_name;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.0, 0.123, 9.999, 12.34, 99.96, 1234.5, 12345.0].map(number);
        assert_eq!(shown, ["0", "0.12", "10.0", "12.3", "100", "1234", "12 k"]);
        assert_eq!(cell(&[3.0, 1.0, 2.0]), "2.00 (1.00–3.00)");
        assert_eq!(cell(&[2.0, 2.0]), "2.00");
        assert_eq!(cell(&[]), "–");
    }

    fn samples(of: &[(&str, &str, f64)]) -> Samples {
        let mut samples = Samples::new();
        for (subject, metric, value) in of {
            samples.entry((*subject).to_owned()).or_default().insert((*metric).to_owned(), vec![*value]);
        }
        samples
    }

    #[test]
    fn ratios_are_ctraces_share_of_its_peers() {
        let group = by_name("exits").unwrap();
        let found = samples(&[
            ("ctrace exits", "attached ms", 30.0),
            ("exitsnoop", "attached ms", 20.0),
            ("ctrace exits", "kernel ns/exit", 900.0),
            ("exitsnoop", "kernel ns/exit", 600.0),
        ]);
        let table = table(group, &found);
        assert!(table.contains("20.0 → ×1.50") && table.contains("| ctrace exits |"), "{table}");
        let goals = goals(group, &found);
        assert!(goals.contains("libbpf-tools: met (30.0 against 40.0)"), "{goals}");
        assert!(goals.contains("together, no more than libbpf-tools': **not met** (900 against 600)"), "{goals}");
        assert!(!goals.contains("bpftrace"), "nothing is compared with what was not measured");
    }

    #[test]
    fn pairs_are_compared_by_what_is_left_of_a_stream() {
        let group = by_name("net-tcp").unwrap();
        let mut found = samples(&[
            ("ctrace net", tcp::STREAM_LEFT, 98.0),
            ("bpftrace, by device", tcp::STREAM_LEFT, 97.0),
            ("bpftrace, drops", tcp::STREAM_LEFT, 99.5),
            ("ctrace net", tcp::MORE_CPU, 800.0),
            ("bpftrace, by device", tcp::MORE_CPU, 700.0),
            ("nobody", tcp::STREAM_LEFT, 100.2),
            ("nobody", tcp::MORE_CPU, -20.0),
        ]);
        let said = goals(group, &found);
        assert!(said.contains("by bpftrace, by device: met (2.00 against 3.00)"), "{said}");
        assert!(said.contains("than bpftrace, by device: **not met** (800 against 700)"), "{said}");
        assert!(said.contains("nobody beside nobody: 100 % of the stream, -20.0 ns"), "{said}");
        let table = table(group, &found);
        assert!(table.contains("% of without") && !table.contains('×'), "{table}");
        found.remove("bpftrace, by device");
        assert!(!goals(group, &found).contains("met"), "bpftrace of another kind is not compared");
    }

    #[test]
    fn slow_downs_are_against_nobody_and_the_best() {
        let group = by_name("caps").unwrap();
        let asked = "asked ns/check";
        let mut found = samples(&[
            ("ctrace caps", asked, 250.0),
            ("bpftrace, in a map", asked, 400.0),
            ("bpftrace, printed", asked, 7000.0),
            ("nobody", asked, 150.0),
        ]);
        let text = table(group, &found);
        let row = text.lines().find(|line| line.contains("slow-down")).unwrap();
        assert!(row.contains("| 100 ") && row.contains("250 → ×0.40") && row.contains("6850"), "{text}");
        assert!(goals(group, &found).contains("best of the others: met (100 against 125)"));
        found.get_mut("ctrace caps").unwrap().insert(asked.to_owned(), vec![280.0]);
        assert!(goals(group, &found).contains("best of the others: **not met** (130 against 125)"));
    }
}
