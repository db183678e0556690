//! Exports spans over OTLP, as configured by the environment.

use std::sync::OnceLock;

use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;

use crate::error::{Error, Result};

/// The provider to flush in a process that ends without returning from `main`.
static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Sends the spans that are left when it is dropped.
#[derive(Debug)]
#[must_use = "the last spans are sent when it is dropped"]
pub struct Exporting(SdkTracerProvider);

/// Exports the spans of this program by OTLP over HTTP. `mq_worker::main()` calls it; a program with its own `main` calls it
/// there, or installs a tracer provider of its own with `opentelemetry::global` and calls [`enable`](super::enable).
///
/// It reads OpenTelemetry's own variables: `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` (nothing is
/// exported if neither is set), `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_TIMEOUT`, `OTEL_SERVICE_NAME` (default: the
/// name of the program), `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`; `OTEL_SDK_DISABLED=true` and
/// `OTEL_TRACES_EXPORTER=none` turn it off.
///
/// ```no_run
/// fn main() -> mq_worker::Result<()> {
///     let _exporting = mq_worker::traces::start()?;
///     // …
///     Ok(())
/// }
/// ```
///
/// # Errors
/// An endpoint that is not a URL, or one with `https`: this build sends to a collector over `http`.
pub fn start() -> Result<Option<Exporting>> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let is_off = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || set("OTEL_TRACES_EXPORTER").is_some_and(|value| value != "otlp");
    let endpoints = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
    let Some((name, endpoint)) = endpoints.into_iter().find_map(|name| Some((name, set(name)?))) else {
        return Ok(None);
    };
    if is_off {
        return Ok(None);
    }
    if endpoint.starts_with("https:") {
        return Err(Error::config(format!(
            "{name} asks for https, and traces are sent over http only: name a collector on this host or network, such as \
             `http://localhost:4318`"
        )));
    }
    // Nothing is encrypted here. But if another crate of the program enables TLS in the HTTP client without choosing a crypto
    // provider, the client needs one before it starts. An error means that the program has already chosen one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exporter = SpanExporter::builder().with_http().build().map_err(|error| {
        Error::config(format!("cannot export traces: {name} is not usable")).with_source(error)
    })?;
    let mut resource = Resource::builder();
    if set("OTEL_SERVICE_NAME").is_none() {
        let program = std::env::current_exe().ok();
        let name = program.as_deref().and_then(std::path::Path::file_stem).unwrap_or("mq-worker".as_ref());
        resource =
            resource.with_attribute(KeyValue::new("service.name", name.to_string_lossy().into_owned()));
    }
    let provider =
        SdkTracerProvider::builder().with_resource(resource.build()).with_batch_exporter(exporter).build();
    global::set_tracer_provider(provider.clone());
    super::enable();
    let _ = PROVIDER.set(provider.clone());
    Ok(Some(Exporting(provider)))
}

/// Sends the spans that are left.
#[cfg(unix)]
pub(crate) async fn flush() {
    let Some(provider) = PROVIDER.get() else { return };
    let (sender, flushed) = tokio::sync::oneshot::channel();
    // A detached thread: a collector that does not reply may block it for longer than the caller is willing to wait.
    let sending = std::thread::Builder::new().spawn(move || {
        let _ = provider.force_flush();
        let _ = sender.send(());
    });
    if sending.is_ok() {
        let _ = flushed.await;
    }
}

impl Drop for Exporting {
    fn drop(&mut self) {
        // An error means that the collector is unreachable: the program exits anyway.
        let _ = self.0.shutdown();
    }
}
