//! The pages of the HTTP endpoint in a real browser: headless Chromium, from the PATH.

use crate::support::{Browser, Etcd, eventually};
use etcd_rules::http::Endpoint;
use etcd_rules::{Backoff, Engine, Error, Firing, Outcome, Reveal, Rule, key};
use std::net::SocketAddr;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Changes the page's title wherever it is taken for markup.
const HOSTILE: &str = "<script>document.title='owned'</script>\"'><img src=x onerror=document.title='owned'>";

/// What reaches furthest to the right.
const WIDEST: &str = "[...document.querySelectorAll('body *')].sort((a, b) =>
    b.getBoundingClientRect().right - a.getBoundingClientRect().right)[0].outerHTML";

/// A telephone, a tablet, a screen.
const WIDTHS: [u32; 3] = [320, 768, 1280];

fn endpoint() -> Endpoint {
    Endpoint::builder().address(SocketAddr::from(([127, 0, 0, 1], 0))).listen().unwrap()
}

#[test]
fn the_browser_tells_of_a_script_that_was_blocked_and_of_a_page_that_is_too_wide() {
    let mut browser = Browser::start();
    browser.go("data:text/html,<meta http-equiv=content-security-policy content=\"default-src 'none'\">\
         <script>document.title='owned'</script>");
    let complaints = browser.complaints();
    assert!(complaints.iter().any(|line| line.contains("Content Security Policy")), "{complaints:?}");
    browser.go("data:text/html,<title>mine</title><script>document.title='owned'</script>");
    assert_eq!(browser.text("document.title"), "owned");
    browser.resize(320);
    browser.go("data:text/html,<!doctype html><meta name=viewport content='width=device-width'>\
         <body style='margin:0'><div style='width:400px'>wide</div>");
    assert_eq!(browser.overflow(), 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_click_their_way_and_hostile_text_stays_text() {
    let etcd = Etcd::start().await;
    let endpoint = endpoint();
    let rule = Rule::new(HOSTILE).when(key("/jobs/:id").exists()).backoff(Backoff::new(HOUR, HOUR)).run(
        |firing: Firing| async move {
            Err::<Outcome, etcd_rules::BoxError>(firing.value("/jobs/:id")?.to_string_lossy().into())
        },
    );
    for n in 0..150 {
        etcd.put(&format!("/jobs/{n:03} {}", HOSTILE.replace('/', "|")), HOSTILE).await;
    }
    let engine = Engine::builder("app", [etcd.endpoint()]).name(HOSTILE).rule(rule);
    let running = engine.reveal(Reveal::Values).endpoint(&endpoint).build().unwrap().start().await.unwrap();
    running.ready().await;
    eventually(20 * SECOND, "all have failed", async || running.stats().await.unwrap().waiting == 150).await;

    let mut browser = Browser::start();
    let look = |browser: &mut Browser, title: &str| {
        assert_eq!(browser.text("document.title"), format!("{title} · etcd-rules"));
        assert_eq!(browser.count("script, img"), 0, "{title}");
        assert!(browser.text("document.body.innerText").contains(HOSTILE), "{title}");
        for width in WIDTHS {
            browser.resize(width);
            assert_eq!(browser.overflow(), 0, "{title} is wider than {width}: {}", browser.text(WIDEST));
        }
        assert_eq!(browser.complaints(), Vec::<String>::new(), "no script was blocked, and the style not");
    };
    browser.go(&format!("http://{}/", endpoint.address()));
    look(&mut browser, "Rules");
    browser.click("a[href*='state=waiting']");
    look(&mut browser, "Instances");
    assert_eq!(browser.count("tbody tr"), 100, "a page of them");
    browser.click("a[rel=next]");
    look(&mut browser, "Instances");
    assert_eq!(browser.count("tbody tr"), 50, "the others");
    assert_eq!(browser.count("a[rel=next]"), 0, "the last page");
    browser.click(".pages a");
    assert_eq!(browser.count("tbody tr"), 100, "the first page again");
    browser.click("tbody a[href*='/explain?']");
    look(&mut browser, "Explanation");
    let text = browser.text("document.body.innerText");
    assert!(text.contains("✓") && text.contains("/jobs/000"), "{text}");
    // On a telephone, too.
    browser.resize(320);
    browser.click("h1 a");
    assert_eq!(browser.text("document.title"), "Instances · etcd-rules");
    running.shutdown(Duration::ZERO).await.unwrap();
}

/// A hundred thousand instances that are true, and a few of them that fail.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_100_000_instances_are_there_at_once() {
    const MANY: usize = 100_000;
    let etcd = Etcd::start().await;
    etcd.put_all((0..MANY).map(|n| format!("/servers/{n:06}"))).await;
    etcd.put("/failing/1", "").await;
    let idle = Rule::new("idle")
        .when(key("/servers/:id").exists())
        .optimistic()
        .run(async |_: Firing| Ok::<(), Error>(()));
    let failing = Rule::new("failing")
        .when(key("/failing/:id").exists())
        .backoff(Backoff::new(HOUR, HOUR))
        .run(async |_: Firing| Err::<Outcome, _>("it does not work"));
    let endpoint = endpoint();
    let engine = Engine::builder("app", [etcd.endpoint()]).rules([idle, failing]).reveal(Reveal::Keys);
    let running = engine.endpoint(&endpoint).build().unwrap().start().await.unwrap();
    eventually(120 * SECOND, "all are idle", async || {
        let stats = running.stats().await.unwrap();
        (stats.idle, stats.waiting) == (MANY, 1)
    })
    .await;

    let mut browser = Browser::start();
    let mut slowest = Duration::ZERO;
    let mut timed = |browser: &mut Browser, what: &str| {
        let [answered, shown] = browser.times();
        println!("{what}: answered in {answered:?}, shown in {shown:?}");
        slowest = slowest.max(shown);
    };
    browser.go(&format!("http://{}/", endpoint.address()));
    timed(&mut browser, "the overview");
    assert!(browser.text("document.body.innerText").contains("100\u{202f}000"));
    browser.click("a[href*='state=idle']");
    timed(&mut browser, "the first page");
    assert_eq!(browser.count("tbody tr"), 100);
    for _ in 0..3 {
        let first = browser.text("document.querySelector('tbody tr').innerText");
        browser.click("a[rel=next]");
        timed(&mut browser, "the next page");
        assert_eq!(browser.count("tbody tr"), 100);
        assert_ne!(browser.text("document.querySelector('tbody tr').innerText"), first);
    }
    browser.go(&format!("http://{}/instances?rule=idle", endpoint.address()));
    browser.write("input[name='attr.id']", "077777");
    browser.click("form button");
    timed(&mut browser, "one of them by its attribute");
    assert_eq!(browser.count("tbody tr"), 1);
    assert!(browser.text("document.querySelector('tbody tr').innerText").contains("077777"));
    browser.click("tbody a[href*='/explain?']");
    timed(&mut browser, "its explanation");
    assert!(browser.text("document.body.innerText").contains("/servers/077777 exists"));
    browser.go(&format!("http://{}/instances?state=waiting", endpoint.address()));
    timed(&mut browser, "the one that fails");
    assert_eq!(browser.count("tbody tr"), 1);
    assert!(slowest < 10 * SECOND, "a page took {slowest:?}");
    running.shutdown(SECOND).await.unwrap();
}
