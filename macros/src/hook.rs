//! `#[setup]` and `#[on_failure]`: the function stays as it is and is registered for the worker.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{FnArg, ReturnType, Type};

use crate::ast::{self, Attributes, Function, located};
use crate::entry::match_result;
use crate::expand::quiet;
use crate::mistakes::Mistakes;
use crate::options;
use crate::valid;

/// A kind of function that the worker calls by itself.
pub(crate) struct Hook {
    /// The attribute.
    pub(crate) name: &'static str,
    /// The noun for such a function in messages.
    noun: &'static str,
    /// The type that it borrows.
    takes: &'static str,
    is_mutable: bool,
    /// The type of the entry that the worker collects.
    entry: &'static str,
}

/// Prepares what the tasks share.
pub(crate) const SETUP: Hook = Hook {
    name: "setup",
    noun: "a set-up function",
    takes: "SharedState",
    is_mutable: true,
    entry: "SetupEntry",
};

/// Runs for each task that failed permanently.
pub(crate) const ON_FAILURE: Hook = Hook {
    name: "on_failure",
    noun: "a failure hook",
    takes: "FailedTask",
    is_mutable: false,
    entry: "FailureHookEntry",
};

impl Hook {
    /// Reads the attribute and its function, and generates their replacement.
    pub(crate) fn compile(&self, options: TokenStream, item: TokenStream) -> TokenStream {
        let mut mistakes = Mistakes::default();
        let private = options::private_of(self.name, options, &mut mistakes);
        let code = match Function::read(self.name, item.clone()) {
            Ok(function) => {
                self.check(&function, &mut mistakes);
                match mistakes.is_empty() {
                    true => self.expand(&function, &private),
                    false => original(&function),
                }
            }
            Err(error) => {
                mistakes.push(error);
                item
            }
        };
        let mistakes = mistakes.into_tokens();
        quote!(#mistakes #code)
    }

    fn check(&self, function: &Function, mistakes: &mut Mistakes) {
        valid::plain_function(self.name, self.noun, function, mistakes);
        let Self { noun, takes, is_mutable, .. } = self;
        let shape =
            format!("{noun} takes `&{}{takes}` and nothing else", if *is_mutable { "mut " } else { "" });
        let inputs = &function.sig.inputs;
        match inputs.first() {
            None => mistakes.add(&function.sig.ident, shape),
            Some(FnArg::Typed(input)) if self.is_borrowed(&input.ty) => {
                if let Some(extra) = inputs.iter().nth(1) {
                    mistakes.add(extra, shape);
                }
            }
            Some(input) => mistakes.add(input, shape),
        }
        if let ReturnType::Type(_, ty) = &function.sig.output {
            let is_unit = matches!(&**ty, Type::Tuple(tuple) if tuple.elems.is_empty());
            if !is_unit && !ast::is_fallible(&function.sig.output) {
                mistakes.add(ty, format!("{noun} returns nothing or a `Result<(), E>`"));
            }
        }
    }

    fn is_borrowed(&self, ty: &Type) -> bool {
        match ty {
            Type::Reference(reference) => {
                let name = ast::path_of(&reference.elem).and_then(ast::last_name);
                reference.mutability.is_some() == self.is_mutable
                    && reference.lifetime.as_ref().is_none_or(|lifetime| lifetime.ident == "_")
                    && name.is_some_and(|name| name == self.takes)
            }
            Type::Group(group) => self.is_borrowed(&group.elem),
            Type::Paren(paren) => self.is_borrowed(&paren.elem),
            _ => false,
        }
    }
}

/// The function as it was written.
fn original(function: &Function) -> TokenStream {
    let Function { attrs, vis, sig, body } = function;
    quote!(#(#attrs)* #vis #sig #body)
}

impl Hook {
    /// The function and its registration.
    fn expand(&self, function: &Function, private: &TokenStream) -> TokenStream {
        let [takes, entry] = [self.takes, self.entry].map(|name| Ident::new(name, Span::call_site()));
        let mutable = self.is_mutable.then(|| quote!(mut));
        let ident = &function.sig.ident;
        let span = match &function.sig.output {
            ReturnType::Default => ident.span(),
            ReturnType::Type(_, ty) => ty.span(),
        };
        let mut called = quote_spanned!(located(ident.span())=> #ident(__argument));
        if function.sig.asyncness.is_some() {
            called.extend(quote!(.await));
        }
        let outcome = if ast::is_fallible(&function.sig.output) {
            let unit = quote_spanned!(located(span)=> ());
            match_result(private, &called, span, &unit, &quote!(::core::result::Result::Ok(())))
        } else {
            quote!({ #called; ::core::result::Result::Ok(()) })
        };
        let boxed = quote_spanned!(located(ident.span())=> ::std::boxed::Box::pin(async move { #outcome }));
        let name = ast::bare(ident);
        let hidden = quiet(&quote! {
            fn __run<'run>(
                __argument: &'run #mutable #private::#takes,
            ) -> #private::BoxFuture<'run, ::core::result::Result<(), #private::TaskError>> {
                #boxed
            }

            #private::inventory::submit! {
                #private::#entry {
                    name: ::core::concat!(::core::module_path!(), "::", #name),
                    run: __run,
                }
            }
        });
        let conditions = Attributes::sort(&function.attrs).conditions;
        let original = original(function);
        quote!(#original #(#conditions)* #hidden)
    }
}
