//! `#[setup]`: the function stays what it is, and the worker learns of it.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{FnArg, Path, ReturnType, Type};

use crate::ast::{self, Attributes, Function, located};
use crate::entry::match_result;
use crate::expand::quiet;
use crate::mistakes::Mistakes;
use crate::valid;

const SHAPE: &str = "a set-up function takes `&mut SharedState` and nothing else";

/// Checks a set-up function.
pub(crate) fn check(function: &Function, mistakes: &mut Mistakes) {
    valid::plain_function("setup", function, mistakes);
    let inputs = &function.sig.inputs;
    match inputs.first() {
        None => mistakes.add(&function.sig.ident, SHAPE),
        Some(FnArg::Typed(input)) if is_shared_state(&input.ty) => {
            if let Some(extra) = inputs.iter().nth(1) {
                mistakes.add(extra, SHAPE);
            }
        }
        Some(input) => mistakes.add(input, SHAPE),
    }
    if let ReturnType::Type(_, ty) = &function.sig.output {
        let is_unit = matches!(&**ty, Type::Tuple(tuple) if tuple.elems.is_empty());
        if !is_unit && !ast::is_fallible(&function.sig.output) {
            mistakes.add(ty, "a set-up function returns nothing or a `Result<(), E>`");
        }
    }
}

fn is_shared_state(ty: &Type) -> bool {
    match ty {
        Type::Reference(reference) => {
            let name = ast::path_of(&reference.elem).and_then(ast::last_name);
            reference.mutability.is_some()
                && reference.lifetime.as_ref().is_none_or(|lifetime| lifetime.ident == "_")
                && name.is_some_and(|name| name == "SharedState")
        }
        Type::Group(group) => is_shared_state(&group.elem),
        Type::Paren(paren) => is_shared_state(&paren.elem),
        _ => false,
    }
}

/// The function as it was written.
pub(crate) fn original(function: &Function) -> TokenStream {
    let Function { attrs, vis, sig, body } = function;
    quote!(#(#attrs)* #vis #sig #body)
}

/// The function and its registration.
pub(crate) fn expand(function: &Function, library: &Path) -> TokenStream {
    let private = quote!(#library::__private);
    let ident = &function.sig.ident;
    let span = match &function.sig.output {
        ReturnType::Default => ident.span(),
        ReturnType::Type(_, ty) => ty.span(),
    };
    let mut called = quote_spanned!(located(ident.span())=> #ident(__state));
    if function.sig.asyncness.is_some() {
        called.extend(quote!(.await));
    }
    let outcome = if ast::is_fallible(&function.sig.output) {
        let unit = quote_spanned!(located(span)=> ());
        match_result(&private, &called, span, &unit, &quote!(::core::result::Result::Ok(())))
    } else {
        quote!({ #called; ::core::result::Result::Ok(()) })
    };
    let boxed = quote_spanned!(located(ident.span())=> ::std::boxed::Box::pin(async move { #outcome }));
    let name = ast::bare(ident);
    let hidden = quiet(&quote! {
        fn __run<'run>(
            __state: &'run mut #private::SharedState,
        ) -> #private::BoxFuture<'run, ::core::result::Result<(), #private::TaskError>> {
            #boxed
        }

        #private::inventory::submit! {
            #private::SetupEntry {
                name: ::core::concat!(::core::module_path!(), "::", #name),
                run: __run,
            }
        }
    });
    let conditions = Attributes::sort(&function.attrs).conditions;
    let original = original(function);
    quote!(#original #(#conditions)* #hidden)
}
