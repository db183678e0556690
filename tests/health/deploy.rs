//! The files in `deploy/` read only metrics that a worker exports.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;

/// Returns the names of the metrics in a text, without the suffixes of histograms.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let metrics = words.filter(|word| word.starts_with("mq_worker_"));
    metrics.map(|name| name.trim_end_matches("_bucket").to_owned()).collect()
}

/// Returns the names on a metrics page, from the lines that declare their types.
fn exported(page: &str) -> BTreeSet<String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect()
}

#[test]
fn a_worker_exports_what_it_did_and_what_the_alerts_and_the_dashboard_read() {
    for place in everywhere() {
        let worker = place.worker(&[]);
        worker.becomes("/readyz", 200, None);
        place.send("health.hold", 5, 2);
        place.send("health.fail", 0, 1);
        let page = eventually_blocking("all have ended", LIMIT, || {
            let (status, head, page) = worker.ask("GET /metrics HTTP/1.1\r\nHost: worker\r\n\r\n");
            assert_eq!(status, 200, "{head}");
            assert!(head.contains("text/plain; version=0.0.4"), "{head}");
            page.contains("outcome=\"dead_lettered\"} 1").then_some(page)
        });
        let queue = &place.queue;
        for line in [
            format!(
                "mq_worker_tasks_total{{task=\"health.hold\",queue=\"{queue}\",outcome=\"succeeded\"}} 2"
            ),
            format!("mq_worker_tasks_total{{task=\"health.fail\",queue=\"{queue}\",outcome=\"retried\"}} 1"),
            format!(
                "mq_worker_tasks_total{{task=\"health.fail\",queue=\"{queue}\",outcome=\"dead_lettered\"}} 1"
            ),
            format!("mq_worker_dead_letters_total{{queue=\"{queue}\",reason=\"retries-exhausted\"}} 1"),
            format!("mq_worker_queue_paused{{queue=\"{queue}\"}} 0"),
            "mq_worker_task_run_seconds_count{task=\"health.hold\"} 2".to_owned(),
            "mq_worker_connected 1".to_owned(),
            "mq_worker_slots 1".to_owned(),
        ] {
            assert!(page.lines().any(|found| found == line), "{}: {line} in:\n{page}", place.name);
        }
        assert!(page.contains(&format!("mq_worker_queue_ready{{queue=\"{queue}.dead\"}}")), "{page}");
        let exported = exported(&page);
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        for file in ["prometheus-alerts.yml", "grafana-dashboard.json"] {
            let text = std::fs::read_to_string(deploy.join(file)).expect(file);
            let read = names(&text);
            assert!(read.len() > 5, "{file} reads {read:?}");
            // RabbitMQ does not report how many messages of a queue are delayed or running.
            let told =
                |name: &&String| !exported.contains(*name) && !name.starts_with("mq_worker_queue_delayed");
            let missing: Vec<&String> = read.iter().filter(told).collect();
            assert!(missing.is_empty(), "{file} reads what {} does not export: {missing:?}", place.name);
        }
        assert_eq!(worker.ask("POST /metrics HTTP/1.1\r\nHost: worker\r\n\r\n").0, 405);
    }
}
