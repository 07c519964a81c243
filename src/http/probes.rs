//! The probes: checks of each engine, and their text. Pure.

use crate::health::{Health, Reason};

/// Which question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    Live,
    /// Whether some rule of each engine can fire.
    Ready,
    /// Whether nothing is wrong.
    Strict,
}

/// An engine, to be checked.
pub(super) struct Checked {
    pub(super) name: String,
    pub(super) health: Health,
}

/// The answer to a probe.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProbeAnswer {
    pub(super) passed: bool,
    pub(super) text: String,
}

struct Check {
    engine: String,
    name: &'static str,
    failure: Option<String>,
    /// Something is wrong, and some rule can fire all the same.
    tolerated: bool,
}

/// Checks all engines; with nothing to check a process is live and not ready. A check in `exclude` (by its
/// name, or with its engine: `NAME/lagging`) does not count.
pub(super) fn probe(probe: Probe, engines: &[Checked], verbose: bool, exclude: &[String]) -> ProbeAnswer {
    let mut checks: Vec<Check> = engines.iter().flat_map(|engine| checks(probe, engine)).collect();
    if engines.is_empty() && probe != Probe::Live {
        let failure = Some("no engine is running yet".into());
        checks.push(Check { engine: "endpoint".into(), name: "engines", failure, tolerated: false });
    }
    checks.retain(|check| {
        let full = format!("{}/{}", check.engine, check.name);
        !exclude.iter().any(|excluded| *excluded == full || excluded == check.name)
    });
    let passed = checks.iter().all(|check| check.failure.is_none() || check.tolerated);
    let name = match probe {
        Probe::Live => "livez",
        Probe::Ready | Probe::Strict => "readyz",
    };
    if passed && !verbose {
        return ProbeAnswer { passed, text: "ok".into() };
    }
    let line = |check: &Check| match &check.failure {
        None => format!("[+]{}/{} ok\n", check.engine, check.name),
        Some(failure) if check.tolerated => format!("[!]{}/{}: {failure}\n", check.engine, check.name),
        Some(failure) => format!("[-]{}/{} failed: {failure}\n", check.engine, check.name),
    };
    let lines: String = checks.iter().map(line).collect();
    ProbeAnswer {
        passed,
        text: format!("{lines}{name} check {}\n", if passed { "passed" } else { "failed" }),
    }
}

fn checks(probe: Probe, engine: &Checked) -> Vec<Check> {
    let Checked { name, health } = engine;
    let check = |name: &'static str, failure: Option<String>| Check {
        engine: engine.name.clone(),
        name,
        failure,
        tolerated: false,
    };
    let ended = || match health {
        // What of a panic may not be told is not in it.
        Health::Failed { reason } => format!("it has failed: {reason}"),
        other => format!("it is {}", other.name()),
    };
    let mut all = vec![check("live", (!health.is_live()).then(ended))];
    if probe == Probe::Live {
        return all;
    }
    let started = matches!(health, Health::Ready | Health::Degraded { .. });
    all.push(check("started", (!started).then(ended)));
    for reason in Reason::ALL {
        let problems = health.problems().iter().filter(|problem| problem.reason == *reason);
        let texts: Vec<String> = problems.map(ToString::to_string).collect();
        let tolerated = probe == Probe::Ready && health.can_fire();
        let failure = (!texts.is_empty()).then(|| texts.join("; "));
        all.push(Check { tolerated, ..check(reason.name(), failure) });
    }
    debug_assert_eq!(all.iter().all(|check| check.failure.is_none()), health.is_ready(), "{name}: {health}");
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Problem;

    fn engine(name: &str, health: Health) -> Checked {
        Checked { name: name.into(), health }
    }

    fn degraded(reason: Reason) -> Health {
        let problem = Problem { part: "requests".into(), reason, message: "no answer".into() };
        Health::Degraded { problems: vec![problem], can_fire: reason == Reason::Permission }
    }

    #[test]
    fn a_process_is_as_live_and_as_ready_as_its_worst_engine() {
        for (healths, live, ready, strictly) in [
            (vec![], true, false, false),
            (vec![Health::Ready], true, true, true),
            (vec![Health::Starting { problems: vec![] }], true, false, false),
            (vec![Health::Ready, degraded(Reason::Permission)], true, true, false),
            (vec![Health::Ready, degraded(Reason::Lagging)], true, false, false),
            (vec![Health::Ready, Health::Stopping], true, false, false),
            (vec![Health::Failed { reason: "secret".into() }, Health::Ready], false, false, false),
            (vec![Health::Stopped], false, false, false),
        ] {
            let engines: Vec<Checked> = healths.iter().map(|health| engine("e", health.clone())).collect();
            assert_eq!(probe(Probe::Live, &engines, false, &[]).passed, live, "{healths:?}");
            assert_eq!(probe(Probe::Ready, &engines, false, &[]).passed, ready, "{healths:?}");
            assert_eq!(probe(Probe::Strict, &engines, false, &[]).passed, strictly, "{healths:?}");
        }
    }

    #[test]
    fn it_is_brief_unless_it_fails_or_is_asked() {
        let well = [engine("poller", Health::Ready)];
        assert_eq!(probe(Probe::Ready, &well, false, &[]).text, "ok");
        assert_eq!(probe(Probe::Live, &well, true, &[]).text, "[+]poller/live ok\nlivez check passed\n");
        let ill = [engine("poller", degraded(Reason::Disconnected))];
        let tolerable = [engine("poller", degraded(Reason::Permission))];
        assert_eq!(probe(Probe::Ready, &tolerable, false, &[]).text, "ok");
        let text = probe(Probe::Ready, &tolerable, true, &[]).text;
        assert!(text.contains("[!]poller/permission: requests: no answer\n"), "{text}");
        assert!(text.ends_with("readyz check passed\n"), "{text}");
        let text = probe(Probe::Ready, &ill, false, &[]).text;
        assert!(text.contains("[-]poller/disconnected failed: requests: no answer\n"), "{text}");
        assert!(text.contains("[+]poller/lagging ok\n") && text.ends_with("readyz check failed\n"), "{text}");
    }

    #[test]
    fn a_check_can_be_excluded_everywhere_or_of_one_engine() {
        let engines = [engine("a", degraded(Reason::Lagging)), engine("b", Health::Ready)];
        for (exclude, passes) in
            [("lagging", true), ("a/lagging", true), ("b/lagging", false), ("auth", false)]
        {
            assert_eq!(probe(Probe::Ready, &engines, false, &[exclude.into()]).passed, passes, "{exclude}");
        }
    }

    #[test]
    fn the_reason_of_a_failure_is_told() {
        let failed = engine("a", Health::Failed { reason: "no threads".into() });
        assert!(probe(Probe::Live, &[failed], true, &[]).text.contains("it has failed: no threads"));
    }
}
