//! The options in `#[task(..)]`: reading them, each mistake on its own.

use std::collections::HashSet;
use std::time::Duration;

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::{LitBool, LitInt, LitStr, Path, Token};

use crate::mistakes::Mistakes;
use crate::size;

/// What the options say. `None` leaves the default of `TaskOptions`.
pub(crate) struct Options {
    /// Where the library is found; `::mq_worker` unless it was renamed.
    pub(crate) library: Path,
    pub(crate) name: Option<LitStr>,
    pub(crate) queue: Option<LitStr>,
    pub(crate) topics: Vec<Topic>,
    pub(crate) exchange: Option<LitStr>,
    pub(crate) broadcast: Option<bool>,
    pub(crate) max_retries: Option<u32>,
    pub(crate) backoff: Option<(Duration, Duration)>,
    pub(crate) time_limit: Option<Duration>,
    /// With the place where it is written.
    pub(crate) soft_time_limit: Option<(Duration, Span)>,
    pub(crate) isolate: Option<bool>,
    /// In bytes, with the place where it is written.
    pub(crate) memory_limit: Option<(u64, Span)>,
    /// With the place where it is written.
    pub(crate) unique_for: Option<(Duration, Span)>,
    pub(crate) unique_by: Option<(LitStr, Vec<syn::Expr>)>,
    /// With the place where it is written.
    pub(crate) once_for: Option<(Duration, Span)>,
    pub(crate) ack: Option<Ack>,
    pub(crate) priority: Option<u8>,
    pub(crate) expires: Option<Duration>,
    pub(crate) ignore_result: Option<bool>,
}

/// A topic that the task subscribes to.
pub(crate) enum Topic {
    /// `"order.*.paid"`
    Text(LitStr),
    /// `ORDER_PAID`, a constant of type `Topic<Order>`.
    Constant(Path),
}

impl Parse for Topic {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        if input.peek(LitStr) { input.parse().map(Topic::Text) } else { input.parse().map(Topic::Constant) }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Ack {
    Late,
    Early,
}

/// Every option with an example of how it is written.
const EXAMPLES: &[(&str, &str)] = &[
    ("name", "name = \"mail.welcome\""),
    ("queue", "queue = \"email\""),
    ("max_retries", "max_retries = 5"),
    ("backoff", "backoff = \"1s..10m\""),
    ("time_limit", "time_limit = \"30s\""),
    ("soft_time_limit", "soft_time_limit = \"25s\""),
    ("isolate", "isolate"),
    ("memory_limit", "memory_limit = \"512MB\""),
    ("unique_for", "unique_for = \"1h\""),
    ("unique_by", "unique_by = \"user.id\""),
    ("once_for", "once_for = \"1h\""),
    ("ack", "ack = \"early\""),
    ("priority", "priority = 9"),
    ("expires", "expires = \"1h\""),
    ("ignore_result", "ignore_result"),
    ("topic", "topic = \"order.*.paid\""),
    ("exchange", "exchange = \"logs\""),
    ("broadcast", "broadcast"),
    ("crate", "crate = \"my_facade::mq_worker\""),
];

/// What other libraries call our options.
const SYNONYMS: &[(&str, &str)] = &[
    ("acks_late", "ack"),
    ("bind", "topic"),
    ("expiration", "expires"),
    ("fanout", "broadcast"),
    ("fork", "isolate"),
    ("idempotent", "once_for"),
    ("unique", "unique_for"),
    ("unique_key", "unique_by"),
    ("max_memory", "memory_limit"),
    ("process", "isolate"),
    ("retries", "max_retries"),
    ("retry", "max_retries"),
    ("retry_backoff", "backoff"),
    ("routing_key", "topic"),
    ("store_result", "ignore_result"),
    ("subscribe", "topic"),
    ("timeout", "time_limit"),
    ("ttl", "expires"),
];

/// What other libraries have as an option, and what does it here.
const ELSEWHERE: &[(&[&str], &str)] = &[
    (
        &["rate_limit", "rate", "throttle", "limit"],
        "tasks have no rate limit; give the task a queue of its own, and start that queue's worker with a low \
         `--concurrency`",
    ),
    (
        &["concurrency", "max_concurrency", "workers", "prefetch"],
        "how many tasks run at once is up to the worker: give the task a queue of its own, and start that queue's \
         worker with `--concurrency`",
    ),
    (
        &["cron", "crontab", "schedule", "every", "interval", "periodic", "run_every", "run_at"],
        "tasks have no schedule; let cron, a systemd timer or `celery beat` send the call, for instance with \
         `mq-worker call`",
    ),
    (
        &[
            "retry_delay",
            "default_retry_delay",
            "retry_interval",
            "retry_backoff_max",
            "retry_wait",
            "min_backoff",
        ],
        "the waits between retries are one range, `backoff = \"1s..10m\"`; for one certain wait, return \
         `TaskError::retry_in(..)`",
    ),
    (
        &["autoretry_for", "retry_on", "retry_for", "dont_autoretry_for", "throws"],
        "every error is retried; return `TaskError::reject(..)` for those that trying again cannot mend",
    ),
    (
        &["countdown", "eta", "delay", "run_in"],
        "when a call runs is said with the call: `.with(..).countdown(..).send()`",
    ),
    (
        &["on_failure", "on_error", "link_error"],
        "a function with `#[on_failure]` is called for every dead letter",
    ),
    (
        &["durable", "exclusive", "auto_delete", "external"],
        "how a queue is declared is said in the section [topology]",
    ),
    (&["serializer", "compression"], "calls are always written as JSON, which every Celery worker reads"),
];

impl Options {
    fn none() -> Self {
        Self {
            library: syn::parse_quote!(::mq_worker),
            name: None,
            queue: None,
            topics: Vec::new(),
            exchange: None,
            broadcast: None,
            max_retries: None,
            backoff: None,
            time_limit: None,
            soft_time_limit: None,
            isolate: None,
            memory_limit: None,
            unique_for: None,
            unique_by: None,
            once_for: None,
            ack: None,
            priority: None,
            expires: None,
            ignore_result: None,
        }
    }

    /// Reads all options; those with a mistake are left at their default.
    pub(crate) fn read(tokens: TokenStream, mistakes: &mut Mistakes) -> Self {
        let mut options = Self::none();
        let mut seen = HashSet::new();
        for piece in split_at_commas(tokens) {
            match syn::parse2::<Given>(piece) {
                Ok(given) => {
                    let key = given.key.to_string();
                    if !seen.insert(key.clone()) && key != "topic" {
                        mistakes.add(&given.key, format!("`{key}` is given twice"));
                    } else if let Err(error) = options.set(&key, &given) {
                        mistakes.push(error);
                    }
                }
                Err(error) => mistakes.push(error),
            }
        }
        options
    }

    fn set(&mut self, key: &str, given: &Given) -> syn::Result<()> {
        match key {
            "name" => self.name = Some(given.text()?),
            "queue" => self.queue = Some(given.text()?),
            "topic" => self.topics.extend(given.topics()?),
            "exchange" => self.exchange = Some(given.text()?),
            "broadcast" => self.broadcast = Some(given.flag()?),
            "max_retries" => self.max_retries = Some(given.integer(u32::MAX)?),
            "backoff" => self.backoff = Some(given.range()?),
            "time_limit" => self.time_limit = Some(given.duration()?),
            "soft_time_limit" => self.soft_time_limit = Some((given.duration()?, given.key.span())),
            "isolate" => self.isolate = Some(given.flag()?),
            "memory_limit" => self.memory_limit = Some((given.size()?, given.key.span())),
            "unique_for" => self.unique_for = Some((given.duration()?, given.key.span())),
            "unique_by" => self.unique_by = Some(given.expressions()?),
            "once_for" => self.once_for = Some((given.duration()?, given.key.span())),
            "ack" => self.ack = Some(given.ack()?),
            "priority" => self.priority = Some(given.integer(u8::MAX)?),
            "expires" => self.expires = Some(given.duration()?),
            "ignore_result" => self.ignore_result = Some(given.flag()?),
            "crate" => self.library = given.path()?,
            _ => return Err(unknown(&given.key)),
        }
        Ok(())
    }
}

/// The one option of `#[setup]` and `#[on_failure]`.
pub(crate) fn library_of(attribute: &str, tokens: TokenStream, mistakes: &mut Mistakes) -> Path {
    let mut library = syn::parse_quote!(::mq_worker);
    for piece in split_at_commas(tokens) {
        let path = syn::parse2::<Given>(piece).and_then(|given| {
            if given.key == "crate" {
                return given.path();
            }
            Err(syn::Error::new(given.key.span(), format!("`#[{attribute}]` takes no options")))
        });
        match path {
            Ok(path) => library = path,
            Err(error) => mistakes.push(error),
        }
    }
    library
}

/// The options one by one, so that a mistake in one hides none in the next.
fn split_at_commas(tokens: TokenStream) -> Vec<TokenStream> {
    let mut pieces = vec![TokenStream::new()];
    for token in tokens {
        match (&token, pieces.last_mut()) {
            (TokenTree::Punct(punct), _) if punct.as_char() == ',' => pieces.push(TokenStream::new()),
            (_, Some(piece)) => piece.extend([token]),
            (_, None) => {}
        }
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// `key` or `key = value`.
struct Given {
    key: Ident,
    value: Option<TokenStream>,
}

impl Parse for Given {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        if !input.peek(syn::Ident::peek_any) {
            return Err(input.error("expected an option, such as `queue = \"email\"`"));
        }
        let key = input.call(Ident::parse_any)?;
        if input.is_empty() {
            return Ok(Self { key, value: None });
        }
        if !input.peek(Token![=]) || input.peek(Token![==]) {
            let rest: TokenStream = input.parse()?;
            let example = example(&key.to_string()).unwrap_or("queue = \"email\"");
            return Err(syn::Error::new_spanned(rest, format!("an option is written `{example}`")));
        }
        let equals: Token![=] = input.parse()?;
        let value: TokenStream = input.parse()?;
        if value.is_empty() {
            return Err(syn::Error::new_spanned(equals, format!("`{key}` has no value")));
        }
        Ok(Self { key, value: Some(value) })
    }
}

impl Given {
    fn error(&self, what: &str) -> syn::Error {
        let key = self.key.to_string();
        let example = example(&key).unwrap_or_default();
        let message = format!("`{key}` takes {what}: `{example}`");
        match &self.value {
            Some(value) => syn::Error::new_spanned(value, message),
            None => syn::Error::new(self.key.span(), message),
        }
    }

    /// The value as a literal of one kind.
    fn literal<T: Parse>(&self, what: &str) -> syn::Result<T> {
        let value = self.value.clone().ok_or_else(|| self.error(what))?;
        syn::parse2(value).map_err(|_| self.error(what))
    }

    fn text(&self) -> syn::Result<LitStr> {
        self.literal("a text in quotes")
    }

    fn topics(&self) -> syn::Result<Vec<Topic>> {
        let what = "a text in quotes or the name of a `Topic`, or several in brackets";
        let value = self.value.clone().ok_or_else(|| self.error(what))?;
        if let Ok(topic) = syn::parse2(value.clone()) {
            return Ok(vec![topic]);
        }
        let list = |input: ParseStream<'_>| {
            let content;
            syn::bracketed!(content in input);
            content.parse_terminated(<Topic as Parse>::parse, Token![,])
        };
        let topics = list.parse2(value).map_err(|_| self.error(what))?;
        if topics.is_empty() {
            return Err(self.error("at least one pattern"));
        }
        Ok(topics.into_iter().collect())
    }

    fn integer<N: TryFrom<u64> + std::fmt::Display>(&self, largest: N) -> syn::Result<N> {
        let what = format!("a whole number from 0 to {largest}");
        let literal: LitInt = self.literal(&what)?;
        let value: u64 = literal.base10_parse().map_err(|_| self.error(&what))?;
        N::try_from(value).map_err(|_| self.error(&what))
    }

    fn flag(&self) -> syn::Result<bool> {
        if self.value.is_none() {
            return Ok(true);
        }
        self.literal::<LitBool>("`true` or `false`, or stands alone").map(|literal| literal.value)
    }

    fn duration(&self) -> syn::Result<Duration> {
        let text: LitStr = self.literal("a time with its unit in quotes")?;
        parse_duration(&text, &text.value())
    }

    /// A number of bytes.
    fn size(&self) -> syn::Result<u64> {
        let text: LitStr = self.literal("a size with its unit in quotes")?;
        let value = text.value();
        size::parse(&value).map_err(|problem| syn::Error::new(text.span(), format!("`{value}` {problem}")))
    }

    fn range(&self) -> syn::Result<(Duration, Duration)> {
        let what = "the shortest and the longest wait in quotes";
        let text: LitStr = self.literal(what)?;
        let value = text.value();
        let (min, max) = value.split_once("..").ok_or_else(|| self.error(what))?;
        let (min, max) = (parse_duration(&text, min)?, parse_duration(&text, max)?);
        if min > max {
            return Err(syn::Error::new(text.span(), "the shortest wait is longer than the longest"));
        }
        Ok((min, max))
    }

    /// What the text says in Rust: one expression, or several with commas.
    fn expressions(&self) -> syn::Result<(LitStr, Vec<syn::Expr>)> {
        let what = "what makes a call the same as another, written with the parameters";
        let text: LitStr = self.literal(what)?;
        let list = syn::punctuated::Punctuated::<syn::Expr, Token![,]>::parse_terminated;
        let expressions: Vec<syn::Expr> =
            text.parse_with(list).map_err(|_| self.error(what))?.into_iter().collect();
        if expressions.is_empty() {
            return Err(self.error(what));
        }
        Ok((text, expressions))
    }

    fn ack(&self) -> syn::Result<Ack> {
        let what = "\"late\" or \"early\"";
        match self.literal::<LitStr>(what)?.value().as_str() {
            "late" => Ok(Ack::Late),
            "early" => Ok(Ack::Early),
            _ => Err(self.error(what)),
        }
    }

    fn path(&self) -> syn::Result<Path> {
        let what = "the path of the library in quotes";
        let text: LitStr = self.literal(what)?;
        text.parse_with(Path::parse_mod_style).map_err(|_| self.error(what))
    }
}

fn parse_duration(literal: &LitStr, text: &str) -> syn::Result<Duration> {
    let error = |message: String| Err(syn::Error::new(literal.span(), message));
    match humantime::parse_duration(text.trim()) {
        Ok(Duration::ZERO) => error(format!("`{text}` is no time at all")),
        Ok(duration) => Ok(duration),
        Err(_) => error(format!(
            "`{text}` is not a time: write a number and a unit, such as `500ms`, `30s` or `2h 30m`"
        )),
    }
}

fn example(key: &str) -> Option<&'static str> {
    EXAMPLES.iter().find(|(name, _)| *name == key).map(|(_, example)| *example)
}

fn unknown(key: &Ident) -> syn::Error {
    let text = key.to_string();
    if let Some((_, way_out)) = ELSEWHERE.iter().find(|(names, _)| names.contains(&text.as_str())) {
        return syn::Error::new(key.span(), format!("there is no option `{text}`: {way_out}"));
    }
    let message = match suggestion(&text) {
        Some(name) => format!("unknown option `{text}`; did you mean `{name}`?"),
        None => {
            let names: Vec<&str> = EXAMPLES.iter().map(|(name, _)| *name).collect();
            format!("unknown option `{text}`; there are {}", names.join(", "))
        }
    };
    syn::Error::new(key.span(), message)
}

/// The option that somebody probably meant.
fn suggestion(key: &str) -> Option<&'static str> {
    let synonym = SYNONYMS.iter().find(|(name, _)| *name == key).map(|(_, option)| *option);
    synonym.or_else(|| {
        let near = EXAMPLES.iter().map(|(name, _)| (distance(key, name), *name)).min()?;
        // Two letters may be wrong, in a long word a third of them.
        (key.len() > 2 && near.0 <= (key.len() / 3).max(2)).then_some(near.1)
    })
}

/// Levenshtein's distance: how many letters must change.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let next = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_and_other_libraries_words_find_their_option() {
        for (given, meant) in [
            ("qeue", Some("queue")),
            ("que", Some("queue")),
            ("max_retry", Some("max_retries")),
            ("max_retires", Some("max_retries")),
            ("timelimit", Some("time_limit")),
            ("timeout", Some("time_limit")),
            ("topics", Some("topic")),
            ("colour", None),
        ] {
            assert_eq!(suggestion(given), meant, "{given}");
        }
    }

    #[test]
    fn every_synonym_leads_to_an_option() {
        for (name, option) in SYNONYMS {
            assert!(example(option).is_some(), "{option}");
            assert!(example(name).is_none(), "{name}");
        }
        for name in ELSEWHERE.iter().flat_map(|(names, _)| *names) {
            assert!(example(name).is_none() && SYNONYMS.iter().all(|(other, _)| other != name), "{name}");
        }
    }
}
