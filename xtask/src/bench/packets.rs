//! The load of a network: small packets of a container, out of its device and through a veth pair, as fast as is asked for.
//! Both ends of the pair, which other loads of a network use too, are in network namespaces of its own.

use std::{
    fs, io,
    net::UdpSocket,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    checks::on_a_processor,
    load::{Pace, fork, reap},
};
use crate::process;

/// TEST-NET-1: nobody's.
const INSIDE: &str = "192.0.2.1";
pub(super) const OUTSIDE: &str = "192.0.2.2";
pub(super) const PORT: u16 = 4711;
const BYTES: usize = 64;
/// A tool that asks which namespaces are containers' does so once a second.
const SEEN: Duration = Duration::from_millis(2500);

/// When the first packet was sent.
pub fn send(count: u32, rate: u32) -> Result<Instant> {
    Ok(through_the_pair(count, rate)?.0)
}

/// The time that it took both ends on a processor, each on one of its own, if there are two.
pub fn flood(count: u32) -> Result<Duration> {
    Ok(through_the_pair(count, 0)?.1)
}

/// When the first packet was sent, and the time that all of them took sender and receiver on a processor.
fn through_the_pair(count: u32, rate: u32) -> Result<(Instant, Duration)> {
    let (mut built, mut build) = io::pipe()?;
    let (mut took, mut taken_by_sender) = io::pipe()?;
    let _pair = Pair::make(move || {
        let socket = UdpSocket::bind((INSIDE, 0))?;
        io::Read::read_exact(&mut built, &mut [0])?;
        let pace = Pace { start: Instant::now(), rate };
        let packet = [0; BYTES];
        let before = on_a_processor();
        for number in 0..count {
            pace.wait(number);
            // A full queue is a packet that was not sent: the load says so by its rate.
            let _ = socket.send_to(&packet, (OUTSIDE, PORT));
        }
        let time = on_a_processor().saturating_sub(before);
        io::Write::write_all(&mut taken_by_sender, &time.as_secs_f64().to_ne_bytes())?;
        Ok(())
    })?;
    let sink = UdpSocket::bind((OUTSIDE, PORT)).context("the other end's port")?;
    sink.set_nonblocking(true)?;
    keep_many(&sink)?;
    thread::sleep(SEEN);
    let start = Instant::now();
    io::Write::write_all(&mut build, &[1])?;
    let (mut taken, mut came) = (0_u32, Instant::now());
    let before = on_a_processor();
    // Never asleep in a call: who wakes whom how often would be most of the time, and hangs on which of the two is faster.
    while taken < count && came.elapsed() < Duration::from_millis(500) {
        while sink.recv(&mut [0; BYTES]).is_ok() {
            (taken, came) = (taken + 1, Instant::now());
        }
        thread::sleep(Duration::from_micros(500));
    }
    let received = on_a_processor().saturating_sub(before);
    if taken == 0 {
        bail!("no packet came through the pair");
    }
    let mut sent = [0; 8];
    io::Read::read_exact(&mut took, &mut sent).context("the sender did not say what it took")?;
    Ok((start, received + Duration::from_secs_f64(f64::from_ne_bytes(sent))))
}

/// Room for what comes while nobody looks.
fn keep_many(socket: &UdpSocket) -> Result<()> {
    let bytes: i32 = 64 << 20;
    // SAFETY: a number of that size, which the call only reads.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            size_of_val(&bytes) as libc::socklen_t,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error()).context("room in the other end's socket");
    }
    Ok(())
}

/// A veth pair from here, on the second processor, to a process of a container, on the first.
pub(super) struct Pair {
    inside: i32,
    _group: Container,
}

impl Pair {
    /// `inside` is what that process does, once its address is there; it ends with the pair. What it captures is its alone.
    pub(super) fn make(inside: impl FnOnce() -> Result<()>) -> Result<Self> {
        own_network()?;
        let here = network_of("self")?;
        let group = Container::make()?;
        let procs = group.0.join("cgroup.procs");
        let inside = fork(move || {
            // SAFETY: only asks for a signal when the parent has ended.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let inside = || -> Result<()> {
                fs::write(&procs, "0")?;
                own_network()?;
                on_cpu(0);
                // The pair's end comes from the other side.
                while UdpSocket::bind((INSIDE, 0)).is_err() {
                    thread::sleep(Duration::from_millis(10));
                }
                inside()
            };
            let failed = inside().inspect_err(|error| eprintln!("the container's end: {error:#}")).is_err();
            // SAFETY: ends the child without the parent's destructors.
            unsafe { libc::_exit(i32::from(failed)) }
        })?;
        let pair = Self { inside, _group: group };
        while network_of(&inside.to_string())? == here {
            thread::sleep(Duration::from_millis(10));
        }
        wire(inside)?;
        on_cpu(1);
        Ok(pair)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // SAFETY: our own child, not reaped yet.
        unsafe { libc::kill(self.inside, libc::SIGKILL) };
        let _ = reap(self.inside);
    }
}

fn network_of(process: &str) -> Result<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/net")).context("the container's end is gone")
}

/// On that one alone, where it is there.
fn on_cpu(number: usize) {
    // SAFETY: a set of bits, all of which may be 0, and a call that only reads it.
    unsafe {
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(number, &mut one);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const one);
    }
}

fn own_network() -> Result<()> {
    // SAFETY: no memory is shared with what it changes.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error()).context("a network namespace");
    }
    Ok(())
}

/// A pair from here to that process's namespace.
fn wire(pid: i32) -> Result<()> {
    let script = format!(
        "ip link add outside type veth peer name eth0 netns {pid} && ip addr add {OUTSIDE}/30 dev outside && \
         ip link set outside up && nsenter --net=/proc/{pid}/ns/net sh -c \
         'ip link set lo up && ip addr add {INSIDE}/30 dev eth0 && ip link set eth0 up'"
    );
    process::output(Command::new("sh").args(["-c", &script])).context("a veth pair").map(|_| ())
}

/// A cgroup in Docker's form: by its path it is a container.
struct Container(PathBuf);

impl Container {
    fn make() -> Result<Self> {
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let top = Path::new(if unified { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" });
        let group = Self(top.join("docker").join(format!("{:064x}", std::process::id())));
        fs::create_dir_all(&group.0).with_context(|| format!("a cgroup below {}", top.display()))?;
        Ok(group)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
        // Others' containers may be there.
        let _ = self.0.parent().map(fs::remove_dir);
    }
}
