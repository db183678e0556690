//! The table of options. To add one, add a row here and its field to `TaskOptions` in `worker/src/task/options.rs`:
//! the parser, its messages and the documentation of `#[task]` follow from the row.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{LitStr, Path};

use super::given::Given;
use super::schedule::{CatchUp, Cron, Interval, Overlap, Zone};
use super::value::{Ack, Expressions, Range, Size, Time, Topics, Types, Value};

/// One row.
pub(super) struct TaskOption {
    pub(super) key: &'static str,
    /// How it is written.
    pub(super) example: &'static str,
    /// What other libraries call it.
    pub(super) synonyms: &'static [&'static str],
    /// True when it may be written more than once.
    pub(super) repeats: bool,
    /// Reads the value into its field.
    pub(super) set: fn(&mut Options, &Given) -> syn::Result<()>,
}

/// A row: an example => the field and the kind of its value; how the field of `TaskOptions` holds it, `bare` or in
/// `some` (left out if there is no such field); the meaning and the default, for the documentation; after `also`, what
/// other libraries call the option.
macro_rules! options {
    ($(
        $key:ident $(= $value:literal)? => $field:ident: $kind:ty $(, $written:ident)?,
            $meaning:literal, $default:literal $(, also $($synonym:literal)+)?;
    )*) => {
        /// The options that were given. `None` leaves the default of `TaskOptions`.
        #[derive(Default)]
        pub(crate) struct Options {
            $(#[doc = $meaning] pub(crate) $field: Option<$kind>,)*
        }

        /// Every option.
        pub(super) const TABLE: &[TaskOption] = &[$(TaskOption {
            key: stringify!($key),
            example: concat!(stringify!($key) $(, " = ", stringify!($value))?),
            synonyms: &[$($($synonym),+)?],
            repeats: <$kind as Value>::REPEATS,
            set: |options, given| {
                let value = <$kind as Value>::read(given)?;
                options.$field = Some(value.following(options.$field.take()));
                Ok(())
            },
        },)*];

        impl Options {
            /// The options as a constant, over the defaults.
            pub(crate) fn constants(&self, private: &TokenStream) -> TokenStream {
                let mut fields = TokenStream::new();
                $($(
                    fields.extend(self.$field.as_ref().map(|value| {
                        let value = $written(value.constant(private));
                        quote!($field: #value,)
                    }));
                )?)*
                quote!(#private::TaskOptions { #fields ..#private::TaskOptions::DEFAULT })
            }
        }

        /// The table in the documentation of `#[task]`.
        macro_rules! documentation {
            () => {
                concat!(
                    "| option | meaning | default |\n|---|---|---|\n"
                    $(, "| `", stringify!($key) $(, " = ", stringify!($value))?, "` | ", $meaning, " | ", $default, " |\n")*
                )
            };
        }
        pub(crate) use documentation;
    };
}

options! {
    name = "mail.welcome" => name: LitStr,
        "the name on the wire; no two tasks have the same", "the function's name";
    queue = "email" => queue: LitStr, some,
        "the queue that calls go to", "a matching route, else the default queue";
    max_retries = 5 => max_retries: u32, bare,
        "how many times a failed call is tried again", "3", also "retries" "retry";
    backoff = "1s..10m" => backoff: Range, bare,
        "the shortest and the longest wait before a retry; it doubles, with jitter", "`\"1s..10m\"`",
        also "retry_backoff";
    time_limit = "30s" => time_limit: Time, some,
        "a run that takes longer is stopped and counts as failed; a plain function can only be stopped when it is \
         isolated", "no limit", also "timeout";
    soft_time_limit = "25s" => soft_time_limit: Time, some,
        "then the context says \
         [`is_cancelled`](https://docs.rs/mq-worker/latest/mq_worker/struct.Context.html#method.is_cancelled): the \
         task may still end well", "no limit";
    isolate => isolate: bool, bare,
        "each run has a process of its own, which can really be stopped and may crash (Unix)", "runs in the worker",
        also "fork" "process";
    memory_limit = "512MB" => memory_limit: Size, some,
        "how much memory that process may have", "no limit", also "max_memory";
    unique_for = "1h" => unique_for: Time, some,
        "no second call with the same arguments is queued while one waits or runs, for so long at most",
        "calls are independent", also "unique";
    unique_by = "user.id" => unique_by: Expressions,
        "what makes a call the same as another, in terms of its parameters; several with commas", "all arguments",
        also "unique_key";
    once_for = "1h" => once_for: Time, some,
        "a call that succeeded within this time is not run again when its message comes again; 24 hours at most",
        "it may run again", also "idempotent";
    ack = "early" => ack: Ack, bare,
        "`\"late\"`: at least once, the message goes when the outcome is safe; `\"early\"`: at most once",
        "`\"late\"`", also "acks_late";
    priority = 9 => priority: u8, some,
        "0 to 255, larger is more urgent", "none";
    expires = "1h" => expires: Time, some,
        "a call that waited longer is not run", "never", also "expiration" "ttl";
    ignore_result => ignore_result: bool, bare,
        "the result is not needed: nothing is stored", "results are kept", also "store_result";
    result_required = false => result_required: bool, some,
        "`false`: while the store of results is away, the task is acknowledged without its result",
        "the setting `result_required`";
    result_types = "kombu" => result_types: Types, some,
        "how times, UUIDs, decimals and bytes in the result are written: `\"json\"`, or `\"kombu\"` as Python's own types",
        "the setting `result_types`";
    cron = "0 9 * * mon-fri" => cron: Cron, some,
        "calls the task at these times, by a scheduler (`mq-worker beat`): minute, hour, day of the month, month, day of \
         the week, and if there are six, the second in front; or `@daily` and the like", "no schedule",
        also "crontab" "schedule";
    every = "10m" => every: Interval, some,
        "calls the task at this interval of real time, a second at least", "no schedule",
        also "interval" "periodic" "run_every";
    tz = "Europe/Berlin" => tz: Zone, some,
        "the time zone of `cron`", "UTC", also "timezone" "time_zone";
    jitter = "30s" => jitter: Time, some,
        "scheduled calls are sent later by a part of this, which follows from the due time", "none";
    overlap = "skip" => overlap: Overlap, bare,
        "what happens while the previous scheduled call waits or runs: `\"allow\"`, `\"skip\"` or `\"queue\"`",
        "`\"allow\"`";
    catch_up = "last" => catch_up: CatchUp, bare,
        "what happens to due times that passed while no scheduler ran: `\"none\"`, `\"last\"` or `\"all\"`",
        "`\"last\"`", also "catchup" "misfire" "backfill";
    track_started => track_started: bool, some,
        "`STARTED` is stored when the task begins, with worker and time", "the setting `track_started`";
    topic = "order.*.paid" => topics: Topics, bare,
        "subscribes to messages with such a routing key: `*` is one word, `#` any number. May be repeated, or a list: \
         `[\"a.*\", \"b.#\"]`", "none", also "bind" "routing_key" "subscribe";
    exchange = "logs" => exchange: LitStr, some,
        "the exchange that it subscribes to, with `topic` unless that is a fanout exchange", "the topic exchange";
    broadcast => broadcast: bool, bare,
        "every worker that is running gets a copy", "one worker gets it", also "fanout";
    crate = "my_facade::mq_worker" => library: Path,
        "where `mq_worker` is found when it was renamed", "`::mq_worker`";
}

/// The field is an `Option`.
fn some(value: TokenStream) -> TokenStream {
    quote!(::core::option::Option::Some(#value))
}

/// The field is the value itself.
fn bare(value: TokenStream) -> TokenStream {
    value
}

/// The row with this key.
pub(super) fn row(key: &str) -> Option<&'static TaskOption> {
    TABLE.iter().find(|option| option.key == key)
}
