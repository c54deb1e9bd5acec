//! What a process of a peer has used; each of the peers' programs includes this file.
//!
//! Deliberately absent: anything else they could share. Each is a program of its own, with the
//! versions that its library asks for.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// Ticks of a second in `/proc`: fixed in the kernel's interface, whatever the kernel's clock.
const USER_HZ: f64 = 100.0;

/// Processor time of this process up to some moment, in seconds.
pub struct Cost {
    user: f64,
    system: f64,
}

impl Cost {
    /// Up to now.
    pub fn now() -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let (_, fields) = stat.rsplit_once(')').context("/proc/self/stat has no name in it")?;
        let seconds = |at: usize| -> Result<f64> {
            let field = fields.split_whitespace().nth(at).context("/proc/self/stat is short")?;
            Ok(field.parse::<f64>()? / USER_HZ)
        };
        Ok(Self { user: seconds(11)?, system: seconds(12)? })
    }

    /// What was used since then, and the most memory that the process ever had.
    pub fn since(&self) -> Result<Value> {
        let now = Self::now()?;
        let status = std::fs::read_to_string("/proc/self/status")?;
        let peak_kib: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok())
            .context("/proc/self/status has no VmHWM")?;
        Ok(json!({
            "user_s": now.user - self.user,
            "system_s": now.system - self.system,
            "peak_kib": peak_kib,
        }))
    }
}
