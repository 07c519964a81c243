//! A headless Chromium, controlled over a pipe by Chromium's own protocol.

use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A browser with one page. Its calls block.
pub struct Browser {
    process: Child,
    to: File,
    from: BufReader<File>,
    session: Option<String>,
    calls: u64,
    /// Complaints of the browser, for example about blocked scripts and styles.
    complaints: Vec<String>,
    loaded: bool,
    width: u32,
    _folder: tempfile::TempDir,
}

/// The names of the program; Debian's first.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

fn program() -> &'static str {
    let runs =
        |name: &&&str| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success());
    let found = NAMES.iter().find(runs);
    found.expect("chromium is on the PATH; install it: `apt-get install -y chromium` (Debian)")
}

impl Browser {
    /// Starts a browser. Fails if there is none, because a test that needs a browser must not pass without
    /// one.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [to, from] = ["to", "from"].map(|name| folder.path().join(name));
        let made = Command::new("mkfifo").args([&to, &from]).status().expect("mkfifo is on the PATH");
        assert!(made.success(), "the pipes are made");
        // It reads descriptor 3 and writes descriptor 4.
        let process = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<to 4>from"#, program()])
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            .args(["--remote-debugging-pipe", "--user-data-dir=profile", "about:blank"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let to = File::options().write(true).open(to).unwrap();
        let from = BufReader::new(File::open(from).unwrap());
        let mut browser = Self {
            process,
            to,
            from,
            session: None,
            calls: 0,
            complaints: Vec::new(),
            loaded: false,
            width: 0,
            _folder: folder,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Log.enable", "Runtime.enable"] {
            browser.call(domain, json!({}));
        }
        browser
    }

    /// Makes a call and returns its answer.
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).expect("the browser listens");
        loop {
            let answer = self.read();
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// Reads the next message. Events are kept.
    fn read(&mut self) -> Value {
        let mut message = Vec::new();
        self.from.read_until(0, &mut message).expect("the browser answers");
        message.pop();
        let message: Value = serde_json::from_slice(&message).expect("the browser lives");
        match message["method"].as_str() {
            Some("Page.loadEventFired") => self.loaded = true,
            Some("Log.entryAdded") => self.complaints.push(message["params"]["entry"]["text"].to_string()),
            Some("Runtime.exceptionThrown") => self.complaints.push(message["params"].to_string()),
            _ => {}
        }
        message
    }

    fn wait_until_loaded(&mut self) {
        while !std::mem::take(&mut self.loaded) {
            self.read();
        }
    }

    /// Goes to an address, and waits until the page is there.
    pub fn go(&mut self, url: &str) {
        self.loaded = false;
        let went = self.call("Page.navigate", json!({ "url": url }));
        assert!(went["errorText"].is_null(), "{url}: {went}");
        self.wait_until_loaded();
    }

    /// The value of an expression in the page.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true });
        let found = self.call("Runtime.evaluate", parameters);
        assert!(found["exceptionDetails"].is_null(), "{expression}: {found}");
        found["result"]["value"].clone()
    }

    pub fn text(&mut self, expression: &str) -> String {
        self.evaluate(expression).as_str().unwrap_or_default().to_owned()
    }

    pub fn count(&mut self, selector: &str) -> u64 {
        self.evaluate(&format!("document.querySelectorAll({selector:?}).length")).as_u64().unwrap()
    }

    /// Clicks the first element that matches, and waits for the page to which this leads.
    pub fn click(&mut self, selector: &str) {
        self.loaded = false;
        let place = format!(
            "(() => {{ const element = document.querySelector({selector:?});
                       element.scrollIntoView({{ block: 'center' }});
                       const box = element.getClientRects()[0];
                       const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
                       const hit = document.elementFromPoint(x, y);
                       return [x, y, element.contains(hit) || hit.contains(element)]; }})()"
        );
        let place = self.evaluate(&place);
        assert_eq!(place[2], true, "{selector} is covered by something else");
        for event in ["mousePressed", "mouseReleased"] {
            let button =
                json!({ "type": event, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", button);
        }
        self.wait_until_loaded();
    }

    /// Types into a field.
    pub fn write(&mut self, selector: &str, text: &str) {
        self.evaluate(&format!("document.querySelector({selector:?}).focus()"));
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Sets the width of the window. A small width is that of a telephone.
    pub fn resize(&mut self, width: u32) {
        let screen = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", screen);
        self.width = width;
    }

    /// How much wider than the window the page is. Content that scrolls within an element of its own doesn't
    /// count.
    pub fn overflow(&mut self) -> i64 {
        let width = self.evaluate("document.documentElement.scrollWidth").as_i64().unwrap();
        // A vertical scroll bar takes room from the page.
        (width - i64::from(self.width)).max(0)
    }

    /// The times from the click or the change of address to the page's last byte, and to its layout.
    pub fn times(&mut self) -> [Duration; 2] {
        let times = self.evaluate(
            "(() => { const n = performance.getEntriesByType('navigation')[0]; return [n.responseEnd, n.loadEventStart]; })()",
        );
        [0, 1].map(|at| Duration::from_secs_f64(times[at].as_f64().unwrap() / 1000.0))
    }

    /// What the browser has complained about since the last time.
    pub fn complaints(&mut self) -> Vec<String> {
        // When this call is answered, everything that was logged before it has arrived.
        self.evaluate("0");
        std::mem::take(&mut self.complaints)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // This fails only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
