//! The migration guide is complete, and the names in it exist. Its code blocks are doctests.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const GUIDE: &str = include_str!("../../docs/migrating-from-go-etcd-rules.md");

/// What the packages of go-etcd-rules export, as of June 2026, in the order of their files.
const EXPORTED: &str = "
    WebhookURLEnv NewHTTPCallbackHandler HTTPCallbackHandler HandleRequest WaitForCallback ClearCallbacks
    DynamicRule Expand NewEqualsLiteralRule NewCompareLiteralRule NewAndRule NewOrRule NewNotRule NewEqualsRule
    String FormatRuleString RuleSatisfied
    BaseEngine Run Stop IsStopped Shutdown V3Engine SetKVWrapper AddRule AddPolling SetWatcherWrapper NewV3Engine
    NewV3EngineWithClient ErrWatcherClosing
    GetAttribute FindAttribute Format FormatWithAttributes NewAttributes
    EtcdMetricsMetadata SetMethod GetMetricsMetadata WrapKV WrapWatcher
    MetricsCollector AdvancedMetricsCollector IncLockMetric IncSatisfiedThenNot TimesEvaluated WorkerQueueWaitTime
    ObserveWatchEvents MockMetricsCollector NewMockMetricsCollector SetLogger MockWatcherWrapper MockWatchWrapper
    ContextProvider MetricsCollectorOpt EngineOptions GetEngineOptions EngineOption KeyProcessorConcurrency
    KeyProcessorBuffer EngineLockTimeout EngineLockAcquisitionTimeout EngineConcurrency EngineWatchTimeout
    KeyExpansion KeyConstraint EngineUseTryLock EngineUseSharedLockSession EngineDontShareLockSession
    EngineLockCoolOff EngineSyncInterval EngineSyncDelay EngineContextProvider EngineMetricsCollector
    EngineCrawlMutex EngineRuleWorkBuffer EngineEnhancedRuleFilter EngineWatchProcessDelay
    RuleOption RuleLockTimeout RuleContextProvider RuleID
    Attributes AttributeFinder V3RuleTask V3RuleTaskCallback
    NewCoolOffLocker RuleLocker RuleLock GetSession NewV3Locker NewSessionLocker ErrNilMutex NewMapLocker
    ErrLockedLocally WithMetrics MockLocker FuncMockLocker FuncMockLock NewNestedLocker Option PatternForLock
    MethodForLock Lock Unlock
    SessionManager NewSessionManager InitV3Etcd
    IncUnlockErrorMetric WorkBufferWaitTime CallbackWaitTime KeyProcessBufferCap IncWatcherErrMetric
    CrawlerQueryTime CrawlerEvalTime CrawlerValuesCount WorkersCount
";

/// The words in backticks, outside of code blocks, of the left and the other columns of the guide's tables.
fn words(left: bool) -> BTreeSet<String> {
    let prose = GUIDE.split("```").step_by(2);
    let rows = prose.flat_map(str::lines).filter(|line| line.starts_with("| "));
    let cells = rows.flat_map(|row| {
        let cells = row.trim_matches('|').replace("\\|", "");
        cells.split('|').map(str::to_owned).enumerate().collect::<Vec<_>>()
    });
    let code = cells
        .filter(|(column, _)| left == (*column == 0))
        .flat_map(|(_, cell)| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>());
    code.collect()
}

/// All source files, one after the other, without comments.
fn source(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            source(&path, text);
        } else {
            let file = fs::read_to_string(&path).expect("a readable file");
            let code = file.lines().filter(|line| !line.trim_start().starts_with("//"));
            code.for_each(|line| text.extend([line, "\n"]));
        }
    }
}

fn declares(text: &str, function: &str) -> bool {
    text.contains(&format!("fn {function}(")) || text.contains(&format!("fn {function}<"))
}

/// What stands between the braces of each `impl` of a type.
fn implementations<'a>(text: &'a str, of: &str) -> impl Iterator<Item = &'a str> {
    text.split("\nimpl").skip(1).filter_map(move |rest| {
        let (head, body) = rest.split_once('{')?;
        let mut words = head.split(|c: char| !c.is_alphanumeric());
        words.any(|word| word == of).then(|| body.split("\n}").next().unwrap_or_default())
    })
}

#[test]
fn everything_that_the_reference_exports_has_a_row() {
    let named: BTreeSet<String> = words(true)
        .iter()
        .flat_map(|code| code.split(|c: char| !c.is_alphanumeric()).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let missing: Vec<&str> = EXPORTED.split_whitespace().filter(|name| !named.contains(*name)).collect();
    assert!(missing.is_empty(), "without a row: {missing:?}");
}

#[test]
fn the_names_that_it_recommends_exist() {
    let mut text = String::new();
    source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
    let (mut checked, mut missing) = (0, Vec::new());
    for code in words(false) {
        let call = code.split(['(', ' ']).next().unwrap_or_default();
        let exists = if let Some(metric) = call.strip_prefix("etcd_rules_") {
            text.contains(&format!("\"{metric}\""))
        } else if let Some((owner, name)) = call.split_once("::") {
            match name.starts_with(char::is_uppercase) {
                // A type in a module, declared there or re-exported.
                true => {
                    text.contains(&format!("mod {owner};")) && text.contains(&format!("pub struct {name}"))
                }
                false => implementations(&text, owner).any(|body| declares(body, name)),
            }
        } else if code.contains('(') && !call.is_empty() && call.chars().all(|c| c.is_lowercase() || c == '_')
        {
            declares(&text, call)
        } else {
            continue;
        };
        checked += 1;
        if !exists {
            missing.push(code);
        }
    }
    assert!(checked > 80, "only {checked} names were found in the guide");
    assert!(missing.is_empty(), "not in this crate: {missing:?}");
}
