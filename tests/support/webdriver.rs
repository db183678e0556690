//! The few commands of WebDriver, JSON over HTTP, that the tests give to a browser. A client crate would bring twenty others.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

/// The name of an element's id in each answer, as the standard has it.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// How long a page may load, or a script run.
const LIMIT: Duration = Duration::from_secs(60);
/// More than any picture has.
const MOST: u64 = 100 << 20;

/// A window of a browser.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    agent: ureq::Agent,
    /// Its address at the driver.
    url: String,
}

/// Part of a page, for as long as the page holds it.
pub(crate) struct Element<'a> {
    session: &'a Session,
    path: String,
}

/// What the browser would not do, in the driver's words.
#[derive(Debug)]
pub(crate) struct Refused {
    kind: String,
    message: String,
}

impl Refused {
    fn new(kind: &str, message: impl fmt::Display) -> Self {
        Self { kind: kind.to_owned(), message: message.to_string() }
    }

    /// True if the page holds the element no longer.
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
        // The driver is on this machine, whatever proxy the environment names.
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

    /// The first such element.
    pub(crate) async fn find(&self, css: &str) -> Answer<Element<'_>> {
        self.element(self.post("/element", json!({ "using": "css selector", "value": css })).await?)
    }

    /// The element that has the focus.
    pub(crate) async fn focused(&self) -> Answer<Element<'_>> {
        self.element(self.send(None, "/element/active").await?)
    }

    /// What a script returns.
    pub(crate) async fn execute(&self, script: &str, arguments: &[&str]) -> Answer<Value> {
        self.post("/execute/sync", json!({ "script": script, "args": arguments })).await
    }

    /// What a script gives to the function that is its last argument.
    pub(crate) async fn execute_async(&self, script: &str) -> Answer<Value> {
        self.post("/execute/async", json!({ "script": script, "args": [] })).await
    }

    /// A picture of the window: PNG, in base64.
    pub(crate) async fn picture(&self) -> Answer<String> {
        text(&self.send(None, "/screenshot").await?)
    }

    /// Gives the window a size, in pixels.
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

    /// With a body it is a command, without one a question.
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

    /// Empties a field.
    pub(crate) async fn clear(&self) -> Answer {
        self.command("clear", json!({})).await
    }

    /// Types; a key without a letter is a character of the private use area.
    pub(crate) async fn send_keys(&self, text: &str) -> Answer {
        self.command("value", json!({ "text": text })).await
    }

    async fn command(&self, name: &str, body: Value) -> Answer {
        self.session.post(&format!("{}/{name}", self.path), body).await.map(drop)
    }
}

type Sent = Result<ureq::http::Response<ureq::Body>, ureq::Error>;

/// The value that came, or the error that came in its place.
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
