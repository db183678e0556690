//! Layers, values and mistakes of the configuration.

use super::*;
use crate::routing::ExchangeKind;

fn sources(directory: &Path, variables: &[(&str, &str)]) -> Sources {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
    Sources { variables, directory: directory.to_owned(), start: directory.to_owned() }
}

/// Loads from a file and an environment.
fn load(file: &str, variables: &[(&str, &str)]) -> Result<Config> {
    let directory = tempfile::tempdir().expect("a directory");
    if !file.is_empty() {
        std::fs::write(directory.path().join(file::NAME), file).expect("a file");
    }
    Config::from_sources(&sources(directory.path(), variables)).map(|loaded| loaded.config)
}

/// The error without the directory.
fn mistake(file: &str, variables: &[(&str, &str)]) -> String {
    let error = load(file, variables).expect_err("a mistake");
    assert!(error.is_config(), "{error:?}");
    let text = format!("{error:#}");
    text.find(file::NAME).map_or(text.clone(), |at| text[at..].to_owned())
}

#[test]
fn nothing_said_gives_the_defaults() {
    let directory = tempfile::tempdir().expect("a directory");
    let loaded = Config::from_sources(&sources(directory.path(), &[])).expect("defaults");
    let database = directory.path().canonicalize().expect("it exists").join("mq-worker.db");
    assert_eq!(loaded.config.broker_url.expose(), format!("sqlite:{}", database.display()));
    assert_eq!(loaded.config.effective_result_backend(), loaded.config.broker_url);
    assert_eq!(loaded.config.max_message_size, 16 * 1024 * 1024);
    assert!(loaded.origins.is_empty(), "{:?}", loaded.origins);
}

#[test]
fn relative_paths_start_from_what_names_them() {
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path().canonicalize().expect("it exists");
    let below = root.join("web/src");
    std::fs::create_dir_all(&below).expect("a directory");
    let file = "\nbroker_url = 'sqlite:data/./jobs.db'\n[tls]\nca_file = 'ca.pem'\nkey_file = '/key.pem'";
    std::fs::write(root.join(file::NAME), file).expect("a file");
    let loaded = Config::from_sources(&sources(&below, &[("MQ_RESULT_BACKEND", "sqlite:results.db")]))
        .expect("layers");
    let Loaded { config, origins, home, .. } = loaded;
    assert_eq!(config.broker_url.expose(), format!("sqlite:{}/data/jobs.db", root.display()));
    assert_eq!(
        config.result_backend.expect("it is set").expose(),
        format!("sqlite:{}/results.db", below.display())
    );
    assert_eq!(
        (config.tls.ca_file, config.tls.key_file),
        (Some(root.join("ca.pem")), Some("/key.pem".into()))
    );
    assert_eq!(home, Home { directory: root.clone(), file: Some(root.join(file::NAME)) });
    assert_eq!(origins["MQ_BROKER_URL"], format!("{}:2", root.join(file::NAME).display()));
    assert_eq!(origins["MQ_TLS_CA_FILE"], format!("{}:4", root.join(file::NAME).display()));
    assert_eq!(origins["MQ_RESULT_BACKEND"], "MQ_RESULT_BACKEND");
}

#[test]
fn the_reference_lists_every_setting() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guide/configuration.md");
    let text = std::fs::read_to_string(path).expect("the reference");
    for section in ["", "worker", "tls"] {
        let table = settings::table(section);
        assert!(text.contains(&table), "docs/guide/configuration.md has to hold\n\n{table}");
    }
    let others = settings::STRUCTURES.map(|(_, variable)| variable).into_iter().chain(environment::ELSEWHERE);
    for variable in others {
        assert!(text.contains(&format!("`{variable}`")), "{variable} is not in docs/guide/configuration.md");
    }
    let config = Config::default();
    for setting in settings::SETTINGS {
        // A default in words depends on the machine or on another setting.
        let value = setting.default.strip_prefix('`').and_then(|text| text.strip_suffix('`'));
        if let Some(value) = value.filter(|value| !value.contains('%')) {
            assert_eq!((setting.get)(&config).as_deref(), Some(value), "{}", setting.path());
        }
    }
}

#[test]
fn a_variable_beats_the_file_and_the_file_beats_the_default() {
    let file = "default_queue = 'file'\nqueue_kind = 'classic'\n[worker]\nconcurrency = 7\nprefetch = 9\n";
    let config = load(file, &[("MQ_CONCURRENCY", "3"), ("MQ_DEFAULT_QUEUE", "variable")]).expect("layers");
    assert_eq!((config.worker.concurrency, config.worker.prefetch), (3, Prefetch::Fixed(9)));
    assert_eq!((config.default_queue.as_str(), config.queue_kind), ("variable", QueueKind::Classic));
    assert_eq!(config.publish_timeout, Duration::from_secs(10));
}

#[test]
fn every_setting_can_be_made_in_both_places() {
    let values = [
        ("broker_url", "amqp://u:p@host/v"),
        ("result_backend", "rpc://"),
        ("default_queue", "main"),
        ("management_url", "http://rabbit:15672"),
        ("topic_exchange", "events"),
        ("queue_kind", "broker"),
        ("publish_timeout", "1m 30s"),
        ("max_message_size", "2MiB"),
        ("result_expires", "2h"),
        ("result_required", "off"),
        ("result_types", "kombu"),
        ("history", "/history.db"),
        ("history_keep", "2h"),
        ("history_max_rows", "1000"),
        ("sent_events", "on"),
        ("event_values", "off"),
        ("track_started", "on"),
        ("queues", "email,sms"),
        ("concurrency", "4"),
        ("prefetch", "auto"),
        ("grace", "0s"),
        ("hostname", "one@%h"),
        ("max_crashes", "6"),
        ("control", "off"),
        ("events", "on"),
        ("beat", "on"),
        ("health", "127.0.0.1:9000"),
        ("health_stall_limit", "30s"),
        ("health_connection_limit", "0s"),
        ("ca_file", "/ca.pem"),
        ("cert_file", "/cert.pem"),
        ("key_file", "/key.pem"),
    ];
    let value = |key: &str| values.iter().find(|(known, _)| *known == key).expect("a value for each").1;
    let mut text = String::new();
    for section in ["", "worker", "tls"] {
        if !section.is_empty() {
            text += &format!("[{section}]\n");
        }
        for setting in settings::of_section(section) {
            text += &format!("{} = {:?}\n", setting.key, value(setting.key));
        }
    }
    let variables: Vec<_> = settings::SETTINGS.iter().map(|s| (s.variable, value(s.key))).collect();
    let from_file = load(&text, &[]).expect("a file");
    let from_environment = load("", &variables).expect("an environment");
    assert_eq!(format!("{from_file:?}"), format!("{from_environment:?}"));
    assert_eq!(from_file.broker_url.expose(), "amqp://u:p@host/v");
    assert_eq!(from_file.publish_timeout, Duration::from_secs(90));
    assert_eq!(from_file.max_message_size, 2 * 1024 * 1024);
    assert_eq!(from_file.worker.queues, ["email", "sms"]);
    assert_eq!(from_file.worker.grace, Duration::ZERO);
    assert!(!from_file.worker.control && Config::default().worker.control);
    assert_eq!(from_file.tls.key_file.as_deref(), Some(Path::new("/key.pem")));
    assert_eq!(settings::SETTINGS.len(), values.len());
}

#[test]
fn routes_and_topology_are_tables() {
    let file = r#"
        [[routes]]
        task = "feed.*"
        queue = "feeds"

        [worker]
        queues = ["feeds", "mail"]
        concurrency = 0x10

        [topology]
        exchanges = [{ name = "orders", kind = "topic" }]
        bindings = [{ exchange = "orders", queue = "stock", routing_key = "order.*.paid" }]
        [[topology.queues]]
        name = "stock"
        message_ttl = "90s"
        expires = 60000
    "#;
    let config = load(file, &[]).expect("tables");
    assert_eq!(
        (config.routes[0].task.as_str(), config.routes[0].queue.as_deref()),
        ("feed.*", Some("feeds"))
    );
    assert_eq!((config.worker.queues.len(), config.worker.concurrency), (2, 16));
    assert_eq!(config.topology.exchanges[0].kind, ExchangeKind::Topic);
    assert_eq!(config.topology.bindings[0].routing_key, "order.*.paid");
    assert_eq!(config.topology.queues[0].message_ttl, Some(Duration::from_secs(90)));
    assert_eq!(config.topology.queues[0].expires, Some(Duration::from_secs(60)));
    let variables =
        [("MQ_ROUTES", "[{ task = 'a', queue = 'b' }]"), ("MQ_TOPOLOGY", "{ queues = [{ name = 'b' }] }")];
    let config = load(file, &variables).expect("variables");
    assert_eq!((config.routes[0].task.as_str(), config.topology.queues[0].name.as_str()), ("a", "b"));
}

#[test]
fn mistakes_in_the_file_name_line_key_value_and_choices() {
    for (file, expected) in [
        ("\nconcurency = 1", "mq-worker.toml:2: unknown key `concurency`; the choices are broker_url,"),
        (
            "concurrency = 1",
            "mq-worker.toml:1: unknown key `concurrency`; it belongs in the section [worker]",
        ),
        (
            "[worker]\nqueue_kind = 1",
            "mq-worker.toml:2: unknown key `queue_kind` in [worker]; it belongs at the top",
        ),
        ("[worker]\nconcurency = 1", ":2: unknown key `concurency` in [worker]; did you mean `concurrency`?"),
        (
            "[worker]\nconcurrency = 0",
            ":2: `worker.concurrency` is `0`: expected a whole number from 1 to 65535",
        ),
        (
            "[worker]\nprefetch = 2.5",
            ":2: `worker.prefetch` is `2.5`: expected a whole number from 1 to 65535, or `auto`",
        ),
        (
            "[worker]\ngrace = 30",
            ":2: `worker.grace` is `30`: expected a duration with its unit, such as `30s`",
        ),
        ("worker = 1", ":1: `worker` is a section, written [worker]; here it is of type integer"),
        ("queue_kind = 'mirrored'", ":1: `queue_kind` is `mirrored`: expected quorum, classic or broker"),
        ("publish_timeout = '0s'", ":1: `publish_timeout` is `0s`: expected a duration above zero"),
        ("max_message_size = '1 furlong'", "`max_message_size` is `1 furlong`: expected a size above zero"),
        ("default_queue = ''", "`default_queue` is ``: queue name `` is not valid: it is empty"),
        ("default_queue = 1979-05-27", ":1: `default_queue` cannot be of type datetime"),
        (
            "broker_url = 'redis://x'",
            "`broker_url` is `redis://x`: expected amqp://HOST, amqps://HOST, sqlite:PATH",
        ),
        (
            "\n\n[[routes]]\ntask = 'a'\nqeue = 'b'",
            ":5: `routes`: unknown field `qeue`, expected one of `task`",
        ),
        ("[topology]\nqueues = [{ nam = 'x' }]", ":2: `topology`: unknown field `nam`"),
        ("broker_url = 'x", "mq-worker.toml:1: "),
    ] {
        let text = mistake(file, &[]);
        assert!(text.contains(expected), "{file}\n  gave {text}\n  not  {expected}");
    }
}

#[test]
fn mistakes_in_variables_name_the_variable() {
    for (name, value, expected) in [
        ("MQ_CONCURENCY", "1", "environment variable MQ_CONCURENCY is unknown; did you mean MQ_CONCURRENCY?"),
        ("MQ_GRCAE", "1s", "environment variable MQ_GRCAE is unknown; did you mean MQ_GRACE?"),
        ("MQ_CONFG", "x", "environment variable MQ_CONFG is unknown; did you mean MQ_CONFIG?"),
        ("MQ_ROUTE", "x", "environment variable MQ_ROUTE is unknown; did you mean MQ_ROUTES?"),
        (
            "MQ_QUEUE_KIND",
            "x",
            "environment variable MQ_QUEUE_KIND is `x`: expected quorum, classic or broker",
        ),
        (
            "MQ_QUEUES",
            "a,,b",
            "environment variable MQ_QUEUES is `a,,b`: expected queue names separated by commas",
        ),
        (
            "MQ_PREFETCH",
            "autos",
            "environment variable MQ_PREFETCH is `autos`: expected a whole number from 1 to 65535, or `auto`",
        ),
        ("MQ_PREFETCH", "0", "environment variable MQ_PREFETCH is `0`: expected a whole number"),
        ("MQ_HEALTH", "9000", "environment variable MQ_HEALTH is `9000`: expected an IP address and a port"),
        ("MQ_HOSTNAME", "a b", "environment variable MQ_HOSTNAME is `a b`: expected a name without spaces"),
        (
            "MQ_RESULT_BACKEND",
            "mongodb://x",
            "environment variable MQ_RESULT_BACKEND is `mongodb://x`: expected rpc://",
        ),
        ("MQ_ROUTES", "[{ tusk = 1 }]", "environment variable MQ_ROUTES: unknown field `tusk`"),
    ] {
        let text = mistake("", &[(name, value)]);
        assert!(text.contains(expected), "{name}={value}\n  gave {text}\n  not  {expected}");
    }
}

#[test]
fn no_mistake_shows_a_password() {
    for (file, variables) in [
        ("broker_url = 'amqpp://user:secret@host'", vec![]),
        ("broker_url = 'amqp://user:secret@host", vec![]),
        ("[worker]\nconcurrency = 'amqp://user:secret@host'", vec![]),
        ("", vec![("MQ_BROKER_URL", "user:secret@host")]),
        ("", vec![("MQ_BROKER_URL", "http://user:secret@host")]),
        ("", vec![("MQ_RESULT_BACKEND", "user secret@host")]),
    ] {
        let text = mistake(file, &variables);
        assert!(!text.contains("secret"), "{text}");
    }
}

#[test]
fn unknown_variables_are_ignored() {
    let unknown_variables = [("MQ_HOST", "mq.example"), ("MQ_PASSWORD", "secret"), ("MQ_COLOUR", "1")];
    // Kubernetes sets these for services that are called `mq` and `mq-broker`.
    let silent = [
        ("MQ_TEST_AMQP_URL", "x"),
        ("MQ_LOG_LEVEL", "debug"),
        ("MQ_SERVICE_HOST", "10.0.0.1"),
        ("MQ_SERVICE_PORT", "5672"),
        ("MQ_PORT", "tcp://10.0.0.1:5672"),
        ("MQ_PORT_5672_TCP_ADDR", "10.0.0.1"),
        ("MQ_BROKER_SERVICE_PORT_AMQP", "5672"),
    ];
    let directory = tempfile::tempdir().expect("a directory");
    let variables = sources(directory.path(), &[&unknown_variables[..], &silent[..]].concat());
    let loaded = Config::from_sources(&variables).expect("variables of others");
    assert_eq!(
        loaded.unknown_variables,
        ["MQ_COLOUR", "MQ_HOST", "MQ_PASSWORD"],
        "those that are warned of, by name"
    );
}

#[test]
fn the_file_that_mq_config_names_must_exist() {
    let directory = tempfile::tempdir().expect("a directory");
    let named = sources(directory.path(), &[("MQ_CONFIG", "other.toml")]);
    let error = format!("{:#}", Config::from_sources(&named).expect_err("there is no such file"));
    assert!(error.contains("other.toml (named by MQ_CONFIG)"), "{error}");
    assert_eq!(error.matches("No such file").count(), 1, "{error}");
    std::fs::write(directory.path().join("other.toml"), "default_queue = 'other'").expect("a file");
    let loaded = Config::from_sources(&named).expect("a file");
    assert_eq!(loaded.config.default_queue, "other");
    assert_eq!(loaded.home.directory, directory.path().canonicalize().expect("it exists"));
}

#[test]
fn sizes_have_units() {
    for (text, bytes) in [("1", 1), ("16MiB", 16 << 20), ("2 kB", 2000), ("64k", 65_536), ("1_000", 1000)] {
        assert_eq!(value::size(text), Ok(bytes), "{text}");
    }
    for text in ["", "MiB", "0", "-1", "1.5MiB", "99999999999GiB"] {
        assert!(value::size(text).is_err(), "{text}");
    }
}

#[test]
fn one_word_is_enough_for_a_backend_without_an_address() {
    for (word, scheme) in [("none", "none"), ("rpc", "rpc"), ("memory://", "memory")] {
        assert_eq!(value::result_backend(word).expect(word).scheme(), scheme);
    }
}

#[test]
fn a_worker_has_a_full_name() {
    let named = |name: Option<&str>| {
        WorkerConfig { hostname: name.map(Into::into), ..Default::default() }.full_name()
    };
    let machine = machine_name();
    let program = std::env::current_exe().expect("a program");
    let program = program.file_stem().and_then(|name| name.to_str()).expect("a name");
    assert_eq!(named(None), format!("{program}@{machine}"));
    assert_eq!(named(Some("mail")), format!("mail@{machine}"));
    assert_eq!(named(Some("mail@%h")), format!("mail@{machine}"));
    assert_eq!(named(Some("mail@elsewhere")), "mail@elsewhere");
}
