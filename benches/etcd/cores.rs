//! Which cores processes may use.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// While it exists, this process and those that it starts leave the first core to the server.
pub struct CorePinning(());

impl CorePinning {
    pub fn from(server: u32) -> Self {
        let all = cores();
        assert!(all > 1, "a core for the server and one for the rest");
        keep_to(server, 0..1);
        keep_to(std::process::id(), 1..all);
        Self(())
    }
}

impl Drop for CorePinning {
    fn drop(&mut self) {
        keep_to(std::process::id(), 0..cores());
    }
}

/// The number of cores of the machine, whichever of them this process may use now.
fn cores() -> usize {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").expect("Linux tells it");
    let last = online.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<usize>().ok());
    last.expect("a number") + 1
}

/// Restricts all threads of the process to these cores. Threads inherit this from the thread that starts
/// them.
fn keep_to(process: u32, cores: std::ops::Range<usize>) {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(core).expect("a core");
    }
    for thread in std::fs::read_dir(format!("/proc/{process}/task")).expect("a process").flatten() {
        let thread = thread.file_name().to_string_lossy().parse().expect("a number");
        // This fails only if the thread has just ended.
        let _ = sched_setaffinity(Pid::from_raw(thread), &set);
    }
}
