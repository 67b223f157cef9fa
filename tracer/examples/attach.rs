use tracer::kernel::{load::*, plan};
fn main() {
    let t = std::time::Instant::now();
    let mut k = Kernel::attach(&Wishes { probes: vec![&plan::OOM_DECISION,&plan::OOM_DONE,&plan::OOM_VICTIM,&plan::OOM_SHARER,&plan::EXIT,&plan::EXEC,&plan::CGROUP_MKDIR,&plan::CGROUP_RMDIR], ring_bytes: 1<<20, all_exits: true }).unwrap();
    println!("attached in {:?}", t.elapsed());
    for t in &k.taken { println!("{}: {:?} {:?}", t.probe.name, t.branch.map(|b| b.hook), t.refused); }
    for l in std::fs::read_to_string("/proc/self/status").unwrap().lines().filter(|l| l.starts_with("VmRSS")||l.starts_with("VmHWM")) { println!("{l}"); }
    let end = std::time::Instant::now() + std::time::Duration::from_secs(std::env::args().nth(1).map_or(2, |s| s.parse().unwrap()));
    while std::time::Instant::now() < end {
        k.drain(1000, |r| println!("{}", u32::from_le_bytes(r[..4].try_into().unwrap())));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    println!("{:?}", k.losses());
}
