//! simrun
fn main() {
    let mut args = std::env::args().skip(1);
    let base: u64 = args.next().map_or(1, |a| a.parse().unwrap_or(1));
    let n: u64 = args.next().map_or(1, |a| a.parse().unwrap_or(1));
    let trace = args.next().is_some();
    let mut sum = catamaran::sim::Summary::default();
    for seed in base..base + n {
        let sink: Option<catamaran::sim::Sink> =
            if trace { Some(Box::new(|l| println!("{l}"))) } else { None };
        let plan = catamaran::sim::Plan::draw(seed);
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| catamaran::sim::run(plan, sink))) {
            Ok(Ok(s)) => sum.add(&s),
            Ok(Err(f)) => println!("FAIL seed={seed} {f}"),
            Err(_) => println!("PANIC seed={seed}"),
        }
    }
    println!("{sum:?}");
}
