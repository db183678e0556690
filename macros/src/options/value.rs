//! The kinds of values that an option has: how each is read, and how it is written as a constant.

use std::time::Duration;

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{LitBool, LitStr, Path, Token};

use super::given::Given;
use super::size;
use crate::ast::{located, respan};

/// A kind of value.
pub(super) trait Value: Sized {
    /// True when the option may be written more than once.
    const REPEATS: bool = false;

    fn read(given: &Given) -> syn::Result<Self>;

    /// The value in the constant `OPTIONS` of the task.
    fn constant(&self, private: &TokenStream) -> TokenStream;

    /// Merges in the earlier value, if the option may be repeated.
    fn following(self, _earlier: Option<Self>) -> Self {
        self
    }
}

/// Values that are constants as they are.
macro_rules! literals {
    ($($kind:ty: |$given:ident| $read:expr;)*) => {$(
        impl Value for $kind {
            fn read($given: &Given) -> syn::Result<Self> {
                $read
            }

            fn constant(&self, _private: &TokenStream) -> TokenStream {
                quote!(#self)
            }
        }
    )*};
}

literals! {
    LitStr: |given| given.literal("a text in quotes");
    u32: |given| given.integer(u32::MAX);
    u8: |given| given.integer(u8::MAX);
    bool: |given| match given.value {
        None => Ok(true),
        Some(_) => given.literal("`true` or `false`, or stands alone").map(|literal: LitBool| literal.value),
    };
    Path: |given| {
        let what = "the path of the library in quotes";
        let text: LitStr = given.literal(what)?;
        text.parse_with(Path::parse_mod_style).map_err(|_| given.error(what))
    };
}

/// `"30s"`
#[derive(Clone, Copy)]
pub(crate) struct Time {
    pub(crate) length: Duration,
    /// Where the option is written.
    pub(crate) key: Span,
}

impl Value for Time {
    fn read(given: &Given) -> syn::Result<Self> {
        let text: LitStr = given.literal("a time with its unit in quotes")?;
        Ok(Self { length: parse_duration(&text, &text.value())?, key: given.key.span() })
    }

    fn constant(&self, private: &TokenStream) -> TokenStream {
        duration(self.length, private)
    }
}

/// `"512MB"`
#[derive(Clone, Copy)]
pub(crate) struct Size {
    bytes: u64,
    /// Where the option is written.
    pub(crate) key: Span,
}

impl Value for Size {
    fn read(given: &Given) -> syn::Result<Self> {
        let text: LitStr = given.literal("a size with its unit in quotes")?;
        let value = text.value();
        let bytes = size::parse(&value)
            .map_err(|problem| syn::Error::new(text.span(), format!("`{value}` {problem}")))?;
        Ok(Self { bytes, key: given.key.span() })
    }

    fn constant(&self, _private: &TokenStream) -> TokenStream {
        let bytes = self.bytes;
        quote!(#bytes)
    }
}

/// `"1s..10m"`
pub(crate) struct Range {
    min: Duration,
    max: Duration,
}

impl Value for Range {
    fn read(given: &Given) -> syn::Result<Self> {
        let what = "the shortest and the longest wait in quotes";
        let text: LitStr = given.literal(what)?;
        let value = text.value();
        let (min, max) = value.split_once("..").ok_or_else(|| given.error(what))?;
        let (min, max) = (parse_duration(&text, min)?, parse_duration(&text, max)?);
        if min > max {
            return Err(syn::Error::new(text.span(), "the shortest wait is longer than the longest"));
        }
        Ok(Self { min, max })
    }

    fn constant(&self, private: &TokenStream) -> TokenStream {
        let (min, max) = (duration(self.min, private), duration(self.max, private));
        quote!(#private::Backoff { min: #min, max: #max })
    }
}

/// `"late"` or `"early"`
#[derive(Clone, Copy)]
pub(crate) enum Ack {
    Late,
    Early,
}

impl Value for Ack {
    fn read(given: &Given) -> syn::Result<Self> {
        let what = "\"late\" or \"early\"";
        match given.literal::<LitStr>(what)?.value().as_str() {
            "late" => Ok(Self::Late),
            "early" => Ok(Self::Early),
            _ => Err(given.error(what)),
        }
    }

    fn constant(&self, private: &TokenStream) -> TokenStream {
        match self {
            Self::Late => quote!(#private::AckMode::Late),
            Self::Early => quote!(#private::AckMode::Early),
        }
    }
}

/// `"json"` or `"kombu"`
#[derive(Clone, Copy)]
pub(crate) enum Types {
    Json,
    Kombu,
}

impl Value for Types {
    fn read(given: &Given) -> syn::Result<Self> {
        let what = "\"json\" or \"kombu\"";
        match given.literal::<LitStr>(what)?.value().as_str() {
            "json" => Ok(Self::Json),
            "kombu" => Ok(Self::Kombu),
            _ => Err(given.error(what)),
        }
    }

    fn constant(&self, private: &TokenStream) -> TokenStream {
        match self {
            Self::Json => quote!(#private::ResultTypes::Json),
            Self::Kombu => quote!(#private::ResultTypes::Kombu),
        }
    }
}

/// The topics that the task subscribes to: one, or a list.
#[derive(Default)]
pub(crate) struct Topics(pub(crate) Vec<Topic>);

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

impl Value for Topics {
    const REPEATS: bool = true;

    fn read(given: &Given) -> syn::Result<Self> {
        let what = "a text in quotes or the name of a `Topic`, or several in brackets";
        let value = given.value.clone().ok_or_else(|| given.error(what))?;
        if let Ok(topic) = syn::parse2(value.clone()) {
            return Ok(Self(vec![topic]));
        }
        let list = |input: ParseStream<'_>| {
            let content;
            syn::bracketed!(content in input);
            content.parse_terminated(<Topic as Parse>::parse, Token![,])
        };
        let topics = list.parse2(value).map_err(|_| given.error(what))?;
        if topics.is_empty() {
            return Err(given.error("at least one pattern"));
        }
        Ok(Self(topics.into_iter().collect()))
    }

    fn following(self, earlier: Option<Self>) -> Self {
        let mut all = earlier.unwrap_or_default();
        all.0.extend(self.0);
        all
    }

    fn constant(&self, private: &TokenStream) -> TokenStream {
        let patterns = self.0.iter().map(|topic| match topic {
            Topic::Text(text) => quote!(#text),
            Topic::Constant(path) => {
                let private = respan(private, path.span());
                quote_spanned!(located(path.span())=> #private::Topic::pattern(#path))
            }
        });
        quote!(&[#(#patterns),*])
    }
}

/// Rust in quotes: one expression, or several with commas.
pub(crate) struct Expressions {
    pub(crate) text: LitStr,
    pub(crate) list: Vec<syn::Expr>,
}

impl Value for Expressions {
    fn read(given: &Given) -> syn::Result<Self> {
        let what = "what makes a call the same as another, written with the parameters";
        let text: LitStr = given.literal(what)?;
        let list = text.parse_with(Punctuated::<syn::Expr, Token![,]>::parse_terminated);
        let list: Vec<syn::Expr> = list.map_err(|_| given.error(what))?.into_iter().collect();
        if list.is_empty() {
            return Err(given.error(what));
        }
        Ok(Self { text, list })
    }

    fn constant(&self, _private: &TokenStream) -> TokenStream {
        let list = &self.list;
        quote!((#(#list),*))
    }
}

pub(super) fn parse_duration(literal: &LitStr, text: &str) -> syn::Result<Duration> {
    let error = |message: String| Err(syn::Error::new(literal.span(), message));
    match humantime::parse_duration(text.trim()) {
        Ok(Duration::ZERO) => error(format!("`{text}` must be longer than zero")),
        Ok(duration) => Ok(duration),
        Err(_) => error(format!(
            "`{text}` is not a time: write a number and a unit, such as `500ms`, `30s` or `2h 30m`"
        )),
    }
}

pub(super) fn duration(value: Duration, private: &TokenStream) -> TokenStream {
    let (seconds, nanos) = (value.as_secs(), value.subsec_nanos());
    quote!(#private::Duration::new(#seconds, #nanos))
}
