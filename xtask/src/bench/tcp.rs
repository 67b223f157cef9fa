//! TCP of a container, through the same pair as its packets: one stream as fast as iperf3 can, then a byte there and a byte back
//! over and over (as netperf's TCP_RR). Each run with a tool has one without it next to it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    checks::on_a_processor,
    packets::{OUTSIDE, PORT, Pair},
};

/// Of each tool: two processors, shared with whatever else runs there, are too noisy for fewer.
pub const PAIRS: u32 = 10;
const TRANSACTIONS: u32 = 20_000;
/// Not counted: caches and the congestion window get warm.
const FIRST: u32 = 1_000;
const STREAM_SECONDS: &str = "2";
const IPERF3_PORT: u16 = 5201;
const PATIENCE: Duration = Duration::from_secs(10);
/// A tool that asks which namespaces are containers' does so once a second; this one is there before the tool is.
const SEEN: Duration = Duration::from_millis(1500);

/// By metric.
type Found = BTreeMap<String, f64>;

const STREAM: &str = "Gbit/s";
const RATE: &str = "transactions/s";
const MEDIAN: &str = "median us";
const P99: &str = "p99 us";
const CPU: &str = "CPU ns/transaction";
pub const STREAM_LEFT: &str = "Gbit/s left, %";
const RATE_LEFT: &str = "transactions/s left, %";
pub const MORE_CPU: &str = "more CPU ns/transaction";

/// What the table shows: the metric as it is kept, and its heading.
pub const COLUMNS: [(&str, &str); 12] = [
    ("without Gbit/s", "stream without it, Gbit/s"),
    (STREAM, "stream with it, Gbit/s"),
    (STREAM_LEFT, "stream with it, % of without"),
    ("without transactions/s", "transactions a second without it"),
    (RATE, "transactions a second with it"),
    (RATE_LEFT, "transactions with it, % of without"),
    ("without median us", "a transaction's median without it, µs"),
    (MEDIAN, "a transaction's median with it, µs"),
    ("without p99 us", "99 % of transactions without it, µs"),
    (P99, "99 % of transactions with it, µs"),
    (CPU, "CPU ns per transaction with it, both ends"),
    (MORE_CPU, "CPU ns per transaction more than without"),
];

/// A run without a tool and one with it, as one row of values.
pub fn beside(without: &Found, with: &Found) -> Found {
    let mut found = with.clone();
    found.extend(without.iter().map(|(metric, value)| (format!("without {metric}"), *value)));
    let both = |metric: &str| Some((*without.get(metric)?, *with.get(metric)?));
    for (left, metric) in [(STREAM_LEFT, STREAM), (RATE_LEFT, RATE)] {
        found.extend(both(metric).map(|(without, with)| (left.to_owned(), 100.0 * with / without)));
    }
    found.extend(both(CPU).map(|(without, with)| (MORE_CPU.to_owned(), with - without)));
    found
}

/// The load's own process, which stays while tools come and go.
pub struct Load {
    process: Child,
    asks: Option<ChildStdin>,
    says: BufReader<ChildStdout>,
}

impl Load {
    pub fn start() -> Result<Self> {
        let mut load = Command::new("/proc/self/exe");
        load.args(["bench-load", "tcp", &TRANSACTIONS.to_string()]);
        let mut process = load.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot run the load")?;
        let asks = process.stdin.take();
        let says = BufReader::new(process.stdout.take().context("the load has no output")?);
        Ok(Self { process, asks, says })
    }

    /// With a tool or without, after the time that a tool takes to see the container.
    pub fn run(&mut self) -> Result<Found> {
        thread::sleep(SEEN);
        let asks = self.asks.as_mut().context("the load has no input")?;
        asks.write_all(b"\n").context("the load is gone")?;
        let mut said = String::new();
        self.says.read_line(&mut said)?;
        serde_json::from_str(&said).context("the load did not say what it found")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It ends with its input.
        self.asks = None;
        let _ = self.process.wait();
    }
}

const A_STREAM: u8 = b's';
const TRANSACTIONS_NOW: u8 = b't';

/// In the load's process: for each line that it is told one run, and a line of what was found.
pub fn serve(transactions: u32) -> Result<()> {
    let (mut told, mut tell) = io::pipe()?;
    let (answers, mut answer) = io::pipe()?;
    let _pair = Pair::make(move || {
        let mut what = [0];
        loop {
            told.read_exact(&mut what)?;
            let found = if what[0] == A_STREAM { stream()? } else { ask(transactions)? };
            answer.write_all(format!("{}\n", serde_json::to_string(&found)?).as_bytes())?;
        }
    })?;
    let mut answers = BufReader::new(answers);
    let mut answered = || -> Result<Found> {
        let mut line = String::new();
        answers.read_line(&mut line)?;
        serde_json::from_str(&line).context("the container's end has failed")
    };
    let _iperf3 = Iperf3::serve()?;
    let listener = TcpListener::bind((OUTSIDE, PORT)).context("the other end's port")?;
    listener.set_nonblocking(true)?;
    for line in io::stdin().lines() {
        line?;
        tell.write_all(&[A_STREAM])?;
        let mut found = answered()?;
        tell.write_all(&[TRANSACTIONS_NOW])?;
        let cpu_here = answer_all(&accepted(&listener)?, transactions)?;
        found.extend(answered()?);
        if let Some(cpu) = found.get_mut(CPU) {
            *cpu += cpu_here.as_nanos() as f64 / f64::from(transactions);
        }
        println!("{}", serde_json::to_string(&found)?);
    }
    Ok(())
}

/// The next connection, if the container's end is still there to make one.
fn accepted(listener: &TcpListener) -> Result<TcpStream> {
    let start = Instant::now();
    loop {
        match listener.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock && start.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(1));
            }
            accepted => return Ok(accepted.context("the container's end has not connected")?.0),
        }
    }
}

/// What came through in the container's stream.
fn stream() -> Result<Found> {
    let mut client = Command::new("iperf3");
    client.args(["--client", OUTSIDE, "--time", STREAM_SECONDS, "--json"]);
    // What failed stands in the report.
    let output = client.stdin(Stdio::null()).output().context("cannot run iperf3")?;
    Ok(Found::from([(STREAM.to_owned(), received(&String::from_utf8_lossy(&output.stdout))? / 1e9)]))
}

/// Bits a second, as the receiver counted them.
fn received(report: &str) -> Result<f64> {
    let report: serde_json::Value = serde_json::from_str(report).context("iperf3's report is not JSON")?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    report["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .context("iperf3's report has no rate of what was received")
}

struct Iperf3(Child);

impl Iperf3 {
    fn serve() -> Result<Self> {
        let mut server = Command::new("setpriv");
        server.args(["--pdeathsig", "KILL", "iperf3", "--server", "--bind", OUTSIDE]);
        let server = Self(server.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("cannot run iperf3")?);
        let start = Instant::now();
        while !listens(&fs::read_to_string("/proc/self/net/tcp")?, IPERF3_PORT) {
            if start.elapsed() > PATIENCE {
                bail!("iperf3 does not listen");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }
}

impl Drop for Iperf3 {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Is there a listener on that port in /proc/net/tcp?
fn listens(table: &str, port: u16) -> bool {
    const LISTEN: &str = "0A";
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let own = fields.next().is_some_and(|address| address.ends_with(&format!(":{port:04X}")));
        own && fields.nth(1) == Some(LISTEN)
    })
}

/// The container's end of a conversation.
fn ask(transactions: u32) -> Result<Found> {
    let mut peer = TcpStream::connect((OUTSIDE, PORT))?;
    as_it_comes(&peer)?;
    for _ in 0..FIRST {
        exchange(&mut peer)?;
    }
    let mut times = Vec::with_capacity(transactions as usize);
    let (before, start) = (on_a_processor(), Instant::now());
    let mut last = start;
    for _ in 0..transactions {
        exchange(&mut peer)?;
        let now = Instant::now();
        times.push(now - last);
        last = now;
    }
    let cpu = on_a_processor().saturating_sub(before);
    times.sort_unstable();
    let us = |part: usize| times.get(times.len() * part / 100).map_or(0.0, |time| time.as_nanos() as f64 / 1e3);
    Ok(Found::from([
        (RATE.to_owned(), f64::from(transactions) / (last - start).as_secs_f64()),
        (MEDIAN.to_owned(), us(50)),
        (P99.to_owned(), us(99)),
        (CPU.to_owned(), cpu.as_nanos() as f64 / f64::from(transactions)),
    ]))
}

fn exchange(peer: &mut TcpStream) -> io::Result<()> {
    peer.write_all(&[1])?;
    peer.read_exact(&mut [0])
}

/// The other end: the time that it took on a processor.
fn answer_all(mut peer: &TcpStream, transactions: u32) -> Result<Duration> {
    as_it_comes(peer)?;
    let mut before = Duration::ZERO;
    for number in 0..FIRST + transactions {
        if number == FIRST {
            before = on_a_processor();
        }
        let mut byte = [0];
        peer.read_exact(&mut byte).context("the container's end stopped asking")?;
        peer.write_all(&byte)?;
    }
    Ok(on_a_processor().saturating_sub(before))
}

/// A byte leaves at once, and one that does not come is a failure.
fn as_it_comes(peer: &TcpStream) -> io::Result<()> {
    peer.set_nodelay(true)?;
    peer.set_read_timeout(Some(PATIENCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iperf3_says_what_was_received_or_why_not() {
        let report = r#"{"start":{}, "end":{"sum_sent":{"bits_per_second":2.5e10,"retransmits":3},
            "sum_received":{"seconds":2.0,"bits_per_second":24500000000.5}}}"#;
        assert!((received(report).unwrap() - 24_500_000_000.5).abs() < 1e-3);
        let refused = r#"{"start":{},"end":{},"error":"unable to connect to server: Connection refused"}"#;
        assert!(received(refused).unwrap_err().to_string().contains("Connection refused"));
        assert!(received(r#"{"end":{}}"#).unwrap_err().to_string().contains("no rate"));
        assert!(received("iperf3: command").is_err());
    }

    #[test]
    fn a_listener_is_told_from_a_connection() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue\n";
        let of =
            |port: &str, state: &str| format!("{head}   0: 020200C0:{port} 00000000:1451 {state} 00000000:00000000\n");
        assert!(listens(&of("1451", "0A"), IPERF3_PORT));
        assert!(!listens(&of("1451", "01"), IPERF3_PORT));
        assert!(!listens(&of("1452", "0A"), IPERF3_PORT));
        assert!(!listens(head, IPERF3_PORT));
    }

    #[test]
    fn a_pair_says_what_is_left_and_what_more_it_took() {
        let run = |stream: f64, cpu: f64| Found::from([(STREAM.to_owned(), stream), (CPU.to_owned(), cpu)]);
        let found = beside(&run(20.0, 9000.0), &run(19.0, 9500.0));
        let of = |metric: &str| found.get(metric).copied();
        assert_eq!((of("without Gbit/s"), of(STREAM), of(STREAM_LEFT)), (Some(20.0), Some(19.0), Some(95.0)));
        assert_eq!((of(MORE_CPU), of(RATE_LEFT)), (Some(500.0), None));
        let shown = COLUMNS.map(|(metric, _)| metric);
        assert!(found.keys().all(|metric| shown.contains(&metric.as_str()) || metric == "without CPU ns/transaction"));
    }
}
