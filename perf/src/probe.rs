//! What /proc knows: about the server measured, about this process, about the machine.

use std::fs::{self, File};
use std::io::Read;
use std::time::Instant;

use crate::sys;

/// A process's counters at one moment.
#[derive(Clone, Copy, Default, Debug)]
pub struct Process {
    /// CPU time of all threads.
    pub cpu_ns: u64,
    /// Context switches because the process waited.
    pub voluntary: u64,
    /// Context switches because something else was let in.
    pub involuntary: u64,
    /// Bytes written to files, as far as they are meant for a disk.
    pub written: u64,
}

impl Process {
    /// Reads them; None when there is no such process.
    pub fn read(pid: u32) -> Option<Process> {
        let mut process = Process {
            cpu_ns: sys::process_cpu_ns(pid).or_else(|| scheduled_ns(pid))?,
            ..Process::default()
        };
        for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            process.voluntary += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            process.involuntary += field(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
        }
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        process.written = field(&io, "write_bytes:").unwrap_or(0);
        Some(process)
    }
}

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(field(&status, "VmRSS:")? * 1024)
}

/// The machine's counters at one moment, summed over its cores.
#[derive(Clone, Copy)]
pub struct Machine {
    /// When they were read.
    pub at: Instant,
    /// Time spent running anything.
    pub busy_ns: u64,
    /// Time the host gave to others.
    pub stolen_ns: u64,
}

impl Machine {
    /// Reads them; zeros when /proc is not what it should be.
    pub fn read() -> Machine {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let ticks: Vec<u64> = stat
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .map(|word| word.parse().unwrap_or(0))
            .collect();
        let tick = |i: usize| ticks.get(i).copied().unwrap_or(0) * sys::tick_ns();
        Machine {
            at: Instant::now(),
            // user, nice, system, irq, softirq
            busy_ns: tick(0) + tick(1) + tick(2) + tick(5) + tick(6),
            stolen_ns: tick(7),
        }
    }
}

/// Counts the system calls of a process. While it lives, they all take a little longer.
pub struct SystemCalls {
    counters: Vec<File>,
}

impl SystemCalls {
    /// Of all threads of a process; None where the kernel does not let us.
    pub fn count_of(pid: u32) -> Option<SystemCalls> {
        let number = TRACING.iter().find_map(|dir| {
            let text =
                fs::read_to_string(format!("{dir}/events/raw_syscalls/sys_enter/id")).ok()?;
            text.trim().parse().ok()
        })?;
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let counters: Vec<File> = tasks
            .flatten()
            .filter_map(|task| task.file_name().to_str()?.parse().ok())
            .map(|tid| sys::count_tracepoint(tid, number).ok())
            .collect::<Option<_>>()?;
        (!counters.is_empty()).then_some(SystemCalls { counters })
    }

    /// Calls so far.
    pub fn read(&self) -> Option<u64> {
        let counts = self.counters.iter().map(|mut counter| {
            let mut count = [0; 8];
            counter.read_exact(&mut count).ok()?;
            Some(u64::from_ne_bytes(count))
        });
        counts.sum()
    }
}

const TRACING: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Sum of the run times the scheduler keeps per thread; up to a tick old for a running thread.
fn scheduled_ns(pid: u32) -> Option<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let runtimes = tasks.flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Some(runtimes.sum())
}

/// The first number after a line's `name`.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_cpu_and_memory() {
        let pid = std::process::id();
        let before = Process::read(pid).expect("exists");
        let mut x = 1u64;
        let begin = Instant::now();
        while begin.elapsed().as_millis() < 20 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        let after = Process::read(pid).expect("exists");
        assert!(after.cpu_ns - before.cpu_ns >= 2_000_000);
        assert!(resident_bytes(pid).expect("exists") > 100_000);
        assert!(scheduled_ns(pid).is_some_and(|ns| ns > 0));
        assert!(Machine::read().busy_ns > 0);
    }

    #[test]
    fn system_calls_are_counted_where_that_is_permitted() {
        let Some(calls) = SystemCalls::count_of(std::process::id()) else {
            return;
        };
        let before = calls.read().expect("a count");
        (0..100).for_each(|_| drop(fs::metadata("/proc/self")));
        let after = calls.read().expect("a count");
        assert!(after - before >= 100, "{before} {after}");
    }
}
