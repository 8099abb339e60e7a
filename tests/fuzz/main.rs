//! Whatever comes from outside is read without a panic, in bounded time and memory, and what is believed of it keeps its
//! promises. Each target mutates good inputs for `FUZZ_SECONDS` seconds (default 2); `FUZZ_SEED` gives other mutations.
//! The input at work stands in a file, which a failure names: it is there even if the process died.

mod mutate;
mod targets;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use mutate::Mutator;

/// Longest that one input may take, on a busy machine.
const SLOWEST: Duration = Duration::from_secs(10);
/// Most memory that the whole process may ever have taken.
const MOST_MEMORY_KIB: u64 = 1 << 20;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// Runs a target over mutations of its seeds.
fn fuzz(name: &str, seeds: &[&[u8]], target: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    std::fs::create_dir_all(&folder).expect("the folder is made");
    let path = folder.join(name);
    let file = File::create(&path).expect("the file is made");
    let budget = Duration::from_secs(number("FUZZ_SECONDS", 2));
    let mut mutator = Mutator::new(number("FUZZ_SEED", 1), seeds);
    let began = Instant::now();
    let mut inputs = 0u64;
    while began.elapsed() < budget {
        let input = mutator.next();
        file.set_len(input.len() as u64).and_then(|()| file.write_all_at(&input, 0)).expect("the input is kept");
        let at = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| target(&input)));
        assert!(ended.is_ok(), "{name} panicked: {} has the input", path.display());
        assert!(at.elapsed() < SLOWEST, "{name} took {:?}: {} has the input", at.elapsed(), path.display());
        inputs += 1;
    }
    let peak = peak_kib();
    assert!(peak < MOST_MEMORY_KIB, "the process took {} MiB: run one target alone to see which", peak >> 10);
    println!("{name}: {inputs} inputs");
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok());
    peak.expect("the system knows the peak")
}
