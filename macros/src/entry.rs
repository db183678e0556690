//! The worker's side of a task: its registration, and the function that turns a message into a run.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;

use crate::ast::{self, Parameter, located, respan};
use crate::expand::Parts;

impl Parts<'_> {
    pub(crate) fn entry(&self) -> TokenStream {
        let Self { private, ident, keywords, .. } = self;
        let start = self.start();
        let shown: Vec<String> = self.task.parameters.iter().map(Parameter::shown).collect();
        let shown = shown.join(", ");
        let doc = ast::doc_text(&self.task.function.attrs);
        quote! {
            #start

            #private::inventory::submit! {
                #private::TaskEntry {
                    name: <#ident as #private::Task>::NAME,
                    options: <#ident as #private::Task>::OPTIONS,
                    parameters: &[#(#keywords),*],
                    signature: #shown,
                    doc: #doc,
                    file: ::core::file!(),
                    line: ::core::line!(),
                    start: __start,
                }
            }
        }
    }

    /// Generates the function that decodes the arguments in order and returns the work to do.
    fn start(&self) -> TokenStream {
        let Self { private, types, locals, keywords, .. } = self;
        let takes = types.iter().zip(locals).zip(keywords).map(|((ty, local), keyword)| {
            let span = located(ty.span());
            let private = respan(private, span);
            quote_spanned!(span=> let #local: #ty = #private::Arguments::take(&mut __arguments, #keyword)?;)
        });
        let mutable = (!locals.is_empty()).then(|| quote!(mut));
        let (path, _) = self.callee();
        let given = self.task.context.iter().map(|ty| quote_spanned!(located(ty.span())=> &__context));
        let called = quote!(#path(#(#given,)* #(#locals),*));
        let work = if self.task.is_async() {
            let outcome = self.outcome(&quote!(#called.await));
            quote!(future(async move { #outcome }))
        } else {
            let outcome = self.outcome(&called);
            quote!(blocking(move || { #outcome }))
        };
        quote! {
            fn __start(
                __context: #private::Context,
                #mutable __arguments: #private::Arguments<'_>,
            ) -> ::core::result::Result<#private::Work, #private::ArgumentError> {
                #(#takes)*
                #private::Arguments::finish(__arguments, &[#(#keywords),*])?;
                let __types = #private::result_types(&__context);
                ::core::result::Result::Ok(#private::Work::#work)
            }
        }
    }

    fn outcome(&self, called: &TokenStream) -> TokenStream {
        let Self { private, ident, .. } = self;
        let write = quote!(#private::write_output_of::<#ident>);
        if !self.task.is_fallible() {
            return quote!(#write(&#called, __types));
        }
        match_result(
            private,
            called,
            self.returned_span,
            &quote!(__value),
            &quote!(#write(&__value, __types)),
        )
    }
}

/// Matches on the returned value, whatever alias of `Result` it has. A mistake in that type is reported there, once.
pub(crate) fn match_result(
    private: &TokenStream,
    called: &TokenStream,
    span: Span,
    pattern: &TokenStream,
    success: &TokenStream,
) -> TokenStream {
    let convert = convert_error(private, span);
    let span = located(span);
    let private = respan(private, span);
    quote_spanned! {span=> {
        let __returned = #called;
        match #private::Fallible::into_result(__returned) {
            ::core::result::Result::Ok(#pattern) => #success,
            ::core::result::Result::Err(__error) => ::core::result::Result::Err(#convert),
        }
    }}
}

/// Converts `__error`, of any type, into a `TaskError`.
fn convert_error(private: &TokenStream, span: Span) -> TokenStream {
    let span = located(span);
    let caught = respan(private, span);
    let convert = quote_spanned!(span=> (&&&&#caught::Caught(__error)).into_task_error());
    quote! {{
        #[allow(unused_imports)]
        use #private::{
            ViaDisplay as _, ViaError as _, ViaNothing as _, ViaPermanence as _, ViaTaskError as _,
        };
        #convert
    }}
}
