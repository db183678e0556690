//! Generates a stand-in for a task that was refused, so that code that uses it causes no further errors.

use std::collections::HashSet;

use proc_macro2::{Group, Ident, TokenStream, TokenTree};
use quote::{format_ident, quote};
use syn::{FnArg, GenericParam, Pat, ReceiverKind, Type};

use crate::ast::{self, Attributes, Function};
use crate::options::Options;
use crate::{expand, valid};

/// A struct with the same name and methods that accept any arguments.
pub(crate) fn task(function: &Function, options: &Options) -> TokenStream {
    if is_method(function) {
        // It is inside an `impl`, where a struct is not allowed.
        let Function { attrs, vis, sig, body } = function;
        return quote!(#(#attrs)* #vis #sig #body);
    }
    let others = function.attrs.iter().filter(|attr| !valid::is_attribute(attr, "task"));
    let attributes = Attributes::sort(others);
    let item = expand::unit_struct(&attributes, &function.vis, &function.sig.ident);
    let body = function.body.as_ref().map(|body| checked_body(function, body, &attributes.body));
    let stand_in = expand::quiet(&stand_in(function, options));
    expand::within(&attributes, &item, &quote!(#body #stand_in))
}

/// The function itself, which is still checked: in an `impl`, where even `self` causes no further error.
fn checked_body(function: &Function, body: &Group, attrs: &[TokenStream]) -> TokenStream {
    let sig = &function.sig;
    if has_mistake_for_the_compiler(function) {
        return TokenStream::new();
    }
    quote! {
        struct __Body;
        #[allow(dead_code, unused_variables)]
        impl __Body {
            #(#attrs)*
            #sig #body
        }
    }
}

/// True for a function that is only valid in an `impl`.
fn is_method(function: &Function) -> bool {
    let is_self =
        |input: &FnArg| matches!(input, FnArg::Receiver(r) if !matches!(r.kind, ReceiverKind::Typed(..)));
    function.sig.inputs.first().is_some_and(is_self)
}

/// True if the compiler would report a mistake in the function that has been reported already.
fn has_mistake_for_the_compiler(function: &Function) -> bool {
    let sig = &function.sig;
    let mut names = HashSet::from([sig.ident.clone()]);
    let is_doubtful = |input: &FnArg| match input {
        FnArg::Receiver(receiver) => matches!(receiver.kind, ReceiverKind::Typed(..)),
        FnArg::Typed(input) => matches!(&*input.pat, Pat::Ident(pat) if !names.insert(pat.ident.clone())),
    };
    sig.variadic.is_some() || sig.inputs.iter().any(is_doubtful)
}

fn stand_in(function: &Function, options: &Options) -> TokenStream {
    let private = options.private();
    let (vis, ident) = (&function.vis, &function.sig.ident);
    let name = expand::name_of(ident, options);
    let constants = options.constants(&private);
    let returned = returned(function);
    let fallible = ast::is_fallible(&function.sig.output);
    let output = match &returned {
        Some(ty) if fallible => quote!(<#ty as #private::Fallible>::Value),
        Some(ty) => ty.clone(),
        None => quote!(()),
    };
    let inputs: Vec<&FnArg> = function.sig.inputs.iter().collect();
    let arguments = inputs.iter().enumerate().filter(|(index, input)| is_argument(*index, input));
    let arguments: Vec<Ident> = (0..arguments.count()).map(|i| format_ident!("__{i}")).collect();
    let deref = returned.and_then(|returned| deref(function, &inputs, &returned, &private));
    quote! {
        impl #private::Task for #ident {
            const NAME: &'static str = #name;
            const OPTIONS: #private::TaskOptions = #constants;
            type Args = #private::NoArgs;
            type Output = #output;
        }
        #[allow(unused_variables)]
        impl #ident {
            #vis async fn delay(
                &self
                #(, #arguments: impl ::core::marker::Sized)*
            ) -> ::core::result::Result<#private::AsyncResult<<Self as #private::Task>::Output>, #private::Error>
            {
                ::core::unreachable!()
            }
            #vis fn with(&self #(, #arguments: impl ::core::marker::Sized)*) -> #private::Signature<Self> {
                ::core::unreachable!()
            }
            #vis async fn delay_many(
                &self,
                calls: impl ::core::iter::IntoIterator,
            ) -> ::core::result::Result<
                ::std::vec::Vec<#private::AsyncResult<<Self as #private::Task>::Output>>,
                #private::Error,
            > {
                ::core::unreachable!()
            }
        }
        #deref
    }
}

/// Keeps direct calls working where the types of the function can be written in a function pointer.
fn deref(
    function: &Function,
    inputs: &[&FnArg],
    returned: &TokenStream,
    private: &TokenStream,
) -> Option<TokenStream> {
    let ident = &function.sig.ident;
    let types: Vec<&Type> = inputs
        .iter()
        .map(|input| match input {
            FnArg::Typed(input) if is_nameable(function, &input.ty) => Some(&*input.ty),
            _ => None,
        })
        .collect::<Option<_>>()?;
    let returned = match function.sig.asyncness {
        Some(_) => quote!(#private::BoxFuture<'static, #returned>),
        None => returned.clone(),
    };
    Some(quote! {
        impl ::core::ops::Deref for #ident {
            type Target = fn(#(#types),*) -> #returned;
            fn deref(&self) -> &Self::Target {
                ::core::unreachable!()
            }
        }
    })
}

/// True for a parameter of `.delay`: neither `self` nor the context.
fn is_argument(index: usize, input: &FnArg) -> bool {
    match input {
        FnArg::Receiver(_) => false,
        FnArg::Typed(input) => match &*input.ty {
            Type::Reference(reference) => {
                ast::path_of(&reference.elem).and_then(ast::last_name).is_none_or(|name| name != "Context")
            }
            ty => !valid::is_context(index, ty),
        },
    }
}

/// The return type, if it has a meaning outside of the function.
fn returned(function: &Function) -> Option<TokenStream> {
    match &function.sig.output {
        syn::ReturnType::Type(_, ty) if !is_nameable(function, ty) || borrows(ty) => None,
        output => Some(ast::returned(output)),
    }
}

fn borrows(ty: &Type) -> bool {
    has(
        quote!(#ty),
        &|token| matches!(token, TokenTree::Punct(punct) if matches!(punct.as_char(), '&' | '\'')),
    )
}

/// True if a type names no generic parameter of the function and contains no `impl`.
fn is_nameable(function: &Function, ty: &Type) -> bool {
    let own: Vec<&Ident> = function
        .sig
        .generics
        .params
        .iter()
        .map(|parameter| match parameter {
            GenericParam::Type(parameter) => &parameter.ident,
            GenericParam::Const(parameter) => &parameter.ident,
            GenericParam::Lifetime(parameter) => &parameter.lifetime.ident,
        })
        .collect();
    let foreign = |token: &TokenTree| matches!(token, TokenTree::Ident(i) if i == "impl" || own.contains(&i));
    !has(quote!(#ty), &foreign)
}

fn has(tokens: TokenStream, wanted: &dyn Fn(&TokenTree) -> bool) -> bool {
    tokens.into_iter().any(|token| {
        wanted(&token) || matches!(token, TokenTree::Group(group) if has(group.stream(), wanted))
    })
}
