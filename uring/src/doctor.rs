//! What an operator should know about this host before trusting it with load.

use std::io;

use crate::caps::{Choice, Refusal, RefusalReason, RingConfig};
use crate::kernel::KernelReactor;
use crate::reactor::Reactor;
use crate::sys;

/// Everything that [`probe`] found out.
#[derive(Debug)]
pub struct Doctor {
    /// The kernel's release, such as `6.12.1`. For the eye only: nothing is decided by it.
    pub kernel: String,
    /// The level that a reactor would run at, or why there is none.
    pub chosen: Result<Choice, io::Error>,
    /// Whether a small arena could be registered with a ring.
    pub can_register_buffers: bool,
    /// What was looked at besides, in order of importance.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at.
    pub subject: &'static str,
    /// What was found there.
    pub found: String,
    /// What to do about it; empty where all is well.
    pub remedy: &'static str,
}

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// As it should be.
    Fine,
    /// It will cost speed or latency.
    Slower,
    /// It will refuse clients or memory under load.
    Limiting,
    /// The node cannot run.
    Fatal,
}

/// Looks at the kernel and the limits of this process. Makes a ring at the best level and drops it:
/// a few milliseconds.
pub fn probe(config: &RingConfig) -> Doctor {
    let mut can_register_buffers = false;
    let chosen = KernelReactor::new(config.clone()).map(|mut reactor| {
        can_register_buffers = reactor.make_arena(1, ARENA_TRIAL_LEN).unwrap_or(false);
        reactor.choice().clone()
    });
    let is_refused =
        !can_register_buffers && chosen.as_ref().is_ok_and(|choice| choice.features.send_zc);
    let findings = vec![
        ring_finding(&chosen),
        disabled_finding(),
        descriptors_finding(),
        memlock_finding(is_refused),
        backlog_finding(),
        huge_pages_finding(),
        congestion_finding(),
        overcommit_finding(),
    ];
    Doctor {
        kernel: kernel_release(),
        chosen,
        can_register_buffers,
        findings,
    }
}

fn ring_finding(chosen: &io::Result<Choice>) -> Finding {
    let subject = "io_uring";
    let choice = match chosen {
        Ok(choice) => choice,
        Err(error) => {
            let remedy = "see the reason: it names the setting";
            return Finding {
                severity: Severity::Fatal,
                subject,
                found: error.to_string(),
                remedy,
            };
        }
    };
    let mut found = format!("level {}", choice.level);
    for Refusal { level, reason } in &choice.refused {
        found.push_str(&format!("; not {level}: {reason}"));
    }
    let is_suspect = choice
        .refused
        .iter()
        .any(|refusal| matches!(refusal.reason, RefusalReason::SelfTest(_)));
    let (severity, remedy) = match (choice.refused.is_empty(), is_suspect) {
        (true, _) => (Severity::Fine, ""),
        (_, true) => (
            Severity::Slower,
            "the kernel offers a level that does not work: update the kernel",
        ),
        (false, false) => (
            Severity::Slower,
            "Linux 6.1 or later serves with less CPU per request",
        ),
    };
    Finding {
        severity,
        subject,
        found,
        remedy,
    }
}

fn disabled_finding() -> Finding {
    let (severity, found, remedy) = match uring_disabled() {
        None => (Severity::Fine, "not there (before 6.6)".to_owned(), ""),
        Some(0) => (Severity::Fine, "0".to_owned(), ""),
        Some(1) => (
            Severity::Limiting,
            "1: only privileged users and one group may use io_uring".to_owned(),
            "sysctl -w kernel.io_uring_disabled=0, or add the user to the group in kernel.io_uring_group",
        ),
        Some(other) => (
            Severity::Fatal,
            other.to_string(),
            "sysctl -w kernel.io_uring_disabled=0",
        ),
    };
    Finding {
        severity,
        subject: "kernel.io_uring_disabled",
        found,
        remedy,
    }
}

fn descriptors_finding() -> Finding {
    let subject = "open descriptors (RLIMIT_NOFILE)";
    let Ok(limit) = sys::resource_limit(libc::RLIMIT_NOFILE) else {
        return Finding {
            severity: Severity::Limiting,
            subject,
            found: "unknown".into(),
            remedy: "",
        };
    };
    let found = format!(
        "{} of at most {}",
        limit_text(limit.rlim_cur),
        limit_text(limit.rlim_max)
    );
    let (severity, remedy) = if limit.rlim_max < DESCRIPTORS_WISHED {
        (
            Severity::Limiting,
            "set LimitNOFILE=65536 in the service file, or raise ulimit -Hn",
        )
    } else {
        // The node raises the soft limit by itself.
        (Severity::Fine, "")
    };
    Finding {
        severity,
        subject,
        found,
        remedy,
    }
}

fn memlock_finding(is_refused: bool) -> Finding {
    let subject = "locked memory (RLIMIT_MEMLOCK)";
    let limit = memlock_limit();
    let limit_shown = limit.map_or("unknown".to_owned(), limit_text);
    if sys::may_lock_memory() {
        let found = format!("{limit_shown}, and this process is exempt (CAP_IPC_LOCK)");
        return Finding {
            severity: Severity::Fine,
            subject,
            found,
            remedy: "",
        };
    }
    let (severity, found, remedy) = match limit {
        Some(limit) if limit < MEMLOCK_WISHED => (
            Severity::Limiting,
            format!("{limit_shown}; rings and snapshot buffers of several cores may not fit"),
            "set LimitMEMLOCK=infinity in the service file, or raise ulimit -l",
        ),
        _ if is_refused => (
            Severity::Slower,
            format!("{limit_shown}, but registering buffers was refused"),
            "other processes of this user may use the limit up: raise LimitMEMLOCK",
        ),
        _ => (Severity::Fine, limit_shown, ""),
    };
    Finding {
        severity,
        subject,
        found,
        remedy,
    }
}

fn backlog_finding() -> Finding {
    let value = setting("/proc/sys/net/core/somaxconn");
    let is_small = value
        .as_deref()
        .and_then(|text| text.parse().ok())
        .is_some_and(|n: u32| n < 511);
    let (severity, remedy) = if is_small {
        (
            Severity::Limiting,
            "sysctl -w net.core.somaxconn=4096, or bursts of connections are refused",
        )
    } else {
        (Severity::Fine, "")
    };
    Finding {
        severity,
        subject: "net.core.somaxconn",
        found: shown(value),
        remedy,
    }
}

fn huge_pages_finding() -> Finding {
    let value = setting("/sys/kernel/mm/transparent_hugepage/enabled");
    let is_always = value
        .as_deref()
        .is_some_and(|text| text.contains("[always]"));
    let (severity, remedy) = if is_always {
        let remedy =
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, or memory use may grow";
        (Severity::Slower, remedy)
    } else {
        (Severity::Fine, "")
    };
    Finding {
        severity,
        subject: "transparent huge pages",
        found: shown(value),
        remedy,
    }
}

fn congestion_finding() -> Finding {
    let value = setting("/proc/sys/net/ipv4/tcp_congestion_control");
    let is_pacing = value.as_deref().is_some_and(|text| text.starts_with("bbr"));
    let (severity, remedy) = if is_pacing {
        let remedy = "bbr paces even local connections; before comparing servers run \
                      sysctl -w net.ipv4.tcp_congestion_control=cubic";
        (Severity::Slower, remedy)
    } else {
        (Severity::Fine, "")
    };
    Finding {
        severity,
        subject: "net.ipv4.tcp_congestion_control",
        found: shown(value),
        remedy,
    }
}

fn overcommit_finding() -> Finding {
    let value = setting("/proc/sys/vm/overcommit_memory");
    let is_strict = value.as_deref() == Some("2");
    let (severity, remedy) = if is_strict {
        (
            Severity::Limiting,
            "sysctl -w vm.overcommit_memory=1, or large reservations may be refused",
        )
    } else {
        (Severity::Fine, "")
    };
    Finding {
        severity,
        subject: "vm.overcommit_memory",
        found: shown(value),
        remedy,
    }
}

pub(crate) fn uring_disabled() -> Option<u8> {
    setting("/proc/sys/kernel/io_uring_disabled")?.parse().ok()
}

pub(crate) fn memlock_limit() -> Option<u64> {
    sys::resource_limit(libc::RLIMIT_MEMLOCK)
        .ok()
        .map(|limit| limit.rlim_cur)
}

fn kernel_release() -> String {
    shown(setting("/proc/sys/kernel/osrelease"))
}

fn setting(path: &str) -> Option<String> {
    std::fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

fn shown(value: Option<String>) -> String {
    value.unwrap_or_else(|| "not there".to_owned())
}

fn limit_text(limit: u64) -> String {
    if limit == libc::RLIM_INFINITY {
        "unlimited".to_owned()
    } else {
        limit.to_string()
    }
}

const DESCRIPTORS_WISHED: u64 = 10_240;
/// Rings, buffers and snapshot chunks of a handful of cores.
const MEMLOCK_WISHED: u64 = 64 << 20;
const ARENA_TRIAL_LEN: u32 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_that_is_not_fine_has_a_remedy() {
        let doctor = probe(&RingConfig::default());
        assert!(!doctor.kernel.is_empty());
        for finding in &doctor.findings {
            assert!(
                finding.severity == Severity::Fine || !finding.remedy.is_empty(),
                "{finding:?}"
            );
        }
    }
}
