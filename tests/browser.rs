//! The pages of the HTTP endpoint in a real browser: headless Chromium, from the PATH.

mod support;

use etcd_rules::http::Endpoint;
use etcd_rules::{Backoff, Engine, Firing, Outcome, Reveal, Rule, key};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{Etcd, eventually};

const SECOND: Duration = Duration::from_secs(1);

/// Changes the title if it is taken for markup, however.
const HOSTILE: &str = "<script>document.title='owned'</script>\"'><img src=x onerror=document.title='owned'>";

/// A page as the browser has it.
struct Page {
    /// The document, written out by the browser.
    dom: String,
    /// What the browser complains about: blocked scripts and styles, for example.
    complaints: Vec<String>,
}

/// Debian's name first.
fn chromium() -> &'static str {
    let runs =
        |name: &&&str| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success());
    let found = ["chromium", "chromium-browser", "google-chrome"].iter().find(runs);
    found.expect("chromium is on the PATH; install it: `apt-get install -y chromium` (Debian)")
}

/// Loads a page. Fails if there is no Chromium: a test that needs a browser is not passed without.
fn load(url: &str) -> Page {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(chromium())
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--enable-logging=stderr", "--timeout=20000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(url)
        .stdin(Stdio::null())
        .output()
        .expect("the browser runs");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let complaint = |line: &&str| line.contains("CONSOLE") || line.contains("Content Security Policy");
    let complaints = log.lines().filter(complaint).map(str::to_owned).collect();
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && dom.contains("<html"), "{url}: {}\n{log}", output.status);
    Page { dom, complaints }
}

impl Page {
    /// The targets of links whose address contains this, in their order.
    fn links(&self, part: &str) -> Vec<String> {
        let targets = self.dom.split("href=\"").skip(1).filter_map(|rest| rest.split_once('"'));
        targets
            .map(|(target, _)| target.replace("&amp;", "&"))
            .filter(|target| target.contains(part))
            .collect()
    }
}

#[test]
fn the_browser_tells_of_a_script_that_was_blocked() {
    let page = load(
        "data:text/html,<meta http-equiv=content-security-policy content=\"default-src 'none'\">\
         <script>document.title='owned'</script>",
    );
    assert!(
        page.complaints.iter().any(|line| line.contains("Content Security Policy")),
        "{:?}",
        page.complaints
    );
    let page = load("data:text/html,<title>mine</title><img src=x onerror=document.title='owned'>");
    assert!(page.dom.contains("<title>owned</title>"), "{}", page.dom);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_find_their_way_and_hostile_text_stays_text() {
    let etcd = Etcd::start().await;
    let endpoint = Endpoint::builder().address(SocketAddr::from(([127, 0, 0, 1], 0))).listen().unwrap();
    let hour = 3600 * SECOND;
    let rule = Rule::new(HOSTILE).when(key("/jobs/:id").exists()).backoff(Backoff::new(hour, hour)).run(
        |firing: Firing| async move {
            Err::<Outcome, etcd_rules::BoxError>(firing.value("/jobs/:id").unwrap().to_string_lossy().into())
        },
    );
    for n in 0..150 {
        etcd.put(&format!("/jobs/{n:03} {}", HOSTILE.replace('/', "|")), HOSTILE).await;
    }
    let engine = Engine::builder("app", [etcd.endpoint()]).name(HOSTILE).rule(rule);
    let running = engine.reveal(Reveal::Values).endpoint(&endpoint).build().unwrap().start().await.unwrap();
    running.ready().await;
    eventually(10 * SECOND, "all have failed", async || running.stats().await.unwrap().waiting == 150).await;

    let at = |path: &str| format!("http://{}{path}", endpoint.address());
    let visit = move |path: String| tokio::task::spawn_blocking(move || load(&path));
    let overview = visit(at("/")).await.unwrap();
    let list = overview.links("state=waiting").pop().expect("a link to those that wait");
    let list = visit(at(&list)).await.unwrap();
    let explanations = list.links("/explain?");
    assert_eq!(explanations.len(), 100, "a page of them");
    let next = list.links("after=").pop().expect("a link to the next page");
    let second = visit(at(&next)).await.unwrap();
    assert_eq!(second.links("/explain?").len(), 50, "the others");
    let explanation = visit(at(&explanations[0])).await.unwrap();
    assert!(explanation.dom.contains("✓") && explanation.dom.contains("/jobs/000"), "{}", explanation.dom);

    for (page, title) in
        [(overview, "Rules"), (list, "Instances"), (second, "Instances"), (explanation, "Explanation")]
    {
        assert!(page.dom.contains(&format!("<title>{title} · etcd-rules</title>")), "{}", page.dom);
        assert!(page.dom.contains("&lt;script&gt;document.title='owned'&lt;/script&gt;"), "{}", page.dom);
        assert!(!page.dom.contains("<script") && !page.dom.contains("<img"), "{}", page.dom);
        assert_eq!(page.complaints, Vec::<String>::new(), "no script was blocked, and the style not");
    }
    running.shutdown(Duration::ZERO).await.unwrap();
}
