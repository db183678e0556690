//! A small SMS gateway on loopback, with Twilio's API.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::extract::{DefaultBodyLimit, Form, Path, State, rejection::FormRejection};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing::post};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{BUSY_PREFIX, KEPT};

const SID: &str = "AC00000000000000000000000000000001";
const TOKEN: &str = "demonstration";
/// `SID:TOKEN` in Base64, as Basic authentication sends it.
const CREDENTIALS: &str = "Basic QUMwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMTpkZW1vbnN0cmF0aW9u";
/// How often a busy number is refused.
const BUSY: u32 = 2;

/// A text message that the gateway accepted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Text {
    /// The recipient's number.
    pub to: String,
    /// The sender's number.
    pub from: String,
    /// The text.
    pub body: String,
}

/// The gateway. It stops when dropped.
#[derive(Debug)]
pub struct SmsSink {
    address: SocketAddr,
    taken: Shared,
    serving: JoinHandle<io::Result<()>>,
}

type Shared = Arc<Mutex<Taken>>;

#[derive(Debug, Default)]
struct Taken {
    newest: VecDeque<Text>,
    received: HashMap<String, u32>,
    /// How often each busy number was refused.
    refused: HashMap<String, u32>,
    count: u64,
}

impl SmsSink {
    /// Starts a gateway on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// Fails if no port is free.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let taken = Shared::default();
        let router = Router::new()
            .route("/2010-04-01/Accounts/{sid}/Messages.json", post(messages))
            .layer(DefaultBodyLimit::max(64 * 1024))
            .with_state(Arc::clone(&taken));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, taken, serving })
    }

    /// The address for `SMS_GATEWAY_URL`.
    pub fn url(&self) -> String {
        format!("http://{SID}:{TOKEN}@{}", self.address)
    }

    /// How many texts each number got.
    pub fn received(&self) -> HashMap<String, u32> {
        self.taken.lock().expect("never poisoned").received.clone()
    }

    /// How many numbers got a text.
    pub fn recipients(&self) -> usize {
        self.taken.lock().expect("never poisoned").received.len()
    }

    /// The newest texts, the oldest of them first.
    pub fn newest(&self) -> Vec<Text> {
        self.taken.lock().expect("never poisoned").newest.iter().cloned().collect()
    }
}

impl Drop for SmsSink {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn messages(
    State(taken): State<Shared>,
    Path(sid): Path<String>,
    headers: HeaderMap,
    form: Result<Form<Text>, FormRejection>,
) -> Response {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if sid != SID || authorization != Some(CREDENTIALS) {
        return refuse(StatusCode::UNAUTHORIZED, 20003, "Authenticate");
    }
    let text = match form {
        Ok(Form(text)) => text,
        Err(problem) => return refuse(problem.status(), 21602, &problem.body_text()),
    };
    for (number, code) in [(&text.to, 21211), (&text.from, 21212)] {
        if !is_number(number) {
            let problem = format!("The number {number} is not a valid phone number.");
            return refuse(StatusCode::BAD_REQUEST, code, &problem);
        }
    }
    if text.body.is_empty() || text.body.chars().count() > 1600 {
        return refuse(StatusCode::BAD_REQUEST, 21617, "A body has 1 to 1600 characters.");
    }
    let mut taken = taken.lock().expect("never poisoned");
    match taken.take(text) {
        Some(created) => (StatusCode::CREATED, Json(created)).into_response(),
        None => refuse(StatusCode::SERVICE_UNAVAILABLE, 20503, "Service is temporarily unavailable."),
    }
}

impl Taken {
    /// Accepts a text and returns its description. `None` if the number is busy.
    fn take(&mut self, text: Text) -> Option<Value> {
        if text.to.starts_with(BUSY_PREFIX) {
            let refused = self.refused.entry(text.to.clone()).or_default();
            if *refused < BUSY {
                *refused += 1;
                return None;
            }
        }
        self.count += 1;
        *self.received.entry(text.to.clone()).or_default() += 1;
        let created = json!({
            "sid": format!("SM{:032x}", self.count),
            "account_sid": SID,
            "status": "queued",
            "to": text.to,
            "from": text.from,
            "body": text.body,
        });
        if self.newest.len() == KEPT {
            self.newest.pop_front();
        }
        self.newest.push_back(text);
        Some(created)
    }
}

fn refuse(status: StatusCode, code: u32, message: &str) -> Response {
    let answer = json!({ "code": code, "message": message, "status": status.as_u16() });
    (status, Json(answer)).into_response()
}

/// E.164: a plus sign and up to 15 digits, no zero in front.
fn is_number(number: &str) -> bool {
    number.strip_prefix('+').is_some_and(|digits| {
        (8..=15).contains(&digits.len())
            && digits.bytes().all(|digit| digit.is_ascii_digit())
            && !digits.starts_with('0')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn post(sink: &SmsSink, token: &str, fields: &[(&str, &str)]) -> (u16, Value) {
        let _was_first = rustls::crypto::ring::default_provider().install_default();
        let url = format!("http://{}/2010-04-01/Accounts/{SID}/Messages.json", sink.address);
        let request = reqwest::Client::new().post(url).basic_auth(SID, Some(token)).form(fields);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    #[tokio::test]
    async fn the_gateway_is_picky_and_says_why() {
        let sink = SmsSink::start().await.unwrap();
        let to = ("To", "+15550000001");
        let (from, body) = (("From", "+15550100100"), ("Body", "hi"));
        let long = "x".repeat(1601);
        for (token, fields, status, code) in [
            ("wrong", &[to, from, body][..], 401, 20003),
            (TOKEN, &[to, from], 422, 21602),
            (TOKEN, &[("To", "5550000001"), from, body], 400, 21211),
            (TOKEN, &[("To", "+1555"), from, body], 400, 21211),
            (TOKEN, &[to, ("From", "+0555000000"), body], 400, 21212),
            (TOKEN, &[to, from, ("Body", "")], 400, 21617),
            (TOKEN, &[to, from, ("Body", &long)], 400, 21617),
        ] {
            let (answered, answer) = post(&sink, token, fields).await;
            assert_eq!((answered, &answer["code"]), (status, &json!(code)), "{answer}");
        }
        assert_eq!(sink.recipients(), 0);
        let (status, answer) = post(&sink, TOKEN, &[to, from, body]).await;
        assert_eq!((status, &answer["status"]), (201, &json!("queued")));
        assert!(answer["sid"].as_str().unwrap().starts_with("SM"));
    }

    #[tokio::test]
    async fn a_busy_number_is_refused_twice_then_taken() {
        let sink = SmsSink::start().await.unwrap();
        let fields = [("To", "+15559000005"), ("From", "+15550100100"), ("Body", "hi")];
        let mut statuses = Vec::new();
        for _ in 0..4 {
            statuses.push(post(&sink, TOKEN, &fields).await.0);
        }
        assert_eq!(statuses, [503, 503, 201, 201]);
        assert_eq!(sink.received()["+15559000005"], 2);
    }
}
