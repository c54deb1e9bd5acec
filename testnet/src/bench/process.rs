//! What a process has used, as the kernel counts it.

use std::time::Duration;

use anyhow::{Context, Result};

/// Ticks of a second in `/proc`: fixed in the kernel's interface on every architecture that Ayni
/// is built for, whatever the kernel's own clock.
const USER_HZ: u64 = 100;

/// User and system time of a process with all its threads.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The name is in brackets and may hold anything; fields 14 and 15 are the times in ticks.
    let (_, rest) = text.rsplit_once(')').with_context(|| format!("{path} is not as expected"))?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| -> Result<u64> {
        Ok(fields.get(at).with_context(|| format!("{path} is too short"))?.parse()?)
    };
    let total = ticks(11)? + ticks(12)?;
    Ok(Duration::from_millis(total * (1_000 / USER_HZ)))
}

/// Time that all cores together spent on anything, of the text of `/proc/stat`.
pub(crate) fn busy(text: &str) -> Result<Duration> {
    let fields: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| -> Result<u64> {
        Ok(fields.get(at).context("/proc/stat is too short")?.parse()?)
    };
    // cpu user nice system idle iowait irq softirq: guests are within user.
    let total = ticks(1)? + ticks(2)? + ticks(3)? + ticks(6)? + ticks(7)?;
    Ok(Duration::from_millis(total * (1_000 / USER_HZ)))
}

/// The most memory that a process ever held, in KiB.
pub(crate) fn peak_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("VmHWM:"));
    let value = lines.next().and_then(|rest| rest.split_whitespace().next());
    Ok(value.with_context(|| format!("{path} has no VmHWM"))?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cpu_time_grows() {
        let before = cpu(std::process::id()).expect("this process runs");
        let mut hash = blake3::hash(b"");
        while cpu(std::process::id()).expect("this process runs") <= before {
            for _ in 0..10_000 {
                hash = blake3::hash(hash.as_bytes());
            }
        }
    }

    #[test]
    fn waiting_is_not_busy() {
        let text = "cpu  10 20 30 4000 500 6 7 0 0 0\ncpu0 1 2 3";
        assert_eq!(busy(text).expect("whole"), Duration::from_millis(730));
        assert!(busy("cpu  10 20").is_err());
    }

    #[test]
    fn the_peak_holds_what_was_touched() {
        let touched = vec![1_u8; 64 << 20];
        let peak = peak_kib(std::process::id()).expect("this process runs");
        assert!(peak >= (touched.iter().map(|byte| u64::from(*byte)).sum::<u64>() >> 10));
    }
}
