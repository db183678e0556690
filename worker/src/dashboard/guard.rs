//! The middleware around every request: identifies the viewer and adds security headers to the response.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, FromRequestParts, Request, State as Shared};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use serde_json::json;

use super::login::password::is_same;
use super::login::session::Session;
use super::path;
use super::state::State;
use crate::app::config::dashboard::DashboardRole;

/// The name of the cookie that holds the key of the session.
pub(crate) const COOKIE: &str = "mq-worker-session";
/// The header that an open page sends when it only fetches updates.
const LIVE: &str = "x-live";
/// Allows only our own scripts, styles and requests, and forbids framing the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The user or program that sends a request.
#[derive(Clone, Debug)]
pub(crate) struct Viewer {
    pub(crate) name: String,
    pub(crate) role: DashboardRole,
    pub(crate) via: Via,
    /// True for an open page that only fetches updates.
    pub(crate) is_update: bool,
}

/// How a viewer was identified.
#[derive(Clone, Debug)]
pub(crate) enum Via {
    /// A browser, by its cookie.
    Session { key: String, csrf: String },
    /// A program, by its token. No other site can make a browser send it.
    Token,
}

impl Viewer {
    /// Returns whether the viewer may perform actions.
    pub(crate) fn may_act(&self) -> bool {
        self.role == DashboardRole::Act
    }

    /// The CSRF token that a form must include.
    pub(crate) fn csrf(&self) -> &str {
        match &self.via {
            Via::Session { csrf, .. } => csrf,
            Via::Token => "",
        }
    }

    /// Returns whether a form was sent from one of our own pages.
    pub(crate) fn is_own_form(&self, sent: Option<&str>) -> bool {
        match &self.via {
            Via::Session { csrf, .. } => sent.is_some_and(|sent| is_same(csrf, sent)),
            Via::Token => true,
        }
    }
}

/// The middleware around every route.
pub(crate) async fn around(Shared(state): Shared<Arc<State>>, mut request: Request, next: Next) -> Response {
    if is_foreign_host(&state, &request) {
        let text = "This name is not an address of the management page. Open it as http://127.0.0.1 or http://localhost.";
        return protected((StatusCode::MISDIRECTED_REQUEST, text).into_response());
    }
    let (viewer, cookie) = identify(&state, &request);
    if let Some(mut viewer) = viewer {
        viewer.is_update = request.headers().contains_key(LIVE);
        request.extensions_mut().insert(viewer);
    }
    let mut response = protected(next.run(request).await);
    if let Some(cookie) = cookie
        && !response.headers().contains_key(header::SET_COOKIE)
    {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// Guards against DNS rebinding: without a login, a page on another site could reach us under its own host name.
fn is_foreign_host(state: &State, request: &Request) -> bool {
    if !state.access.is_open() || !state.listen.ip().is_loopback() || state.access.public_url().is_some() {
        return false;
    }
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
    });
    let name = name.trim_start_matches('[').trim_end_matches(']');
    !(name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()))
}

/// Returns the viewer of a request, and the cookie if a session starts with it.
fn identify(state: &State, request: &Request) -> (Option<Viewer>, Option<HeaderValue>) {
    let headers = request.headers();
    if let Some(token) = bearer(headers) {
        let viewer = state.access.of_token(token).map(|(name, role)| Viewer {
            name,
            role,
            via: Via::Token,
            is_update: false,
        });
        return (viewer, None);
    }
    let found = cookie(headers).and_then(|key| Some((key.to_owned(), state.sessions.find(key)?)));
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let said = peer(request).and_then(|peer| state.access.of_proxy(peer, text));
    let said = said.or_else(|| state.access.is_open().then(|| ("everybody".into(), DashboardRole::Act)));
    match (said, found) {
        // The proxy may have authenticated a different user since.
        (Some((name, role)), Some((key, session))) if session.user == name && session.role == role => {
            (Some(viewer(key, session)), None)
        }
        (Some((name, role)), _) => {
            let key = state.sessions.begin(&name, role);
            let set = set_cookie(state, &key);
            (state.sessions.find(&key).map(|session| viewer(key, session)), Some(set))
        }
        (None, Some((key, session))) => (Some(viewer(key, session)), None),
        (None, None) => (None, None),
    }
}

fn viewer(key: String, session: Session) -> Viewer {
    let via = Via::Session { key, csrf: session.csrf };
    Viewer { name: session.user, role: session.role, via, is_update: false }
}

/// The address of the client.
pub(crate) fn peer(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    cookies.flat_map(|cookies| cookies.split(';')).find_map(|cookie| {
        let (name, value) = cookie.trim().split_once('=')?;
        (name == COOKIE).then_some(value)
    })
}

/// The cookie of a session.
pub(crate) fn set_cookie(state: &State, key: &str) -> HeaderValue {
    let secure = if state.access.is_https() { "; Secure" } else { "" };
    let text = format!("{COOKIE}={key}; Path=/; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::try_from(text).expect("hexadecimal digits are fine in a header")
}

fn protected(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

impl FromRequestParts<Arc<State>> for Viewer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<State>) -> Result<Self, Response> {
        if let Some(viewer) = parts.extensions.get::<Self>() {
            return Ok(viewer.clone());
        }
        let path = parts.uri.path();
        if path.starts_with("/api/") {
            let error = "no valid token: send `Authorization: Bearer TOKEN`";
            return Err((StatusCode::UNAUTHORIZED, Json(json!({ "error": error }))).into_response());
        }
        if path == "/live" || parts.headers.contains_key(LIVE) {
            return Err(StatusCode::UNAUTHORIZED.into_response());
        }
        let next = match parts.method {
            Method::GET => parts.uri.path_and_query().map_or("/", |path| path.as_str()),
            _ => "/",
        };
        let to =
            if next == "/" { "/login".to_owned() } else { format!("/login?next={}", path::encoded(next)) };
        Err(Redirect::to(&to).into_response())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_and_tokens_are_read() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=b; mq-worker-session=k; c=d"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("bearer  t0ken "));
        assert_eq!((cookie(&headers), bearer(&headers)), (Some("k"), Some("t0ken")));
        assert_eq!((cookie(&HeaderMap::new()), bearer(&HeaderMap::new())), (None, None));
    }

    #[test]
    fn only_a_form_of_ours_may_act() {
        let via = Via::Session { key: "k".into(), csrf: "c".into() };
        let viewer = Viewer { name: "ada".into(), role: DashboardRole::Act, via, is_update: false };
        assert!(viewer.is_own_form(Some("c")));
        assert!(!viewer.is_own_form(Some("d")) && !viewer.is_own_form(None) && !viewer.is_own_form(Some("")));
    }
}
