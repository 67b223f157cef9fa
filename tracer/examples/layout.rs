fn main() {
    for path in std::env::args().skip(1) {
        let t = std::time::Instant::now();
        let data = std::fs::read(&path).unwrap();
        let read = t.elapsed();
        let l = tracer::kernel::layout::Layout::from_btf(data).unwrap();
        println!("== {path} read {read:?} all {:?}", t.elapsed());
        for (g, why) in &l.absent { println!("  absent {g}: {why}"); }
        for (g, v) in l.all() { if g.starts_with("STAT") || g.contains("SHAPE") || g.contains("STRIDE") || g.contains("HAS_") || g.contains("SUBSYS") { print!(" {g}={}", v as i32); } }
        println!();
    }
}
