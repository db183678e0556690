//! The options in `#[task(..)]`. Each mistake is reported on its own.
//!
//! `table` has a row for each option; `given` is an option as written, `value` the kinds of values, and `unknown` the
//! errors for options without a row.

mod given;
mod schedule;
mod size;
pub(crate) mod table;
mod unknown;
mod value;

use std::collections::HashSet;

use proc_macro2::TokenStream;
use quote::quote;
use syn::Path;

use crate::mistakes::Mistakes;
use given::{Given, split_at_commas};
use value::Value;

pub(crate) use table::Options;
pub(crate) use value::Topic;

impl Options {
    /// Reads all options; those with a mistake are left at their default.
    pub(crate) fn read(tokens: TokenStream, mistakes: &mut Mistakes) -> Self {
        let mut options = Self::default();
        let mut seen = HashSet::new();
        for piece in split_at_commas(tokens) {
            let read = Given::read(piece, example).and_then(|given| {
                let key = given.key.to_string();
                let row = table::row(&key);
                if !seen.insert(key.clone()) && !row.is_some_and(|row| row.repeats) {
                    return Err(syn::Error::new(given.key.span(), format!("`{key}` is given twice")));
                }
                let row = row.ok_or_else(|| unknown::error(&given.key))?;
                (row.set)(&mut options, &given)
            });
            if let Err(error) = read {
                mistakes.push(error);
            }
        }
        options
    }

    /// `::mq_worker::__private`, or its path if the library was renamed.
    pub(crate) fn private(&self) -> TokenStream {
        private(self.library.as_ref())
    }

    /// True if a scheduler calls the task.
    pub(crate) fn is_scheduled(&self) -> bool {
        self.cron.is_some() || self.every.is_some()
    }

    /// The topics that the task subscribes to.
    pub(crate) fn topics(&self) -> &[Topic] {
        self.topics.as_ref().map_or(&[], |topics| &topics.0)
    }
}

/// Reads the only option of `#[setup]` and `#[on_failure]`, `crate`, and returns the path of `__private`.
pub(crate) fn private_of(attribute: &str, tokens: TokenStream, mistakes: &mut Mistakes) -> TokenStream {
    let mut library = None;
    for piece in split_at_commas(tokens) {
        let path = Given::read(piece, example).and_then(|given| {
            if given.key == "crate" {
                return Path::read(&given);
            }
            Err(syn::Error::new(given.key.span(), format!("`#[{attribute}]` takes no options")))
        });
        match path {
            Ok(path) => library = Some(path),
            Err(error) => mistakes.push(error),
        }
    }
    private(library.as_ref())
}

fn private(library: Option<&Path>) -> TokenStream {
    library.map_or_else(|| quote!(::mq_worker::__private), |library| quote!(#library::__private))
}

fn example(key: &str) -> Option<&'static str> {
    table::row(key).map(|row| row.example)
}
