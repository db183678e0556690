//! A real browser: Debian's Chromium, driven through its driver.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::webdriver::{Element, Refused, Session};

/// Set to 1 by `tests/run` if there is a browser that tests may start.
pub const ENABLED: &str = "MQ_TEST_BROWSER";
/// The number of concurrent browsers: each needs a core.
const AT_ONCE: usize = 2;
/// How long a page may take to show something.
const LIMIT: Duration = Duration::from_secs(15);

/// The appearance of the browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A desktop with light colours.
    Light,
    /// A desktop with dark colours.
    Dark,
    /// A phone with a width of 360 pixels.
    Phone,
}

/// A browser with one window. It is closed on drop.
#[derive(Debug)]
pub struct Browser {
    session: Session,
    driver: Child,
    _turn: SemaphorePermit<'static>,
}

/// Returns true if tests may start a browser; otherwise prints once what is skipped.
pub fn may_start(file: &str) -> bool {
    let may = std::env::var_os(ENABLED).is_some_and(|value| value == "1");
    static SAID: Once = Once::new();
    if !may {
        SAID.call_once(|| {
            let _ = writeln!(
                std::io::stderr(),
                "\n{file}: tests in a browser are LEFT OUT, for {ENABLED}=1 is not set; ./tests/run runs them"
            );
        });
    }
    may
}

impl Browser {
    /// Starts a browser.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start(look: Look) -> Self {
        static TURNS: Semaphore = Semaphore::const_new(AT_ONCE);
        let turn = TURNS.acquire().await.expect("the semaphore is never closed");
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is not installed: apt-get install chromium chromium-driver");
        let stdout = driver.stdout.take().expect("it was piped");
        let port = tokio::task::spawn_blocking(move || {
            let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
            // `ChromeDriver was started successfully on port 12345.`
            lines.find_map(|line| {
                line.split("successfully on port ").nth(1)?.trim_end_matches('.').parse::<u16>().ok()
            })
        });
        let port = port.await.expect("no panic").expect("chromedriver names its port");
        let mut arguments =
            vec!["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,860"];
        if look == Look::Dark {
            arguments.push("--blink-settings=preferredColorScheme=0");
        }
        let mut options = json!({ "args": arguments });
        if look == Look::Phone {
            options["mobileEmulation"] =
                json!({ "deviceMetrics": { "width": 360, "height": 740, "pixelRatio": 2.0 } });
        }
        let capabilities = json!({ "goog:chromeOptions": options });
        let session = Session::open(&format!("http://127.0.0.1:{port}"), capabilities).await;
        let session = session.unwrap_or_else(|error| panic!("no browser: {error}"));
        Self { session, driver, _turn: turn }
    }

    /// Opens a page.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub async fn open(&self, url: &str) {
        self.session.go(url).await.unwrap_or_else(|error| panic!("cannot open {url}: {error}"));
    }

    /// Waits for an element and clicks it.
    ///
    /// # Panics
    /// When it does not appear or cannot be clicked.
    pub async fn click(&self, css: &str) {
        self.act(css, "click", async |element| element.click().await).await;
    }

    /// Replaces the content of a field.
    ///
    /// # Panics
    /// When there is no such field.
    pub async fn fill(&self, css: &str, text: &str) {
        self.act(css, "fill", async |field| {
            field.clear().await?;
            field.send_keys(text).await
        })
        .await;
    }

    /// Waits for an element and acts on it; repeats that if a live page replaced it meanwhile.
    async fn act(&self, css: &str, what: &str, act: impl AsyncFn(Element<'_>) -> Result<(), Refused>) {
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            self.wait(css).await;
            let done = async { act(self.session.find(css).await?).await }.await;
            match done {
                Ok(()) => return,
                Err(error) if error.is_stale() && tokio::time::Instant::now() < deadline => {}
                Err(error) => panic!("cannot {what} {css}: {error}"),
            }
        }
    }

    /// Waits for an element.
    ///
    /// # Panics
    /// When it does not appear.
    pub async fn wait(&self, css: &str) {
        let deadline = tokio::time::Instant::now() + LIMIT;
        while let Err(error) = self.session.find(css).await {
            if tokio::time::Instant::now() > deadline {
                panic!("{css} does not come: {error}; the page says\n{}", self.text("body").await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Types into the focused element.
    ///
    /// # Panics
    /// When no element accepts it.
    pub async fn type_keys(&self, keys: &str) {
        let typed = async { self.session.focused().await?.send_keys(keys).await }.await;
        typed.unwrap_or_else(|error| panic!("cannot type: {error}"));
    }

    /// Waits until an element contains a text.
    ///
    /// # Panics
    /// When it never does.
    pub async fn wait_for(&self, css: &str, text: &str) {
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            let found = self.text(css).await;
            if found.contains(text) {
                return;
            }
            if tokio::time::Instant::now() > deadline {
                panic!(
                    "{css} does not say `{text}`, but `{found}`; the page says\n{}",
                    self.text("body").await
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the visible text of the first matching element; empty if there is none.
    pub async fn text(&self, css: &str) -> String {
        let script = "return document.querySelector(arguments[0])?.innerText ?? ''";
        let text = self.session.execute(script, &[css]).await.unwrap_or_default();
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Runs a script and returns its result.
    ///
    /// # Panics
    /// When it fails.
    pub async fn script(&self, script: &str) -> Value {
        self.session.execute(script, &[]).await.unwrap_or_else(|error| panic!("cannot run {script}: {error}"))
    }

    /// Runs a script and returns the result of its promise.
    ///
    /// # Panics
    /// When it fails.
    pub async fn promise(&self, expression: &str) -> Value {
        let script =
            format!("const done = arguments[0]; {expression}.then(done, (error) => done(String(error)))");
        self.session
            .execute_async(&script)
            .await
            .unwrap_or_else(|error| panic!("cannot run {script}: {error}"))
    }

    /// Takes a picture of the window, as PNG.
    ///
    /// # Panics
    /// When it cannot be taken.
    pub async fn picture(&self) -> Vec<u8> {
        let picture = self.session.picture().await.unwrap_or_else(|error| panic!("no picture: {error}"));
        STANDARD.decode(picture).expect("base64")
    }

    /// Takes a picture of the whole page, as PNG.
    ///
    /// # Panics
    /// When it cannot be taken.
    pub async fn whole(&self) -> Vec<u8> {
        let height =
            self.script("return document.documentElement.scrollHeight").await.as_u64().unwrap_or(740);
        let width = self.script("return window.innerWidth").await.as_u64().unwrap_or(360);
        let (width, height) = (width as u32, (height as u32).min(4000));
        // A phone has a fixed size that resizing the window does not change.
        if width > 500 {
            let resized = self.session.resize(width, height + 150).await;
            resized.unwrap_or_else(|error| panic!("no larger window: {error}"));
        }
        self.picture().await
    }

    /// Returns true if the page needs no horizontal scrolling.
    pub async fn fits(&self) -> bool {
        let overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
        self.script(overflow).await.as_i64() == Some(0)
    }

    /// Closes the window.
    pub async fn close(self) {
        let _ = self.session.close().await;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
