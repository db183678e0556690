//! The router: chooses the address of a task's message.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The address of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The exchange; empty is the default exchange, where the routing key is the name of the queue.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// The queue that must exist before publishing, if the address names one.
    pub queue: Option<String>,
    /// The priority set by a rule.
    pub priority: Option<u8>,
}

impl Route {
    /// Directly to a queue.
    pub fn to_queue(queue: impl Into<String>) -> Self {
        let queue = queue.into();
        Self { exchange: String::new(), routing_key: queue.clone(), queue: Some(queue), priority: None }
    }

    /// To an exchange.
    pub fn to_exchange(exchange: impl Into<String>, routing_key: impl Into<String>) -> Self {
        Self { exchange: exchange.into(), routing_key: routing_key.into(), queue: None, priority: None }
    }
}

/// One rule: the address of tasks whose name matches `task`. `*` matches any characters, as in Celery's
/// `task_routes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRule {
    /// A task name or a pattern such as `feed.*`.
    pub task: String,
    /// The queue.
    #[serde(default)]
    pub queue: Option<String>,
    /// The exchange, with `routing_key`.
    #[serde(default)]
    pub exchange: Option<String>,
    /// The routing key; default is the queue's name.
    #[serde(default)]
    pub routing_key: Option<String>,
    /// The priority.
    #[serde(default)]
    pub priority: Option<u8>,
}

/// Chooses the address: options of the call, then the first matching rule, then the task's own queue, then the
/// default queue.
#[derive(Clone, Debug)]
pub struct Router {
    rules: Vec<RouteRule>,
    default_queue: String,
}

/// The address options of a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// The queue.
    pub queue: Option<&'a str>,
    /// The exchange.
    pub exchange: Option<&'a str>,
    /// The routing key.
    pub routing_key: Option<&'a str>,
}

impl Router {
    /// A router with these rules, in order.
    ///
    /// # Errors
    /// A rule without queue, exchange and priority.
    pub fn new(rules: Vec<RouteRule>, default_queue: impl Into<String>) -> Result<Self> {
        for rule in &rules {
            if rule.queue.is_none() && rule.exchange.is_none() && rule.priority.is_none() {
                return Err(Error::config(format!(
                    "route for `{}` has no effect: give it a queue, an exchange or a priority",
                    rule.task
                )));
            }
        }
        Ok(Self { rules, default_queue: default_queue.into() })
    }

    /// The address of a call of `task` with the queue `task_queue` in its attribute.
    pub fn route(&self, task: &str, task_queue: Option<&str>, wanted: Wanted<'_>) -> Route {
        let rule = self.rules.iter().find(|rule| glob(&rule.task, task));
        let mut route = match (wanted, rule) {
            (Wanted { exchange: Some(exchange), routing_key, queue, .. }, _) => {
                Route::to_exchange(exchange, routing_key.or(queue).unwrap_or_default())
            }
            (Wanted { queue: Some(queue), .. }, _) => Route::to_queue(queue),
            (Wanted { routing_key: Some(key), .. }, _) => Route::to_queue(key),
            (_, Some(RouteRule { exchange: Some(exchange), routing_key, queue, .. })) => Route::to_exchange(
                exchange,
                routing_key.as_ref().or(queue.as_ref()).cloned().unwrap_or_default(),
            ),
            (_, Some(RouteRule { queue: Some(queue), .. })) => Route::to_queue(queue),
            _ => Route::to_queue(task_queue.unwrap_or(&self.default_queue)),
        };
        route.priority = rule.and_then(|rule| rule.priority);
        route
    }

    /// The queue for tasks that do not name one.
    pub fn default_queue(&self) -> &str {
        &self.default_queue
    }
}

/// `*` matches any run of characters, dots included.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text, expected) in [
            ("feed.*", "feed.tasks.import", true),
            ("feed.*", "fee", false),
            ("*.import", "feed.import", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("same", "same", true),
            ("same", "samey", false),
            ("*", "", true),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn the_call_beats_the_rule_beats_the_task_beats_the_default() {
        let rule = RouteRule {
            task: "mail.*".into(),
            queue: Some("mail".into()),
            exchange: None,
            routing_key: None,
            priority: Some(3),
        };
        let router = Router::new(vec![rule], "default").expect("a good rule");
        let queue = |task, own, wanted| router.route(task, own, wanted).routing_key;
        let nothing = Wanted::default();
        assert_eq!(queue("mail.send", Some("own"), Wanted { queue: Some("call"), ..nothing }), "call");
        assert_eq!(queue("mail.send", Some("own"), nothing), "mail");
        assert_eq!(queue("sms.send", Some("own"), nothing), "own");
        assert_eq!(queue("sms.send", None, nothing), "default");
        assert_eq!(router.route("mail.send", None, nothing).priority, Some(3));
    }
}
