//! The few WebDriver commands (JSON over HTTP) that the tests need. A client crate would pull in twenty others.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

/// The key of an element's id in each answer, defined by the standard.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// The limit for loading a page or running a script.
const LIMIT: Duration = Duration::from_secs(60);
/// Larger than any picture.
const MOST: u64 = 100 << 20;

/// A window of a browser.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    agent: ureq::Agent,
    /// Its address at the driver.
    url: String,
}

/// An element of a page, valid as long as the page contains it.
pub(crate) struct Element<'a> {
    session: &'a Session,
    path: String,
}

/// An error of the driver, in its own words.
#[derive(Debug)]
pub(crate) struct Refused {
    kind: String,
    message: String,
}

impl Refused {
    fn new(kind: &str, message: impl fmt::Display) -> Self {
        Self { kind: kind.to_owned(), message: message.to_string() }
    }

    /// Returns true if the page no longer contains the element.
    pub(crate) fn is_stale(&self) -> bool {
        self.kind == "stale element reference"
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

type Answer<T = ()> = Result<T, Refused>;

impl Session {
    /// Opens a window.
    pub(crate) async fn open(driver: &str, capabilities: Value) -> Answer<Self> {
        // The driver is local, whatever proxy the environment names.
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(LIMIT))
            .proxy(None)
            .build()
            .into();
        let mut session = Self { agent, url: driver.to_owned() };
        let opened =
            session.post("/session", json!({ "capabilities": { "alwaysMatch": capabilities } })).await?;
        session.url = format!("{driver}/session/{}", text(&opened["sessionId"])?);
        Ok(session)
    }

    /// Loads a page.
    pub(crate) async fn go(&self, url: &str) -> Answer {
        self.post("/url", json!({ "url": url })).await.map(drop)
    }

    /// Finds the first matching element.
    pub(crate) async fn find(&self, css: &str) -> Answer<Element<'_>> {
        self.element(self.post("/element", json!({ "using": "css selector", "value": css })).await?)
    }

    /// Returns the focused element.
    pub(crate) async fn focused(&self) -> Answer<Element<'_>> {
        self.element(self.send(None, "/element/active").await?)
    }

    /// Runs a script and returns its result.
    pub(crate) async fn execute(&self, script: &str, arguments: &[&str]) -> Answer<Value> {
        self.post("/execute/sync", json!({ "script": script, "args": arguments })).await
    }

    /// Runs a script and returns what it passes to its last argument, a callback.
    pub(crate) async fn execute_async(&self, script: &str) -> Answer<Value> {
        self.post("/execute/async", json!({ "script": script, "args": [] })).await
    }

    /// Takes a picture of the window: PNG, in base64.
    pub(crate) async fn picture(&self) -> Answer<String> {
        text(&self.send(None, "/screenshot").await?)
    }

    /// Resizes the window, in pixels.
    pub(crate) async fn resize(&self, width: u32, height: u32) -> Answer {
        self.post("/window/rect", json!({ "width": width, "height": height })).await.map(drop)
    }

    /// Closes the window.
    pub(crate) async fn close(&self) -> Answer {
        let (agent, url) = (self.agent.clone(), self.url.clone());
        read(tokio::task::spawn_blocking(move || agent.delete(&url).call()).await).map(drop)
    }

    fn element(&self, found: Value) -> Answer<Element<'_>> {
        Ok(Element { session: self, path: format!("/element/{}", text(&found[ELEMENT])?) })
    }

    async fn post(&self, path: &str, body: Value) -> Answer<Value> {
        self.send(Some(body), path).await
    }

    /// Sends a command, or a query if there is no body.
    async fn send(&self, body: Option<Value>, path: &str) -> Answer<Value> {
        let (agent, url) = (self.agent.clone(), format!("{}{path}", self.url));
        let call = move || match body {
            Some(body) => agent.post(&url).send_json(body),
            None => agent.get(&url).call(),
        };
        read(tokio::task::spawn_blocking(call).await)
    }
}

impl Element<'_> {
    /// Clicks it.
    pub(crate) async fn click(&self) -> Answer {
        self.command("click", json!({})).await
    }

    /// Clears a field.
    pub(crate) async fn clear(&self) -> Answer {
        self.command("clear", json!({})).await
    }

    /// Types; special keys are characters of the private use area.
    pub(crate) async fn send_keys(&self, text: &str) -> Answer {
        self.command("value", json!({ "text": text })).await
    }

    async fn command(&self, name: &str, body: Value) -> Answer {
        self.session.post(&format!("{}/{name}", self.path), body).await.map(drop)
    }
}

type Sent = Result<ureq::http::Response<ureq::Body>, ureq::Error>;

/// Returns the value of an answer, or its error.
fn read(sent: Result<Sent, tokio::task::JoinError>) -> Answer<Value> {
    let mut response =
        sent.expect("no panic").map_err(|error| Refused::new("no answer of the driver", error))?;
    let refused = !response.status().is_success();
    let mut answer: Value = response
        .body_mut()
        .with_config()
        .limit(MOST)
        .read_json()
        .map_err(|error| Refused::new("no answer of the driver", error))?;
    let value = answer["value"].take();
    if refused {
        let words = |name: &str| value[name].as_str().unwrap_or_default();
        return Err(Refused::new(words("error"), words("message")));
    }
    Ok(value)
}

fn text(value: &Value) -> Answer<String> {
    let text = value.as_str().ok_or_else(|| Refused::new("no text in the driver's answer", value))?;
    Ok(text.to_owned())
}
