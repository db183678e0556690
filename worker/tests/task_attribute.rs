//! Functions with `#[task]`: called directly, run by a worker from a message, queued.

// The generated code must not need any lint exceptions in a strict program.
#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, unreachable_pub, clippy::all)]

use std::collections::HashMap;
use std::time::Duration;

use mq_worker::message::NoArgs;
use mq_worker::message::codec::Body;
use mq_worker::task::{Registry, TaskEntry, Work};
use mq_worker::{AckMode, Backoff, Context, Permanence, Task, TaskError, TaskOptions, task};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
}

fn ada() -> User {
    User { name: "Ada".into() }
}

#[derive(Debug)]
struct MailError;

impl std::fmt::Display for MailError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no such mailbox")
    }
}

impl std::error::Error for MailError {}

/// Greets a user.
///
/// In two paragraphs.
#[task(queue = "greetings")]
async fn greet(user: User, mut greeting: String) -> Result<String, MailError> {
    if user.name.is_empty() {
        return Err(MailError);
    }
    greeting.push_str(", ");
    Ok(greeting + &user.name)
}

#[task]
async fn nothing() {}

#[task]
fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
#[allow(clippy::too_many_arguments)]
async fn twelve(
    a: u8,
    b: u8,
    c: u8,
    d: u8,
    e: u8,
    f: u8,
    g: u8,
    h: u8,
    i: u8,
    j: u8,
    k: u8,
    l: String,
) -> String {
    format!("{a}{b}{c}{d}{e}{f}{g}{h}{i}{j}{k}{l}")
}

#[task]
async fn with_context(ctx: &Context, suffix: String) -> String {
    tokio::task::yield_now().await;
    format!("{}{suffix}", ctx.retries())
}

#[task]
fn plain_with_context(_: &mq_worker::Context, suffix: String) -> String {
    suffix
}

#[task]
async fn optional(first: u32, second: Option<u32>) -> (u32, Option<u32>) {
    (first, second)
}

#[task]
async fn keyword(r#type: String, _ignored: bool) -> String {
    r#type
}

#[task]
async fn generic_types(rows: Vec<HashMap<String, (u8, [u16; 2])>>) -> usize {
    rows.len()
}

#[task(
    name = "billing.charge",
    queue = "billing",
    max_retries = 7,
    backoff = "500ms..2m",
    time_limit = "1m 30s",
    soft_time_limit = "80s",
    isolate,
    memory_limit = "512MB",
    unique_for = "2h",
    once_for = "10m",
    ack = "early",
    priority = 9,
    expires = "1h",
    ignore_result,
    topic = "order.*.paid",
    topic = ["refund.#", "#"],
    exchange = "shop"
)]
async fn charge() {}

#[task(broadcast, ack = "late", ignore_result = false, max_retries = 0)]
async fn reload() {}

fn entry(name: &str) -> &'static TaskEntry {
    Registry::collect().expect("names differ").get(name).unwrap_or_else(|| panic!("no task `{name}`"))
}

/// Runs a body as a worker would, without the queue.
async fn run(name: &str, body: Value) -> Result<Value, TaskError> {
    let body = body.to_string();
    let call = Body::parse(body.as_bytes()).expect("a body");
    let work = (entry(name).start)(Context::detached(), call.arguments).expect("arguments that fit");
    let json = match work {
        Work::Async(future) => future.await?,
        Work::Blocking(run) => run()?,
        Work::Isolated { .. } => unreachable!("only a worker isolates"),
    };
    Ok(serde_json::from_slice(&json).expect("JSON"))
}

/// Returns why a worker refuses a body.
fn refused(name: &str, body: Value) -> String {
    let body = body.to_string();
    let call = Body::parse(body.as_bytes()).expect("a body");
    match (entry(name).start)(Context::detached(), call.arguments) {
        Ok(_) => panic!("`{name}` takes {body}"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_task_is_still_a_function() {
    assert_eq!(greet(ada(), "Hello".into()).await.unwrap(), "Hello, Ada");
    nothing().await;
    assert_eq!(add(1, 2), 3);
    assert_eq!(with_context(&Context::detached(), "!".into()).await, "0!");
    assert_eq!(plain_with_context(&Context::detached(), "!".into()), "!");
    // Through a variable, and by dereferencing.
    let function = *add;
    assert_eq!(function(3, 4), 7);
}

#[tokio::test]
async fn arguments_come_by_position_by_name_or_mixed() {
    let user = json!({"name": "Ada"});
    for body in [
        json!([[user, "Hi"], {}, null]),
        json!([[user], {"greeting": "Hi"}, {}]),
        json!([[], {"greeting": "Hi", "user": user}, {}]),
    ] {
        assert_eq!(run("greet", body.clone()).await.unwrap(), "Hi, Ada", "{body}");
    }
    assert_eq!(run("keyword", json!([[], {"type": "t", "_ignored": true}, {}])).await.unwrap(), "t");
}

#[tokio::test]
async fn zero_and_twelve_arguments_work() {
    assert_eq!(run("nothing", json!([[], {}, {}])).await.unwrap(), Value::Null);
    let body = json!([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, "x"], {}, {}]);
    assert_eq!(run("twelve", body).await.unwrap(), "01234567890x");
    let direct = twelve(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, "x".into()).await;
    assert_eq!(direct, "01234567890x");
}

#[tokio::test]
async fn the_context_is_no_argument() {
    assert_eq!(run("with_context", json!([["!"], {}, {}])).await.unwrap(), "0!");
    assert_eq!(run("plain_with_context", json!([[], {"suffix": "!"}, {}])).await.unwrap(), "!");
    assert_eq!(entry("with_context").parameters, ["suffix"]);
}

#[tokio::test]
async fn an_option_may_be_left_out() {
    assert_eq!(run("optional", json!([[1], {}, {}])).await.unwrap(), json!([1, null]));
    assert_eq!(run("optional", json!([[1, 2], {}, {}])).await.unwrap(), json!([1, 2]));
    assert_eq!(run("optional", json!([[], {"second": 2, "first": 1}, {}])).await.unwrap(), json!([1, 2]));
}

#[test]
fn arguments_that_do_not_fit_are_refused_with_their_names() {
    for (name, body, message) in [
        ("add", json!([[1], {}, {}]), "argument `b` is missing"),
        ("add", json!([[1, 2, 3], {}, {}]), "3 arguments given, the task takes 2 (a, b)"),
        ("add", json!([[1, 2], {"c": 3}, {}]), "the task has no parameter `c` (a, b)"),
        ("add", json!([[1, 2], {"a": 3}, {}]), "argument `a` is given twice, by position and by name"),
        ("nothing", json!([[1], {}, {}]), "1 arguments given, the task takes 0"),
    ] {
        assert_eq!(refused(name, body), message, "{name}");
    }
    let message = refused("add", json!([[1, "hunter2"], {}, {}]));
    assert!(message.starts_with("argument `b` does not fit: invalid type: string, expected "), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn a_body_that_is_none_is_refused_with_the_part_that_is_wrong() {
    for (body, wrong) in [
        (&b"[[1], [2], {}]"[..], "`kwargs` is not an object"),
        (b"[[1], \"hunter2\", {}]", "`kwargs` is not an object"),
        (b"[[1]]", "it has 1 parts, and `kwargs` is missing"),
        (b"[{\"a\": 1}, {}, {}]", "`args` is not an array"),
        (b"[[1], {}, {\"chain\": \"hunter2\"}]", "`embed`: invalid type: string, expected a sequence"),
        (b"{\"args\": [1]}", "it is not an array"),
        (b"[[\"\xff\"], {}, {}]", "the text is not UTF-8 (byte 4)"),
        (b"[[1], {}, {}", "EOF while parsing"),
    ] {
        let error = Body::parse(body).map(drop).expect_err("not a body");
        assert!(error.starts_with(&format!("the body is not `[args, kwargs, embed]`: {wrong}")), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let latin = bytes::Bytes::from_static(b"Gr\xfc\xdfe");
    let call = Body::plain(&latin, Some("text/plain"));
    let refused = (entry("with_context").start)(Context::detached(), call.arguments);
    let error = refused.err().expect("no text").to_string();
    assert!(error.ends_with("the text is not UTF-8 (byte 3)"), "{error}");
}

#[test]
fn plain_functions_go_to_the_blocking_pool() {
    let kind = |name: &str, body: &str| {
        let call = Body::parse(body.as_bytes()).unwrap();
        matches!((entry(name).start)(Context::detached(), call.arguments).unwrap(), Work::Blocking(_))
    };
    assert!(kind("add", "[[1, 2], {}, {}]"));
    assert!(!kind("nothing", "[[], {}, {}]"));
}

#[test]
fn options_become_constants() {
    assert_eq!(nothing::NAME, "nothing");
    assert_eq!(nothing::OPTIONS, TaskOptions::DEFAULT);
    assert_eq!(charge::NAME, "billing.charge");
    assert_eq!(
        charge::OPTIONS,
        TaskOptions {
            queue: Some("billing"),
            topics: &["order.*.paid", "refund.#", "#"],
            exchange: Some("shop"),
            broadcast: false,
            max_retries: 7,
            backoff: Backoff { min: Duration::from_millis(500), max: Duration::from_secs(120) },
            time_limit: Some(Duration::from_secs(90)),
            soft_time_limit: Some(Duration::from_secs(80)),
            isolate: true,
            memory_limit: Some(512_000_000),
            unique_for: Some(Duration::from_secs(7200)),
            once_for: Some(Duration::from_secs(600)),
            ack: AckMode::Early,
            priority: Some(9),
            expires: Some(Duration::from_secs(3600)),
            ignore_result: true,
            ..TaskOptions::DEFAULT
        }
    );
    assert_eq!(reload::OPTIONS, TaskOptions { broadcast: true, max_retries: 0, ..TaskOptions::DEFAULT });
}

#[test]
fn the_worker_knows_what_people_want_to_read() {
    let known = entry("greet");
    assert_eq!(known.signature, "user: User, greeting: String");
    assert_eq!(known.parameters, ["user", "greeting"]);
    assert_eq!(known.doc, "Greets a user.\n\nIn two paragraphs.");
    assert!(known.file.ends_with("task_attribute.rs"), "{}", known.file);
    let line =
        include_str!("task_attribute.rs").lines().position(|line| line == "#[task(queue = \"greetings\")]");
    assert_eq!(Some(known.line as usize), line.map(|index| index + 1));
    assert_eq!(entry("generic_types").signature, "rows: Vec<HashMap<String, (u8, [u16; 2])>>");
    assert_eq!(entry("keyword").signature, "type: String, _ignored: bool");
}

#[tokio::test]
async fn bytes_and_documents_of_plain_messages_reach_the_one_argument() {
    let body = "[[1], {}]".into();
    let call = Body::plain(&body, None);
    let work = (entry("optional").start)(Context::detached(), call.arguments);
    assert!(work.is_err(), "a list is no number");
    let body = "41".into();
    let call = Body::plain(&body, None);
    let Work::Async(work) = (entry("optional").start)(Context::detached(), call.arguments).unwrap() else {
        panic!("an async task");
    };
    assert_eq!(work.await.unwrap(), b"[41,null]");
}

mod errors {
    use super::*;

    #[derive(Debug)]
    struct Refused;

    impl std::fmt::Display for Refused {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("550")
        }
    }

    impl Permanence for Refused {
        fn is_permanent(&self) -> bool {
            true
        }
    }

    /// An alias like that of `anyhow` and others.
    type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

    #[task]
    async fn fails_with_error() -> std::result::Result<(), MailError> {
        Err(MailError)
    }

    #[task]
    async fn fails_with_text() -> std::result::Result<(), String> {
        Err("text".to_owned())
    }

    #[task]
    async fn fails_with_str() -> std::result::Result<(), &'static str> {
        Err("str")
    }

    #[task]
    async fn fails_for_good() -> std::result::Result<(), Refused> {
        Err(Refused)
    }

    #[task]
    fn fails_by_hand() -> std::result::Result<(), TaskError> {
        Err(TaskError::retry_in(Duration::from_secs(5), "later"))
    }

    #[task]
    async fn fails_by_alias() -> Result<u32> {
        Ok("x".parse::<u32>()?)
    }

    async fn outcome(name: &str) -> TaskError {
        run(name, json!([[], {}, {}])).await.expect_err("the task fails")
    }

    #[tokio::test]
    async fn every_kind_of_error_becomes_a_task_error() {
        let error = outcome("fails_with_error").await;
        assert!(
            matches!(&error, TaskError::Failed(f) if f.kind == "MailError" && f.message == "no such mailbox")
        );
        let error = outcome("fails_with_text").await;
        assert!(matches!(&error, TaskError::Failed(f) if f.message == "text"), "{error:?}");
        let error = outcome("fails_with_str").await;
        assert!(matches!(&error, TaskError::Failed(f) if f.message == "str"), "{error:?}");
        let error = outcome("fails_for_good").await;
        assert!(matches!(&error, TaskError::Rejected(f) if f.message == "550"), "{error:?}");
        let error = outcome("fails_by_hand").await;
        assert!(matches!(&error, TaskError::Retry { after, .. } if after.as_secs() == 5), "{error:?}");
        let error = outcome("fails_by_alias").await;
        assert!(matches!(&error, TaskError::Failed(f) if f.message.contains("invalid digit")), "{error:?}");
    }
}

/// Visibility, attributes and names.
pub mod surroundings {
    use super::*;

    /// The argument of a public task.
    #[derive(Serialize, Deserialize)]
    pub struct Ticket(pub u8);

    /// A public task.
    #[task(name = "surroundings.open")]
    pub async fn open(ticket: Ticket) -> u8 {
        ticket.0
    }

    /// Seen by the parent module alone.
    #[task]
    pub(super) async fn half_open(_ticket: Ticket) {}

    // Shadowed names of the standard library do no harm.
    #[allow(dead_code, unused_imports)]
    mod shadowed {
        type Option = ();
        type Vec = ();
        struct Box;
        enum Other {
            Some,
            Ok,
        }
        use Other::{Ok, Some};

        #[mq_worker::task(queue = "q", priority = 1)]
        async fn among_shadows(
            names: std::vec::Vec<u8>,
        ) -> std::result::Result<std::string::String, super::MailError> {
            std::result::Result::Ok(names.len().to_string())
        }
    }

    // Local variables of the generated code must not clash with tasks of these names.
    #[task]
    async fn arguments(context: u8) -> u8 {
        context
    }
    #[task]
    async fn value(calls: u8) -> u8 {
        calls
    }
    #[task]
    async fn error(user: u8) -> u8 {
        user
    }

    // Method names as task names.
    #[task]
    async fn delay(by: u8, delay_many: u8) -> u8 {
        by + delay_many
    }
    #[task]
    async fn with() {}

    #[cfg(any())]
    #[task]
    async fn left_out_above() -> DoesNotExist {}

    #[task]
    #[cfg(any())]
    async fn left_out_below() -> DoesNotExist {}

    #[task]
    #[cfg_attr(all(), allow(clippy::needless_return), cfg(all()))]
    #[inline]
    #[must_use]
    #[expect(unused_variables, reason = "on the function and nowhere else")]
    async fn attributed(unused: u8) -> u8 {
        return 1;
    }

    // Other attributes apply to the function under its own name, above or below `#[task]`.
    #[task]
    #[tracing::instrument(skip_all)]
    async fn traced_below(n: u8) -> Result<u8, MailError> {
        Ok(n)
    }
    #[tracing::instrument(skip_all)]
    #[task]
    async fn traced_above(n: u8) -> Result<u8, MailError> {
        Ok(n)
    }

    /// Deprecated, which its own code is not told.
    #[deprecated]
    #[task]
    pub async fn old() {}

    #[tokio::test]
    #[allow(clippy::let_unit_value)]
    async fn tasks_of_all_names_run() {
        assert_eq!(run("surroundings.open", json!([[7], {}, {}])).await.unwrap(), 7);
        assert_eq!(run("among_shadows", json!([[[1, 2]], {}, {}])).await.unwrap(), "2");
        assert_eq!(run("arguments", json!([[7], {}, {}])).await.unwrap(), 7);
        assert_eq!(run("value", json!([[7], {}, {}])).await.unwrap(), 7);
        assert_eq!(run("error", json!([[7], {}, {}])).await.unwrap(), 7);
        assert_eq!(run("delay", json!([[7, 1], {}, {}])).await.unwrap(), 8);
        assert_eq!(run("attributed", json!([[7], {}, {}])).await.unwrap(), 1);
        assert_eq!(run("traced_below", json!([[7], {}, {}])).await.unwrap(), 7);
        assert_eq!(run("traced_above", json!([[7], {}, {}])).await.unwrap(), 7);
        assert_eq!(delay(1, 2).await, 3);
        with().await;
    }

    #[test]
    fn conditional_tasks_are_left_out() {
        let registry = Registry::collect().unwrap();
        assert!(registry.get("left_out_above").is_none());
        assert!(registry.get("left_out_below").is_none());
        assert!(registry.get("half_open").is_some());
    }
}

#[tokio::test]
async fn a_task_inside_a_function_is_a_task() {
    #[task]
    async fn inner(n: u8) -> u8 {
        n + 1
    }
    assert_eq!(inner(1).await, 2);
    assert_eq!(run("inner", json!([[1], {}, {}])).await.unwrap(), 2);
}

macro_rules! make_task {
    ($name:ident, $parameter:ident: $ty:ty, $returned:ty, $queue:literal, $retries:expr) => {
        #[task(queue = $queue, max_retries = $retries)]
        async fn $name($parameter: $ty) -> $returned {
            Ok($parameter.to_string())
        }
    };
}

make_task!(made_by_a_macro, number: u8, Result<String, String>, "made", 2);

#[tokio::test]
async fn a_macro_may_write_a_task() {
    assert_eq!(run("made_by_a_macro", json!([[1], {}, {}])).await.unwrap(), "1");
    assert_eq!(made_by_a_macro::OPTIONS.queue, Some("made"));
    assert_eq!(made_by_a_macro::OPTIONS.max_retries, 2);
}

/// Calls itself, directly and through the queue: its own name is the task in there too.
#[task]
async fn countdown(n: u32) -> u32 {
    if n == 0 {
        return 0;
    }
    let _later = countdown.with(n - 1);
    1 + countdown(n - 1).await
}

#[tokio::test]
async fn a_task_may_call_itself() {
    assert_eq!(countdown(3).await, 3);
}

/// The library under another path.
mod renamed {
    pub(crate) use mq_worker as queues;

    #[mq_worker::task(crate = "crate::renamed::queues", name = "by_another_path")]
    async fn elsewhere() {}
}

#[tokio::test]
async fn the_library_may_have_another_path() {
    assert_eq!(run("by_another_path", json!([[], {}, {}])).await.unwrap(), Value::Null);
}

/// Checked at compile time only: calls that users may write, and that futures can be spawned.
#[test]
fn calls_can_be_written_and_sent_from_any_thread() {
    fn sendable<T: Send>(_: T) {}
    fn spawnable<T: Send + 'static>(_: T) {}
    fn is_task<T: Task<Args = NoArgs>>(_: T) {}

    spawnable(nothing.delay());
    spawnable(greet.delay(ada(), "text"));
    spawnable(greet.delay(ada(), String::from("text")));
    spawnable(add.delay(1, 2));
    let text = String::from("text");
    sendable(greet.delay(ada(), &text));
    sendable(add.delay_many([(1, 2), (3, 4)]));
    spawnable(add.delay_many((0..3).map(|n| (n, n))));
    spawnable(with_context.delay_many(["a", "b"]));
    spawnable(generic_types.delay_many(vec![Vec::new()]));
    sendable(greet.with(ada(), "text").countdown(Duration::from_secs(1)).queue("other").send());
    is_task(nothing);
    spawnable(greet(ada(), text));
    assert_eq!(format!("{nothing:?}"), "nothing");
}
