//! Log lines of a task carry its name and id.

use mq_worker::Task;
use rustix::process::Signal;
use serde_json::Value;
use support::eventually_blocking;

use super::lab::{LONG, on_sqlite};
use super::tasks::{log_apart, log_async, log_plain};

#[test]
fn each_line_that_a_task_logs_carries_its_name_and_id() {
    on_sqlite(async |lab| {
        for format in ["text", "json"] {
            let worker = lab.worker(&["--log-format", format]);
            let calls = [
                (log_async::NAME, lab.send(log_async.with()).await.id().to_owned()),
                (log_plain::NAME, lab.send(log_plain.with()).await.id().to_owned()),
                (log_apart::NAME, lab.send(log_apart.with()).await.id().to_owned()),
            ];
            for (name, id) in &calls {
                let line = eventually_blocking("a task logs", LONG, || {
                    let (_, log) = worker.output_so_far();
                    let is_theirs =
                        |line: &&str| line.contains("logged by a task") && line.contains(id.as_str());
                    log.lines().find(is_theirs).map(ToOwned::to_owned)
                });
                match format {
                    "text" => {
                        assert!(line.contains(&format!("call{{task=\"{name}\" id=\"{id}\"}}")), "{line}")
                    }
                    _ => {
                        let line: Value = serde_json::from_str(&line).expect("a line of JSON");
                        let expected = serde_json::json!({"name": "call", "task": name, "id": id});
                        assert_eq!(line["span"], expected, "{line}");
                    }
                }
            }
            worker.signal(Signal::TERM);
            assert!(worker.wait(LONG).status.success());
        }
    });
}
