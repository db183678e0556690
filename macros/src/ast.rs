//! The input of the attributes: a function, with its body left as tokens.

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Meta, Path, PathArguments, Result, ReturnType, Signature, Token, Type, Visibility};

/// A function under an attribute. The body is not parsed: the compiler does that, with better error messages.
pub(crate) struct Function {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) sig: Signature,
    pub(crate) body: Option<Group>,
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let vis = input.parse()?;
        let sig = input.parse()?;
        let body = match input.parse()? {
            TokenTree::Group(body) => Some(body),
            _ => None,
        };
        Ok(Self { attrs, vis, sig, body })
    }
}

impl Function {
    /// Reads the item under the attribute `#[macro_name]`.
    pub(crate) fn read(macro_name: &str, item: TokenStream) -> Result<Self> {
        // An item that looks like a function but does not parse has a syntax error of its own: report that one.
        let is_function =
            item.clone().into_iter().any(|token| matches!(token, TokenTree::Ident(ident) if ident == "fn"));
        if is_function {
            return syn::parse2(item);
        }
        Err(syn::Error::new(Span::call_site(), format!("`#[{macro_name}]` can only be used on a function")))
    }
}

/// A function that can be a task.
pub(crate) struct Task<'a> {
    pub(crate) function: &'a Function,
    pub(crate) body: &'a Group,
    /// The type behind the reference of a leading `&Context`.
    pub(crate) context: Option<&'a Type>,
    pub(crate) parameters: Vec<Parameter<'a>>,
}

/// One argument of the call.
pub(crate) struct Parameter<'a> {
    pub(crate) ident: &'a Ident,
    pub(crate) ty: &'a Type,
}

impl Parameter<'_> {
    /// The keyword on the wire: `r#type` is `type`.
    pub(crate) fn keyword(&self) -> String {
        bare(self.ident)
    }

    /// What `.delay` and `.with` accept: `impl Into<String>` for strings, else the type itself. (`impl Into<u64>`
    /// would break integer literals.)
    pub(crate) fn accepted(&self) -> TokenStream {
        let ty = self.ty;
        if self.is_string() { quote!(impl ::core::convert::Into<#ty>) } else { quote!(#ty) }
    }

    pub(crate) fn is_string(&self) -> bool {
        path_of(self.ty).and_then(last_name).is_some_and(|name| name == "String")
    }

    /// The parameter as text: `user: User`.
    pub(crate) fn shown(&self) -> String {
        format!("{}: {}", self.keyword(), type_text(self.ty))
    }
}

impl Task<'_> {
    pub(crate) fn ident(&self) -> &Ident {
        &self.function.sig.ident
    }

    pub(crate) fn is_async(&self) -> bool {
        self.function.sig.asyncness.is_some()
    }

    /// The return type of the function.
    pub(crate) fn returned(&self) -> TokenStream {
        returned(&self.function.sig.output)
    }

    pub(crate) fn is_fallible(&self) -> bool {
        is_fallible(&self.function.sig.output)
    }
}

pub(crate) fn returned(output: &ReturnType) -> TokenStream {
    match output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, ty) => ty.to_token_stream(),
    }
}

/// True for `Result`, `anyhow::Result`, `io::Result`: any path that ends in `Result`.
pub(crate) fn is_fallible(output: &ReturnType) -> bool {
    match output {
        ReturnType::Default => false,
        ReturnType::Type(_, ty) => path_of(ty).and_then(last_name).is_some_and(|name| name == "Result"),
    }
}

/// The path of a type, without the groups that `macro_rules!` puts around it.
pub(crate) fn path_of(ty: &Type) -> Option<&Path> {
    match ty {
        Type::Path(ty) if ty.qself.is_none() => Some(&ty.path),
        Type::Group(ty) => path_of(&ty.elem),
        Type::Paren(ty) => path_of(&ty.elem),
        _ => None,
    }
}

pub(crate) fn last_name(path: &Path) -> Option<&Ident> {
    path.segments.last().map(|segment| &segment.ident)
}

/// The `T` of `Result<T, ..>`.
pub(crate) fn first_type_argument(ty: &Type) -> Option<&Type> {
    match &path_of(ty)?.segments.last()?.arguments {
        PathArguments::AngleBracketed(list) => list.args.iter().find_map(|argument| match argument {
            syn::GenericArgument::Type(ty) => Some(ty),
            _ => None,
        }),
        _ => None,
    }
}

/// A name without `r#`.
pub(crate) fn bare(ident: &Ident) -> String {
    let text = ident.to_string();
    text.strip_prefix("r#").map_or(text.clone(), str::to_owned)
}

/// A type as people write it; token streams print spaces between all tokens.
pub(crate) fn type_text(ty: &Type) -> String {
    let mut text = String::new();
    for piece in ty.to_token_stream().to_string().split_whitespace() {
        let tight = text.is_empty()
            || text.ends_with(['<', '(', '[', '&', '\''])
            || text.ends_with("::")
            || piece.starts_with(['<', '>', ',', ')', ']', ';', ':']);
        if !tight {
            text.push(' ');
        }
        text.push_str(piece);
    }
    text
}

/// Where the attributes of the function go.
#[derive(Default)]
pub(crate) struct Attributes {
    /// On all that is generated: `cfg`.
    pub(crate) conditions: Vec<TokenStream>,
    /// On all that is generated: `allow`, `warn`, `deny`, `forbid`.
    pub(crate) lints: Vec<TokenStream>,
    /// On what the user sees: documentation.
    pub(crate) shown: Vec<TokenStream>,
    /// On the function itself: all others.
    pub(crate) body: Vec<TokenStream>,
}

impl Attributes {
    pub(crate) fn sort<'a>(attrs: impl IntoIterator<Item = &'a Attribute>) -> Self {
        let mut sorted = Self::default();
        for attr in attrs {
            match conditional(&attr.meta) {
                Some((condition, metas)) => {
                    for meta in metas {
                        let tokens = quote!(#[cfg_attr(#condition, #meta)]);
                        sorted.place(meta.path()).push(tokens);
                    }
                }
                None => sorted.place(attr.path()).push(attr.to_token_stream()),
            }
        }
        sorted
    }

    fn place(&mut self, path: &Path) -> &mut Vec<TokenStream> {
        match path.get_ident().map(Ident::to_string).as_deref() {
            Some("cfg") => &mut self.conditions,
            // Not `expect`: on two items, one of the expectations would be unfulfilled.
            Some("allow" | "warn" | "deny" | "forbid") => &mut self.lints,
            Some("doc" | "deprecated") => &mut self.shown,
            _ => &mut self.body,
        }
    }
}

/// `cfg_attr(condition, a, b)` taken apart.
fn conditional(meta: &Meta) -> Option<(Meta, Vec<Meta>)> {
    if !meta.path().is_ident("cfg_attr") {
        return None;
    }
    let all = syn::punctuated::Punctuated::<Meta, Token![,]>::parse_terminated;
    let mut metas = meta.require_list().ok()?.parse_args_with(all).ok()?.into_iter();
    Some((metas.next()?, metas.collect()))
}

/// The text of the doc comment.
pub(crate) fn doc_text(attrs: &[Attribute]) -> String {
    let lines = attrs.iter().filter_map(|attr| match &attr.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    let lines: Vec<String> =
        lines.map(|line| line.strip_prefix(' ').map_or(line.clone(), str::to_owned)).collect();
    lines.join("\n").trim().to_owned()
}

/// A span for generated code whose errors point to a place in the user's code.
pub(crate) fn located(span: Span) -> Span {
    Span::call_site().located_at(span)
}

/// The same tokens at another place, so that a message covers that place alone.
pub(crate) fn respan(tokens: &TokenStream, span: Span) -> TokenStream {
    let at = |mut token: TokenTree| {
        token.set_span(span);
        token
    };
    tokens.clone().into_iter().map(at).collect()
}
