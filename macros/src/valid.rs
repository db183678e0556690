//! Checks the function and the options of a task. Each message says what to write instead.

use std::collections::HashSet;

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, FnArg, LitStr, Pat, PatType, ReturnType, Safety, Type, TypeReference};

use crate::ast::{self, Function, Parameter, Task};
use crate::mistakes::Mistakes;
use crate::options::{Options, Topic};

/// The most arguments that a task takes.
const MAX_ARGUMENTS: usize = 12;

/// AMQP carries names and routing keys as short strings.
const MAX_NAME: usize = 255;

/// The longest `once_for`: how long the broker remembers finished calls.
const LONGEST_MEMORY: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// Checks the function; `None` when it cannot be a task.
pub(crate) fn task<'a>(function: &'a Function, mistakes: &mut Mistakes) -> Option<Task<'a>> {
    let mut found = Mistakes::default();
    plain_function("task", "a task", function, &mut found);
    let (context, parameters) = inputs(function, &mut found);
    output(&function.sig.output, &mut found);
    let sound = found.is_empty();
    mistakes.append(found);
    let body = function.body.as_ref()?;
    sound.then_some(Task { function, body, context, parameters })
}

/// Checks what applies to tasks, set-up functions and failure hooks alike; `what` is the noun for messages.
pub(crate) fn plain_function(macro_name: &str, what: &str, function: &Function, mistakes: &mut Mistakes) {
    let Function { attrs, sig, body, .. } = function;
    if let Some(token) = &sig.constness {
        mistakes.add(token, format!("{what} cannot be `const`"));
    }
    if !matches!(sig.safety, Safety::Default) {
        mistakes.add(&sig.safety, format!("{what} cannot be `{}`", sig.safety.to_token_stream()));
    }
    if let Some(abi) = &sig.abi {
        mistakes.add(abi, format!("{what} cannot be `extern`"));
    }
    if let Some(parameter) = sig.generics.params.first() {
        let message = match parameter {
            syn::GenericParam::Lifetime(_) => {
                format!("{what} cannot have lifetime parameters: it owns its data")
            }
            _ => format!("{what} cannot be generic: the worker must know every type"),
        };
        mistakes.add(&sig.generics.params, message);
    }
    if let Some(clause) = &sig.generics.where_clause {
        mistakes.add(clause, format!("{what} cannot have a `where` clause"));
    }
    if let Some(variadic) = &sig.variadic {
        mistakes.add(variadic, format!("{what} cannot be variadic"));
    }
    if body.is_none() {
        mistakes.add(&sig.ident, format!("`{}` has no body", ast::bare(&sig.ident)));
    }
    if let Some(attr) = attrs.iter().find(|attr| is_attribute(attr, macro_name)) {
        mistakes.add(attr, format!("`#[{macro_name}]` is given twice"));
    }
}

/// True for `#[task]`, by whatever path.
pub(crate) fn is_attribute(attr: &Attribute, name: &str) -> bool {
    let ours = |segment: &syn::PathSegment| segment.ident == "mq_worker";
    let path = attr.path();
    path.is_ident(name)
        || (path.segments.first().is_some_and(ours) && ast::last_name(path).is_some_and(|last| last == name))
}

/// The context and the arguments, as far as they are valid.
fn inputs<'a>(function: &'a Function, mistakes: &mut Mistakes) -> (Option<&'a Type>, Vec<Parameter<'a>>) {
    let mut context = None;
    let mut parameters = Vec::new();
    let mut names = HashSet::new();
    for (index, input) in function.sig.inputs.iter().enumerate() {
        let input = match input {
            FnArg::Receiver(receiver) => {
                mistakes.add(
                    receiver,
                    "a task is a free function without `self`: move it out of the `impl`, and take what it needs as \
                     arguments, or from `ctx.state::<T>()`, which a `#[setup]` function fills",
                );
                continue;
            }
            FnArg::Typed(input) => input,
        };
        no_conditions(&input.attrs, mistakes);
        if let Some(reference) = reference_to_context(&input.ty) {
            if context_is_sound(index, reference, mistakes) {
                context = Some(&*reference.elem);
            }
            continue;
        }
        if is_context(index, &input.ty) {
            mistakes.add(
                &input.ty,
                "the context is passed by reference: take `&Context` (an argument of your own needs a type of \
                 another name)",
            );
            continue;
        }
        owned(&input.ty, mistakes);
        let Some(parameter) = named(input, mistakes) else { continue };
        let name = parameter.keyword();
        if name == ast::bare(&function.sig.ident) {
            mistakes.add(
                parameter.ident,
                format!("a parameter cannot have the name of its task: rename it, or the task with `name = \"{name}\"`"),
            );
        } else if !names.insert(name.clone()) {
            mistakes.add(parameter.ident, format!("two parameters are named `{name}`"));
        }
        parameters.push(parameter);
    }
    if let Some(parameter) = parameters.get(MAX_ARGUMENTS) {
        mistakes.add(
            parameter.ident,
            format!(
                "a task takes at most {MAX_ARGUMENTS} arguments, this one has {}: put them in a struct",
                parameters.len()
            ),
        );
    }
    (context, parameters)
}

fn no_conditions(attrs: &[Attribute], mistakes: &mut Mistakes) {
    let conditional = |attr: &&Attribute| attr.path().is_ident("cfg") || attr.path().is_ident("cfg_attr");
    if let Some(attr) = attrs.iter().find(conditional) {
        mistakes.add(attr, "a parameter of a task cannot be conditional: put the `cfg` on the whole task");
    }
}

/// `&Context`, by whatever path: its last segment decides.
fn reference_to_context(ty: &Type) -> Option<&TypeReference> {
    match ty {
        Type::Reference(reference) => {
            let path = ast::path_of(&reference.elem)?;
            (ast::last_name(path)? == "Context").then_some(reference)
        }
        Type::Group(group) => reference_to_context(&group.elem),
        Type::Paren(paren) => reference_to_context(&paren.elem),
        _ => None,
    }
}

/// `Context` by value, in the place of `&Context`.
pub(crate) fn is_context(index: usize, ty: &Type) -> bool {
    let last = ast::path_of(ty).and_then(|path| path.segments.last());
    index == 0 && last.is_some_and(|last| last.ident == "Context" && last.arguments.is_none())
}

fn context_is_sound(index: usize, reference: &TypeReference, mistakes: &mut Mistakes) -> bool {
    let message = if index > 0 {
        "`&Context` must be the first parameter"
    } else if reference.mutability.is_some() {
        "the context is shared: take `&Context`"
    } else if reference.lifetime.as_ref().is_some_and(|lifetime| lifetime.ident != "_") {
        "the context lives as long as the run: use `&Context` without a lifetime"
    } else {
        return true;
    };
    mistakes.add(reference, message);
    false
}

/// Refuses borrowed arguments: they are decoded from a message, and nothing that they could borrow outlives the call.
fn owned(ty: &Type, mistakes: &mut Mistakes) {
    if let Type::Reference(reference) = ty {
        let instead = owned_form(&reference.elem);
        mistakes.add(ty, format!("a task owns its arguments: take `{instead}` by value"));
    } else {
        check_type(ty, "a task owns its arguments", mistakes);
    }
}

/// `str` → `String`, `[T]` → `Vec<T>`, others as they are.
fn owned_form(ty: &Type) -> String {
    match ty {
        Type::Slice(slice) => format!("Vec<{}>", ast::type_text(&slice.elem)),
        _ => match ast::type_text(ty).as_str() {
            "str" => "String".to_owned(),
            "Path" => "PathBuf".to_owned(),
            text => text.to_owned(),
        },
    }
}

/// Refuses anything in a type that cannot be named as an owned type.
fn check_type(ty: &Type, why: &str, mistakes: &mut Mistakes) {
    let Some((span, kind)) = borrowed_or_opaque(ty.to_token_stream()) else { return };
    mistakes.add_at(
        span,
        match kind {
            Kind::Borrowed => format!("{why}: use types without references and lifetimes, such as `String`"),
            Kind::Opaque => "a task cannot have `impl` in its signature: name the type".to_owned(),
        },
    );
}

#[derive(Clone, Copy)]
enum Kind {
    Borrowed,
    Opaque,
}

fn borrowed_or_opaque(tokens: TokenStream) -> Option<(Span, Kind)> {
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        let found = match token {
            TokenTree::Group(group) => borrowed_or_opaque(group.stream()),
            TokenTree::Ident(ident) if ident == "impl" => Some((ident.span(), Kind::Opaque)),
            TokenTree::Punct(punct) if punct.as_char() == '&' => Some((punct.span(), Kind::Borrowed)),
            // `Cow<'static, str>` is owned enough; every other lifetime borrows.
            TokenTree::Punct(punct) if punct.as_char() == '\'' => match tokens.next() {
                Some(TokenTree::Ident(name)) if name == "static" => None,
                _ => Some((punct.span(), Kind::Borrowed)),
            },
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Refuses patterns: each argument needs a name on the wire.
fn named<'a>(input: &'a PatType, mistakes: &mut Mistakes) -> Option<Parameter<'a>> {
    match &*input.pat {
        Pat::Ident(pat) if pat.by_ref.is_none() && pat.subpat.is_none() => {
            Some(Parameter { ident: &pat.ident, ty: &input.ty })
        }
        pat => {
            mistakes.add(pat, "an argument of a task needs a plain name: callers may pass it by keyword");
            None
        }
    }
}

fn output(output: &ReturnType, mistakes: &mut Mistakes) {
    let ReturnType::Type(_, ty) = output else { return };
    // The error stays in the worker and may borrow static data; the value is read back from JSON.
    let value = if ast::is_fallible(output) { ast::first_type_argument(ty) } else { Some(&**ty) };
    if let Some(value) = value {
        check_type(value, "the result of a task is read back from a message", mistakes);
    }
    let rest = borrowed_or_opaque(ty.to_token_stream());
    if let (true, Some((span, Kind::Opaque))) = (mistakes.is_empty(), rest) {
        mistakes.add_at(span, "a task cannot have `impl` in its signature: name the type");
    }
}

/// Checks the values of the options and how they combine.
pub(crate) fn options(options: &Options, mistakes: &mut Mistakes) {
    if let Some(name) = &options.name {
        check_name("a task's name", name, mistakes);
    }
    if let Some(queue) = &options.queue {
        check_name("a queue's name", queue, mistakes);
        if queue.value().starts_with("amq.") {
            mistakes.add(queue, "names that begin with `amq.` are the broker's own");
        }
    }
    if let Some(exchange) = &options.exchange {
        check_name("an exchange's name", exchange, mistakes);
    }
    if let (Some(soft), Some(hard)) = (options.soft_time_limit, options.time_limit)
        && soft.length >= hard.length
    {
        mistakes.add_at(soft.key, "`soft_time_limit` must be shorter than `time_limit`");
    }
    if let (Some(limit), None | Some(false)) = (options.memory_limit, options.isolate) {
        mistakes.add_at(limit.key, "`memory_limit` needs a separate process: add `isolate`");
    }
    if let (Some(unique_by), None) = (&options.unique_by, options.unique_for) {
        mistakes.add(&unique_by.text, "`unique_by` needs a time limit: add `unique_for = \"1h\"`");
    }
    if let (Some(unique_for), Some(true)) = (options.unique_for, options.broadcast) {
        mistakes.add_at(unique_for.key, "a broadcast runs on every worker: it cannot be unique");
    }
    if let Some(once_for) = options.once_for
        && once_for.length > LONGEST_MEMORY
    {
        mistakes.add_at(once_for.key, "`once_for` is 24 hours at most");
    }
    schedule(options, mistakes);
    let mut patterns = HashSet::new();
    for topic in options.topics() {
        // The value of a constant is not known here.
        let Topic::Text(topic) = topic else { continue };
        check_name("a topic", topic, mistakes);
        let value = topic.value();
        let partly = |word: &str| word.len() > 1 && word.contains(['*', '#']);
        if value.split('.').any(partly) {
            mistakes.add(topic, "`*` and `#` stand for whole words between dots, not for parts of one");
        }
        if !patterns.insert(value) {
            mistakes.add(topic, "this topic is given twice");
        }
    }
}

/// Checks the options of a schedule, which need `cron` or `every`.
fn schedule(options: &Options, mistakes: &mut Mistakes) {
    if let (Some(_), Some(every)) = (&options.cron, &options.every) {
        mistakes.add_at(every.key, "`cron` and `every` exclude each other: a task has one schedule; `[[schedules]]` in `mq-worker.toml` has room for more");
    }
    if let (Some(tz), None) = (&options.tz, &options.cron) {
        mistakes
            .add(&tz.text, "`tz` is the time zone of `cron`, which is not given; an interval is real time");
    }
    if let (Some(jitter), Some(every)) = (options.jitter, &options.every)
        && jitter.length > every.length
    {
        mistakes.add_at(jitter.key, "`jitter` is as long as the interval at most");
    }
    if options.is_scheduled() {
        return;
    }
    let rest = [
        options.jitter.map(|jitter| jitter.key),
        options.overlap.as_ref().map(|overlap| overlap.key),
        options.catch_up.as_ref().map(|catch_up| catch_up.key),
    ];
    for key in rest.into_iter().flatten() {
        mistakes.add_at(key, "this belongs to a schedule: add `cron = \"..\"` or `every = \"..\"`");
    }
}

/// Refuses arguments of a scheduled task: its schedule has none to pass.
pub(crate) fn scheduled(task: &Task<'_>, options: &Options, mistakes: &mut Mistakes) {
    if let (true, Some(first)) = (options.is_scheduled(), task.parameters.first()) {
        mistakes.add(
            first.ident,
            "a scheduled task takes no arguments: call it with some in `[[schedules]]` in `mq-worker.toml`, or with \
             `app.schedules().put(..)`",
        );
    }
}

fn check_name(what: &str, text: &LitStr, mistakes: &mut Mistakes) {
    let value = text.value();
    if value.is_empty() {
        mistakes.add(text, format!("{what} cannot be empty"));
    } else if value.len() > MAX_NAME {
        mistakes.add(text, format!("{what} has at most {MAX_NAME} bytes, this one has {}", value.len()));
    } else if value.chars().any(char::is_control) {
        mistakes.add(text, format!("{what} cannot have control characters"));
    }
}
