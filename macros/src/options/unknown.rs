//! Errors for options that do not exist: what was probably meant, or how it is done here.

use proc_macro2::Ident;
use strsim::damerau_levenshtein;

use super::table::TABLE;

/// Options of other libraries, and what to use here instead.
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
        &["run_at", "at"],
        "a task runs once at a time when it is sent so: `.with(..).eta(..).send()`, or by a schedule with `at` in \
         `mq-worker.toml`",
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

/// The error for an unknown option; says what to write instead.
pub(super) fn error(key: &Ident) -> syn::Error {
    let text = key.to_string();
    if let Some((_, way_out)) = ELSEWHERE.iter().find(|(names, _)| names.contains(&text.as_str())) {
        return syn::Error::new(key.span(), format!("there is no option `{text}`: {way_out}"));
    }
    let message = match suggestion(&text) {
        Some(name) => format!("unknown option `{text}`; did you mean `{name}`?"),
        None => {
            let names: Vec<&str> = TABLE.iter().map(|option| option.key).collect();
            format!("unknown option `{text}`; there are {}", names.join(", "))
        }
    };
    syn::Error::new(key.span(), message)
}

/// The option that was probably meant.
fn suggestion(key: &str) -> Option<&'static str> {
    let synonym = TABLE.iter().find(|option| option.synonyms.contains(&key)).map(|option| option.key);
    synonym.or_else(|| {
        let near = TABLE.iter().map(|option| (damerau_levenshtein(key, option.key), option.key)).min()?;
        // Two letters may be wrong, in a long word a third of them.
        (key.len() > 2 && near.0 <= (key.len() / 3).max(2)).then_some(near.1)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

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
    fn every_name_leads_to_one_place() {
        let synonyms = TABLE.iter().flat_map(|option| option.synonyms);
        let elsewhere = ELSEWHERE.iter().flat_map(|(names, _)| *names);
        let mut seen: HashSet<&str> = TABLE.iter().map(|option| option.key).collect();
        for name in synonyms.chain(elsewhere) {
            assert!(seen.insert(name), "{name}");
        }
    }
}
