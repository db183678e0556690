//! The values of a schedule: expressions, intervals, zones. A mistake in one is a compile error where it is written.

use std::str::FromStr;
use std::time::Duration;

use chrono_tz::Tz;
use croner::parser::{CronParser, Year};
use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::LitStr;

use super::given::Given;
use super::value::{Value, duration, parse_duration};

/// `"0 9 * * mon-fri"`
pub(crate) struct Cron(LitStr);

/// The nicknames that the library knows.
const NICKNAMES: [&str; 7] =
    ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
/// Days in full, which are accepted too.
const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

impl Value for Cron {
    fn read(given: &Given) -> syn::Result<Self> {
        let text: LitStr = given.literal("a cron expression in quotes")?;
        match problem(&text.value()) {
            None => Ok(Self(text)),
            Some(problem) => Err(syn::Error::new(text.span(), format!("`{}`: {problem}", text.value()))),
        }
    }

    fn constant(&self, _private: &TokenStream) -> TokenStream {
        let text = &self.0;
        quote!(#text)
    }
}

/// Returns what is wrong with an expression. The library uses the same parser with the same settings.
fn problem(text: &str) -> Option<String> {
    let mut pattern = text.trim().to_ascii_lowercase();
    if pattern.starts_with('@') && !NICKNAMES.contains(&pattern.as_str()) {
        return Some(format!("there is no such nickname; there are {}", NICKNAMES.join(", ")));
    }
    for day in DAYS {
        pattern = pattern.replace(day, &day[..3]);
    }
    let fields = pattern.split_whitespace().count();
    if !pattern.starts_with('@') && !(5..=6).contains(&fields) {
        return Some(format!(
            "it has {fields} fields, and needs five: minute, hour, day of the month, month, day of the week; or six, the \
             first of which is the second"
        ));
    }
    let cron = match CronParser::builder().year(Year::Disallowed).build().parse(&pattern) {
        Ok(cron) => cron,
        Err(error) => {
            let text = error.to_string();
            let plain = text.split_once(": ").map_or(text.as_str(), |(_, plain)| plain);
            return Some(plain.trim_end_matches('.').to_lowercase());
        }
    };
    let never = cron.find_next_occurrence(&chrono::DateTime::UNIX_EPOCH, false).is_err();
    never.then(|| "it names a day that no year has".into())
}

/// `"10m"`, at least a second.
pub(crate) struct Interval {
    pub(crate) length: Duration,
    /// Where the option is written.
    pub(crate) key: Span,
}

impl Value for Interval {
    fn read(given: &Given) -> syn::Result<Self> {
        let text: LitStr = given.literal("a time with its unit in quotes")?;
        let interval = parse_duration(&text, &text.value())?;
        let error = |problem: &str| Err(syn::Error::new(text.span(), problem));
        if interval < Duration::from_secs(1) {
            return error("an interval is a second at least");
        }
        if interval > Duration::from_secs(366 * 24 * 60 * 60) {
            return error("an interval is a year at most");
        }
        Ok(Self { length: interval, key: given.key.span() })
    }

    fn constant(&self, private: &TokenStream) -> TokenStream {
        duration(self.length, private)
    }
}

/// `"Europe/Berlin"`
pub(crate) struct Zone {
    pub(crate) text: LitStr,
}

impl Value for Zone {
    fn read(given: &Given) -> syn::Result<Self> {
        let text: LitStr = given.literal("an IANA time zone in quotes")?;
        match Tz::from_str(text.value().trim()) {
            Ok(_) => Ok(Self { text }),
            Err(_) => Err(syn::Error::new(
                text.span(),
                format!(
                    "no time zone is named `{}`; write an IANA name, such as `Europe/Berlin` or `UTC`",
                    text.value()
                ),
            )),
        }
    }

    fn constant(&self, _private: &TokenStream) -> TokenStream {
        let text = &self.text;
        quote!(#text)
    }
}

/// Values that are one of several words, each a variant of an enum.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident: $($word:literal => $variant:ident),+;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name {
            variant: &'static str,
            /// Where the option is written.
            pub(crate) key: Span,
        }

        impl Value for $name {
            fn read(given: &Given) -> syn::Result<Self> {
                let what = concat!("one of" $(, " \"", $word, "\"")+);
                let variant = match given.literal::<LitStr>(what)?.value().as_str() {
                    $($word => stringify!($variant),)+
                    _ => return Err(given.error(what)),
                };
                Ok(Self { variant, key: given.key.span() })
            }

            fn constant(&self, private: &TokenStream) -> TokenStream {
                let variant = format_ident!("{}", self.variant);
                quote!(#private::$name::#variant)
            }
        }
    )*};
}

words! {
    /// `"skip"`
    Overlap: "allow" => Allow, "skip" => Skip, "queue" => Queue;
    /// `"last"`
    CatchUp: "none" => None, "last" => Last, "all" => All;
}
