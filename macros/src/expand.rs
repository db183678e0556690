//! Generates the unit struct that replaces the function, and everything that belongs to it.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::LitStr;
use syn::spanned::Spanned;

use crate::ast::{self, Attributes, Parameter, Task, located, respan};
use crate::options::{Options, Topic};

/// Generates the code of a valid task.
pub(crate) fn task(task: &Task<'_>, options: &Options) -> TokenStream {
    let attributes = Attributes::sort(&task.function.attrs);
    let function = &task.function;
    let item = unit_struct(&attributes, &function.vis, task.ident());
    let body = body(task, &attributes.body);
    let parts = Parts::of(task, options);
    let generated = [
        parts.task_impl(),
        parts.methods(),
        parts.call(),
        parts.deref(),
        parts.checks(),
        parts.events(),
        parts.entry(),
    ];
    let generated = quiet(&quote!(#(#generated)*));
    within(&attributes, &quote!(#item), &quote!(#body #generated))
}

/// The struct with the function's name.
pub(crate) fn unit_struct(attributes: &Attributes, vis: &syn::Visibility, ident: &Ident) -> TokenStream {
    let Attributes { conditions, lints, shown, .. } = attributes;
    quote! {
        #(#shown)*
        #(#conditions)*
        #[allow(non_camel_case_types, dead_code)]
        #(#lints)*
        #[derive(::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug, ::core::default::Default)]
        #vis struct #ident;
    }
}

/// Puts items that must not be named elsewhere into a block of their own, under the conditions of the function.
pub(crate) fn within(attributes: &Attributes, item: &TokenStream, hidden: &TokenStream) -> TokenStream {
    let Attributes { conditions, lints, .. } = attributes;
    quote! {
        #item
        #(#conditions)*
        #(#lints)*
        const _: () = { #hidden };
    }
}

/// Silences lints in generated code. The function itself stays outside of this.
pub(crate) fn quiet(code: &TokenStream) -> TokenStream {
    quote! {
        #[allow(
            dead_code,
            deprecated,
            non_local_definitions,
            unreachable_pub,
            clippy::too_many_arguments,
            clippy::type_complexity,
            clippy::used_underscore_binding
        )]
        const _: () = { #code };
    }
}

/// The function as it was written, inside an `impl`: there its name shadows nothing, so that in its body
/// `send_email.delay(..)` is still the task.
fn body(task: &Task<'_>, attrs: &[TokenStream]) -> TokenStream {
    let sig = &task.function.sig;
    let block = task.body;
    quote! {
        struct __Body;
        impl __Body {
            #(#attrs)*
            #sig #block
        }
    }
}

/// Values that the generated items share.
pub(crate) struct Parts<'a> {
    pub(crate) task: &'a Task<'a>,
    pub(crate) options: &'a Options,
    /// `::mq_worker::__private`
    pub(crate) private: TokenStream,
    /// The unit struct.
    pub(crate) ident: &'a Ident,
    pub(crate) types: Vec<&'a syn::Type>,
    /// Local names for the arguments. No task may share one: a local variable cannot shadow a unit struct in scope.
    pub(crate) locals: Vec<Ident>,
    pub(crate) keywords: Vec<String>,
    returned: TokenStream,
    pub(crate) returned_span: Span,
}

impl<'a> Parts<'a> {
    fn of(task: &'a Task<'a>, options: &'a Options) -> Self {
        let parameters = &task.parameters;
        let output = &task.function.sig.output;
        Self {
            task,
            options,
            private: options.private(),
            ident: task.ident(),
            types: parameters.iter().map(|parameter| parameter.ty).collect(),
            locals: (0..parameters.len()).map(|index| format_ident!("__argument_{index}")).collect(),
            keywords: parameters.iter().map(Parameter::keyword).collect(),
            returned: task.returned(),
            returned_span: match output {
                syn::ReturnType::Default => task.ident().span(),
                syn::ReturnType::Type(_, ty) => ty.span(),
            },
        }
    }

    fn task_impl(&self) -> TokenStream {
        let Self { private, ident, .. } = self;
        let name = name_of(self.ident, self.options);
        let constants = self.options.constants(private);
        let args = self.args_type();
        let output = self.output_type();
        let unique_by = self.unique_by();
        quote! {
            impl #private::Task for #ident {
                const NAME: &'static str = #name;
                const OPTIONS: #private::TaskOptions = #constants;
                #args
                #output
                #unique_by
            }
        }
    }

    /// Generates the key of a unique task: two calls with equal keys count as the same.
    fn unique_by(&self) -> TokenStream {
        if self.options.unique_for.is_none() {
            return TokenStream::new();
        }
        let private = &self.private;
        let key = match &self.options.unique_by {
            None => quote!(#private::write_output(__args)),
            Some(unique_by) => {
                let expressions = &unique_by.list;
                let names = self.task.parameters.iter().map(|parameter| parameter.ident);
                let pattern = match self.types.is_empty() {
                    true => quote!(_),
                    false => quote!((#(#names,)*)),
                };
                quote! {{
                    let #pattern = __args;
                    #private::write_output(&(#(&(#expressions),)*))
                }}
            }
        };
        quote! {
            #[allow(unused_variables, clippy::borrow_deref_ref, clippy::needless_borrow)]
            fn unique_by(
                __args: &Self::Args,
            ) -> ::core::option::Option<::core::result::Result<::std::vec::Vec<u8>, #private::TaskError>> {
                ::core::option::Option::Some(#key)
            }
        }
    }

    fn args_type(&self) -> TokenStream {
        let Self { private, types, .. } = self;
        let args = match &types[..] {
            [] => quote!(#private::NoArgs),
            types => quote_spanned!(self.args_span()=> (#(#types,)*)),
        };
        quote_spanned!(self.args_span()=> type Args = #args;)
    }

    /// The span of the only type, or of the whole list.
    fn args_span(&self) -> Span {
        located(match &self.types[..] {
            [one] => one.span(),
            _ => self.task.function.sig.paren_token.span.join(),
        })
    }

    fn output_type(&self) -> TokenStream {
        let returned = &self.returned;
        let span = located(self.returned_span);
        let private = respan(&self.private, span);
        match self.task.is_fallible() {
            true => quote_spanned!(span=> type Output = <#returned as #private::Fallible>::Value;),
            false => quote_spanned!(span=> type Output = #returned;),
        }
    }

    fn methods(&self) -> TokenStream {
        let Self { private, ident, .. } = self;
        let vis = &self.task.function.vis;
        let many = self.delay_many();
        let names: Vec<&Ident> = self.task.parameters.iter().map(|parameter| parameter.ident).collect();
        let accepted: Vec<TokenStream> = self.task.parameters.iter().map(Parameter::accepted).collect();
        let values = self.task.parameters.iter().map(|parameter| {
            let name = parameter.ident;
            if parameter.is_string() { quote!(::core::convert::Into::into(#name)) } else { quote!(#name) }
        });
        let args = args_value(values, private);
        quote! {
            impl #ident {
                /// Puts a call on the queue. `Ok` means that the broker has it safely.
                ///
                /// # Errors
                /// Fails if the broker does not accept it; see `mq_worker::App::send`.
                #vis async fn delay(
                    &self
                    #(, #names: #accepted)*
                ) -> ::core::result::Result<
                    #private::AsyncResult<<Self as #private::Task>::Output>,
                    #private::Error,
                > {
                    #private::Signature::send(self.with(#(#names),*)).await
                }

                /// A call with these arguments, not sent yet: it takes a countdown, another queue and the like,
                /// and then `.send()`.
                #vis fn with(&self #(, #names: #accepted)*) -> #private::Signature<Self> {
                    #private::Signature::new(#args)
                }

                #many
            }
        }
    }

    /// Generates `delay_many`; a task without arguments has no use for it.
    fn delay_many(&self) -> TokenStream {
        let Self { private, types, .. } = self;
        let vis = &self.task.function.vis;
        let (item, args) = match &self.task.parameters[..] {
            [] => return TokenStream::new(),
            [one] if one.is_string() => (one.accepted(), quote!((::core::convert::Into::into(__call),))),
            [_] => (quote!(#(#types)*), quote!((__call,))),
            _ => (quote!((#(#types),*)), quote!(__call)),
        };
        quote! {
            /// Puts many calls on the queue at once, each with one item as its arguments, and waits until the
            /// broker has all of them.
            ///
            /// # Errors
            /// The first error; calls after the failing one may have been sent or not.
            #vis async fn delay_many(
                &self,
                calls: impl ::core::iter::IntoIterator<Item = #item>,
            ) -> ::core::result::Result<
                #private::ResultSet<<Self as #private::Task>::Output>,
                #private::Error,
            > {
                let __signatures = ::core::iter::Iterator::map(
                    ::core::iter::IntoIterator::into_iter(calls),
                    |__call| #private::Signature::<Self>::new(#args),
                );
                #private::App::send_many(&#private::App::global()?, __signatures).await
            }
        }
    }

    /// The function with its future boxed: the only place that requires the future to be `Send`.
    fn call(&self) -> TokenStream {
        if !self.task.is_async() {
            return TokenStream::new();
        }
        let Self { private, ident, types, locals, returned, .. } = self;
        let context = self.task.context.iter();
        let given = self.task.context.iter().map(|_| quote!(__context));
        let span = located(ident.span());
        let boxed = quote_spanned!(span=> ::std::boxed::Box::pin(Self::#ident(#(#given,)* #(#locals),*)));
        quote! {
            impl __Body {
                fn __call<'run>(
                    #(__context: &'run #context,)*
                    #(#locals: #types),*
                ) -> #private::BoxFuture<'run, #returned> {
                    #boxed
                }
            }
        }
    }

    /// The path of the function to call, and its type as a function pointer.
    pub(crate) fn callee(&self) -> (TokenStream, TokenStream) {
        let Self { private, ident, types, returned, .. } = self;
        let context = self.task.context.iter();
        if self.task.is_async() {
            let (binder, lifetime) = match &self.task.context {
                Some(_) => (quote!(for<'run>), quote!('run)),
                None => (quote!(), quote!('static)),
            };
            let pointer = quote! {
                #binder fn(#(&'run #context,)* #(#types),*) -> #private::BoxFuture<#lifetime, #returned>
            };
            (quote!(__Body::__call), pointer)
        } else {
            (quote!(__Body::#ident), quote!(fn(#(&#context,)* #(#types),*) -> #returned))
        }
    }

    /// Allows `send_email(user)`: a callee is dereferenced until it can be called.
    fn deref(&self) -> TokenStream {
        let ident = self.ident;
        let (path, pointer) = self.callee();
        // At the span of the argument types, so that a private type is reported only once.
        let target = quote_spanned!(self.args_span()=> type Target = #pointer;);
        quote! {
            impl ::core::ops::Deref for #ident {
                #target

                fn deref(&self) -> &Self::Target {
                    const CALL: <#ident as ::core::ops::Deref>::Target = #path;
                    &CALL
                }
            }
        }
    }

    /// Checks that a task that subscribes to a `Topic<Order>` takes an `Order`. It must be that very type: if it only
    /// had the same JSON, a change to one of the two would go unnoticed.
    fn events(&self) -> TokenStream {
        let Some(ty) = self.types.first() else { return TokenStream::new() };
        let constants = self.options.topics().iter().filter_map(|topic| match topic {
            Topic::Constant(path) => Some(path),
            Topic::Text(_) => None,
        });
        let checks = constants.map(|path| {
            let span = located(path.span());
            let private = respan(&self.private, span);
            quote_spanned!(span=> const _: #private::Topic<#ty> = #path;)
        });
        quote!(#(#checks)*)
    }

    /// Refuses a `Result` under another name: its errors would count as successes.
    fn checks(&self) -> TokenStream {
        if self.task.is_fallible() {
            return TokenStream::new();
        }
        let Self { private, returned, .. } = self;
        let span = located(self.returned_span);
        let private = respan(private, span);
        quote_spanned! {span=>
            const _: () = {
                #[allow(unused_imports)]
                use #private::NotResult as _;
                ::core::assert!(
                    !#private::Returned::<#returned>::IS_RESULT,
                    "the task returns a `Result` under another name: write `Result<..>`, or errors would count as results"
                );
            };
        }
    }
}

/// The name on the wire.
pub(crate) fn name_of(ident: &Ident, options: &Options) -> LitStr {
    options.name.clone().unwrap_or_else(|| LitStr::new(&ast::bare(ident), ident.span()))
}

fn args_value(values: impl ExactSizeIterator<Item = TokenStream>, private: &TokenStream) -> TokenStream {
    if values.len() == 0 { quote!(#private::NoArgs) } else { quote!((#(#values,)*)) }
}
