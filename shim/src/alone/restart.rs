//! Whether a container that has ended is started again, and when: Docker's rules.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The first pause, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// Who has run for so long begins with the first pause again.
const STEADY: Duration = Duration::from_secs(10);

/// `--restart`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Policy {
    /// Never.
    #[default]
    No,
    /// After a failure, at most so many times; 0 is as often as it fails.
    OnFailure(u32),
    /// Whatever its end was.
    Always,
    /// The same, and not at the next boot if somebody has stopped it.
    UnlessStopped,
}

impl Policy {
    /// Whether a container that has ended with `status` after `restarts` restarts is started again. `stopped` is the
    /// intent of somebody who has stopped or killed it.
    pub fn restarts(self, status: u8, stopped: bool, restarts: u32) -> bool {
        match self {
            _ if stopped => false,
            Self::No => false,
            Self::OnFailure(most) => status != 0 && (most == 0 || restarts < most),
            Self::Always | Self::UnlessStopped => true,
        }
    }

    /// Whether a container that had ended before is started when the machine has booted.
    pub fn starts_at_boot(self, stopped: bool) -> bool {
        match self {
            Self::No | Self::OnFailure(_) => false,
            Self::Always => true,
            Self::UnlessStopped => !stopped,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure(0) => f.write_str("on-failure"),
            Self::OnFailure(most) => write!(f, "on-failure:{most}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, most) = text.split_once(':').map_or((text, None), |(name, most)| (name, Some(most)));
        match (name, most) {
            ("no", None) => Ok(Self::No),
            ("always", None) => Ok(Self::Always),
            ("unless-stopped", None) => Ok(Self::UnlessStopped),
            ("on-failure", None) => Ok(Self::OnFailure(0)),
            ("on-failure", Some(most)) => {
                most.parse().map(Self::OnFailure).map_err(|_| format!("not a count: {most:?}"))
            }
            ("no" | "always" | "unless-stopped", Some(_)) => Err("only on-failure takes a count".to_owned()),
            _ => Err("not one of no, on-failure[:N], always, unless-stopped".to_owned()),
        }
    }
}

impl From<Policy> for String {
    fn from(policy: Policy) -> Self {
        policy.to_string()
    }
}

impl TryFrom<String> for Policy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The pauses before restarts: each is twice the last.
#[derive(Debug, Clone, Copy, Default)]
pub struct BackOff(Option<Duration>);

impl BackOff {
    /// How long to wait, now that the container has ended after it ran for `ran`.
    pub fn next(&mut self, ran: Duration) -> Duration {
        let last = self.0.filter(|_| ran < STEADY);
        let next = last.map_or(PAUSE.0, |last| (last * 2).min(PAUSE.1));
        self.0 = Some(next);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_reads_as_docker_writes_it() {
        for (text, policy) in [
            ("no", Policy::No),
            ("on-failure", Policy::OnFailure(0)),
            ("on-failure:3", Policy::OnFailure(3)),
            ("always", Policy::Always),
            ("unless-stopped", Policy::UnlessStopped),
        ] {
            assert_eq!(text.parse(), Ok(policy));
            assert_eq!(policy.to_string(), text);
        }
        for bad in ["", "never", "on-failure:", "on-failure:-1", "on-failure:x", "always:3", "No"] {
            assert!(bad.parse::<Policy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_policy_decides_by_status_intent_and_count() {
        use Policy as P;
        for (policy, status, stopped, restarts, want) in [
            (P::No, 1, false, 0, false),
            (P::OnFailure(0), 0, false, 0, false),
            (P::OnFailure(0), 1, false, 1000, true),
            (P::OnFailure(2), 1, false, 1, true),
            (P::OnFailure(2), 1, false, 2, false),
            (P::OnFailure(2), 137, true, 0, false),
            (P::Always, 0, false, 7, true),
            (P::Always, 0, true, 7, false),
            (P::UnlessStopped, 0, false, 7, true),
            (P::UnlessStopped, 143, true, 7, false),
        ] {
            assert_eq!(policy.restarts(status, stopped, restarts), want, "{policy} {status} {stopped} {restarts}");
        }
        let boot = |stopped| [P::No, P::OnFailure(0), P::Always, P::UnlessStopped].map(|p| p.starts_at_boot(stopped));
        assert_eq!((boot(false), boot(true)), ([false, false, true, true], [false, false, true, false]));
    }

    #[test]
    fn a_pause_doubles_up_to_a_minute_and_begins_anew_after_ten_steady_seconds() {
        let mut back_off = BackOff::default();
        let pauses: Vec<_> = (0..12).map(|_| back_off.next(Duration::from_secs(1)).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        assert_eq!(back_off.next(Duration::from_secs(10)).as_millis(), 100);
        assert_eq!(back_off.next(Duration::ZERO).as_millis(), 200);
    }
}
