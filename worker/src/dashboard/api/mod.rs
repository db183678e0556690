//! `/api/v1`: what the page shows and does, as JSON. `openapi.json` describes it; a test compares the two.

mod answers;
mod schedules;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodRouter, get, post};

use super::state::State;

/// The description of the API, as it is served.
pub(crate) const OPENAPI: &str = include_str!("openapi.json");

/// Method, path and handler of every route.
fn routes() -> Vec<(&'static str, &'static str, MethodRouter<Arc<State>>)> {
    vec![
        ("get", "/api/v1/overview", get(answers::overview)),
        ("get", "/api/v1/rates", get(answers::rates)),
        ("get", "/api/v1/queues", get(answers::queues)),
        ("get", "/api/v1/queues/{name}", get(answers::queue)),
        ("post", "/api/v1/queues/{name}/peek", post(answers::peek)),
        ("get", "/api/v1/tasks", get(answers::tasks)),
        ("get", "/api/v1/tasks/{id}", get(answers::task)),
        ("get", "/api/v1/workers", get(answers::workers)),
        ("get", "/api/v1/workers/{name}", get(answers::worker)),
        ("get", "/api/v1/dead", get(answers::dead)),
        ("get", "/api/v1/dead/{queue}", get(answers::letters)),
        ("get", "/api/v1/schedules", get(schedules::list)),
        ("get", "/api/v1/schedules/{name}", get(schedules::one)),
        ("get", "/api/v1/broker", get(answers::broker)),
        ("get", "/api/v1/activity", get(answers::activity)),
        ("post", "/api/v1/actions", post(answers::act)),
        ("get", "/api/v1/openapi.json", get(answers::openapi)),
    ]
}

/// The routes of the API; requests may be as large as `largest`.
pub(crate) fn router(largest: usize) -> Router<Arc<State>> {
    let all =
        routes().into_iter().fold(Router::new(), |router, (_, path, answer)| router.route(path, answer));
    all.route("/api/{*rest}", axum::routing::any(answers::nothing)).layer(DefaultBodyLimit::max(largest))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::{OPENAPI, routes};
    use crate::dashboard::actions::Action;

    fn described() -> Value {
        serde_json::from_str(OPENAPI).expect("openapi.json is JSON")
    }

    #[test]
    fn the_description_has_every_route() {
        let described = described();
        let paths = described["paths"].as_object().expect("paths").iter();
        let described: BTreeSet<(String, String)> = paths
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().expect("methods").keys();
                methods.map(|method| (method.clone(), path.clone())).collect::<Vec<_>>()
            })
            .collect();
        let served: BTreeSet<(String, String)> =
            routes().into_iter().map(|(method, path, _)| (method.to_owned(), path.to_owned())).collect();
        assert_eq!(described, served, "left: openapi.json; right: the routes");
    }

    #[test]
    fn the_description_has_every_parameter_of_a_path() {
        let described = described();
        for (path, methods) in described["paths"].as_object().expect("paths") {
            let in_path: BTreeSet<&str> =
                path.split('{').skip(1).filter_map(|part| part.split('}').next()).collect();
            for (method, operation) in methods.as_object().expect("methods") {
                let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
                let named: BTreeSet<&str> = parameters
                    .iter()
                    .filter(|parameter| parameter["in"] == "path")
                    .filter_map(|parameter| parameter["name"].as_str())
                    .collect();
                assert_eq!(named, in_path, "{method} {path}");
                assert!(
                    operation["summary"].is_string() && operation["responses"]["200"].is_object(),
                    "{method} {path}"
                );
            }
        }
    }

    #[test]
    fn the_description_has_every_action() {
        let described = described();
        let actions =
            described["components"]["schemas"]["Action"]["oneOf"].as_array().expect("actions").clone();
        let mut names = BTreeSet::new();
        for action in &actions {
            let example = &action["example"];
            let read: Action = serde_json::from_value(example.clone()).expect("an action");
            assert_eq!(example["action"], read.name());
            // Every field that is read must be described.
            let written = serde_json::to_value(&read).expect("JSON");
            let properties = action["properties"].as_object().expect("properties");
            for name in written.as_object().expect("an object").keys() {
                assert!(properties.contains_key(name), "`{name}` of {} is not described", read.name());
            }
            names.insert(read.name());
        }
        // serde lists the names that it knows in its error about an unknown one.
        let unknown =
            serde_json::from_str::<Action>(r#"{"action": "none"}"#).expect_err("no action").to_string();
        let known: BTreeSet<String> = unknown.split('`').skip(3).step_by(2).map(ToOwned::to_owned).collect();
        assert_eq!(names, known, "left: openapi.json; right: the actions");
    }
}
