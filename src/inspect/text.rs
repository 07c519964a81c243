//! Instances and their states as text.

use super::{Instance, InstanceState, Phase, QueuedFor, WaitReason};
use std::fmt;

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = if self.attributes.is_empty() { "" } else { " " };
        write!(f, "{}{space}{}: {}", self.rule, self.attributes, self.state)?;
        let waits = matches!(self.state, InstanceState::Waiting { reason: WaitReason::Backoff, .. });
        if waits && self.failures > 0 {
            write!(f, " after failure {}", self.failures)?;
        }
        match (&self.last_error, &self.state) {
            (None, _) | (_, InstanceState::GivenUp { .. } | InstanceState::HeldBack { .. }) => Ok(()),
            (Some(error), _) => write!(f, " ({error})"),
        }
    }
}

impl InstanceState {
    /// The state in a few words, if no details need to be added.
    pub(crate) fn words(&self) -> Option<&'static str> {
        Some(match self {
            InstanceState::Untrue => "not true",
            InstanceState::Queued(QueuedFor::Slot) => "queued for a slot",
            InstanceState::Queued(QueuedFor::Lock) => "queued for a lock that another instance has",
            InstanceState::Queued(QueuedFor::Resume) => "queued: its rule is paused",
            InstanceState::Queued(QueuedFor::Rate) => "queued for the rate limit of its rule",
            InstanceState::Running(Phase::Deciding) => "being decided again",
            InstanceState::Running(Phase::Locking) => "taking its lock",
            InstanceState::Running(Phase::Callback) => "its callback runs",
            InstanceState::Running(Phase::Committing) => "committing",
            InstanceState::WouldFire => "would fire: its rule is in a dry run",
            InstanceState::Idle => "idle: its callback has dealt with it",
            _ => return None,
        })
    }
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = |engine: &Option<String>| engine.clone().unwrap_or_else(|| "an unknown engine".into());
        if let Some(words) = self.words() {
            return f.write_str(words);
        }
        match self {
            InstanceState::Waiting { reason, remaining } => {
                write!(f, "waiting for another {remaining:.1?}")?;
                f.write_str(match reason {
                    WaitReason::Backoff => "",
                    WaitReason::RetryAfter => " as its callback asked",
                    WaitReason::Ineffective => ", slowed down because its callback leaves it true",
                    WaitReason::Trouble => " after trouble",
                    WaitReason::Released => " after a release",
                    WaitReason::Settle => " to settle",
                    WaitReason::Interval => " because it has just fired",
                    WaitReason::TooOften => ", slowed down because it fires too often",
                })
            }
            InstanceState::Locked { engine, .. } => write!(f, "locked by {}", by(engine)),
            InstanceState::Yielded { engine } => write!(f, "left to its owner, {}", by(engine)),
            InstanceState::HeldBack { engine, error, .. } if error.is_empty() => {
                write!(f, "held back by {}, as the callback there asked", by(engine))
            }
            InstanceState::HeldBack { engine, error, .. } => {
                write!(f, "held back by {}: {error}", by(engine))
            }
            InstanceState::GivenUp { engine: None, reason } => write!(f, "given up: {reason}"),
            InstanceState::GivenUp { engine: Some(engine), reason } => {
                write!(f, "given up by {engine}: {reason}")
            }
            // The states that `words` has dealt with.
            InstanceState::Untrue
            | InstanceState::Queued(_)
            | InstanceState::Running(_)
            | InstanceState::WouldFire
            | InstanceState::Idle => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_instance_says_in_one_line_what_is_done_about_it() {
        let second = Duration::from_secs(1);
        let waiting = |reason| InstanceState::Waiting { reason, remaining: second };
        let other = || Some("b".to_owned());
        for (state, failures, error, expected) in [
            (InstanceState::Untrue, 0, None, "r id=7: not true"),
            (InstanceState::Queued(QueuedFor::Slot), 0, None, "r id=7: queued for a slot"),
            (
                InstanceState::Queued(QueuedFor::Rate),
                0,
                None,
                "r id=7: queued for the rate limit of its rule",
            ),
            (
                waiting(WaitReason::Backoff),
                3,
                Some("no"),
                "r id=7: waiting for another 1.0s after failure 3 (no)",
            ),
            (
                waiting(WaitReason::RetryAfter),
                0,
                None,
                "r id=7: waiting for another 1.0s as its callback asked",
            ),
            (InstanceState::WouldFire, 0, None, "r id=7: would fire: its rule is in a dry run"),
            (InstanceState::Locked { engine: other(), since: None }, 0, None, "r id=7: locked by b"),
            (InstanceState::Yielded { engine: other() }, 0, None, "r id=7: left to its owner, b"),
            (
                InstanceState::HeldBack { engine: None, until: None, error: "no".into() },
                2,
                Some("no"),
                "r id=7: held back by an unknown engine: no",
            ),
            (
                InstanceState::GivenUp { engine: None, reason: "no use".into() },
                0,
                Some("no use"),
                "r id=7: given up: no use",
            ),
            (
                InstanceState::GivenUp { engine: other(), reason: "no use".into() },
                0,
                None,
                "r id=7: given up by b: no use",
            ),
        ] {
            let instance = Instance {
                rule: "r".into(),
                attributes: [("id", "7")].into(),
                state,
                lasting: second,
                failures,
                last_error: error.map(Into::into),
            };
            assert_eq!(instance.to_string(), expected);
        }
    }
}
