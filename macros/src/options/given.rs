//! One option as it is written: `key` or `key = value`.

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::{LitInt, Token};

/// The example for messages about an unknown option.
const ANY_EXAMPLE: &str = "queue = \"email\"";

/// `key` or `key = value`.
pub(super) struct Given {
    pub(super) key: Ident,
    pub(super) value: Option<TokenStream>,
    /// How this option is written.
    example: &'static str,
}

impl Given {
    /// Reads one option; `example_of` returns the example for each key.
    pub(super) fn read(
        tokens: TokenStream,
        example_of: impl Fn(&str) -> Option<&'static str>,
    ) -> syn::Result<Self> {
        let read = |input: ParseStream<'_>| {
            if !input.peek(syn::Ident::peek_any) {
                return Err(input.error(format!("expected an option, such as `{ANY_EXAMPLE}`")));
            }
            let key = input.call(Ident::parse_any)?;
            let example = example_of(&key.to_string()).unwrap_or(ANY_EXAMPLE);
            if input.is_empty() {
                return Ok(Self { key, value: None, example });
            }
            if !input.peek(Token![=]) || input.peek(Token![==]) {
                let rest: TokenStream = input.parse()?;
                return Err(syn::Error::new_spanned(rest, format!("an option is written `{example}`")));
            }
            let equals: Token![=] = input.parse()?;
            let value: TokenStream = input.parse()?;
            if value.is_empty() {
                return Err(syn::Error::new_spanned(equals, format!("`{key}` has no value")));
            }
            Ok(Self { key, value: Some(value), example })
        };
        read.parse2(tokens)
    }

    /// An error that says what the option takes, with an example.
    pub(super) fn error(&self, what: &str) -> syn::Error {
        let message = format!("`{}` takes {what}: `{}`", self.key, self.example);
        match &self.value {
            Some(value) => syn::Error::new_spanned(value, message),
            None => syn::Error::new(self.key.span(), message),
        }
    }

    /// The value as a literal of one kind.
    pub(super) fn literal<T: Parse>(&self, what: &str) -> syn::Result<T> {
        let value = self.value.clone().ok_or_else(|| self.error(what))?;
        syn::parse2(value).map_err(|_| self.error(what))
    }

    /// The value as a whole number.
    pub(super) fn integer<N: TryFrom<u64> + std::fmt::Display>(&self, largest: N) -> syn::Result<N> {
        let what = format!("a whole number from 0 to {largest}");
        let literal: LitInt = self.literal(&what)?;
        let value: u64 = literal.base10_parse().map_err(|_| self.error(&what))?;
        N::try_from(value).map_err(|_| self.error(&what))
    }
}

/// Splits the options, so that a mistake in one does not hide another in the next.
pub(super) fn split_at_commas(tokens: TokenStream) -> Vec<TokenStream> {
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
