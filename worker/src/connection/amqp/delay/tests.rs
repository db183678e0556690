use super::*;
use crate::routing::matching::topic_matches;

fn seconds(n: u64) -> Ladder {
    Ladder::choose(Duration::from_secs(n)).expect("not too long").expect("not zero")
}

/// Follows a key down a ladder as the broker does, from this rung on.
fn wait(mut rungs: Vec<Rung>, entry: &str, key: &str) -> Duration {
    let highest = rungs.iter().position(|rung| rung.name == entry).expect("a rung");
    rungs.truncate(highest + 1);
    let mut waited = Duration::ZERO;
    while let Some(rung) = rungs.pop() {
        let (stops, falls) = (topic_matches(&rung.stops, key), topic_matches(&rung.falls, key));
        assert!(stops != falls, "exactly one way at {}", rung.name);
        if stops {
            waited += rung.stay;
        }
        assert_eq!(rung.below, rungs.last().map_or(EXIT, |below| &below.name));
    }
    waited
}

#[test]
fn the_key_is_celerys() {
    let key = seconds(5).key(&Target::Queue("qq")).expect("it fits");
    assert_eq!(key, "0.".repeat(25) + "1.0.1.qq");
    let entries = [1, 5, 8, (1 << 28) - 1].map(|bits| seconds(bits).entry());
    assert_eq!(entries, [0, 2, 3, 27].map(|level| format!("celery_delayed_{level}")));
}

#[test]
fn a_message_waits_its_time_on_either_ladder() {
    for n in [1, 2, 3, 1000, (1 << 28) - 1] {
        let key = seconds(n).key(&Target::Queue("q")).expect("it fits");
        for entry in [seconds(n).entry().as_str(), "celery_delayed_27"] {
            assert_eq!(wait(seconds_ladder(), entry, &key), Duration::from_secs(n), "{entry}");
        }
    }
    let least = Ladder::choose(Duration::from_nanos(1)).expect("short").expect("not zero");
    assert_eq!(least, Ladder::Small(1));
    for (millis, waits) in [(1, 16), (16, 16), (17, 32), (300, 304), (999, 1008)] {
        let ladder = Ladder::choose(Duration::from_millis(millis)).expect("short").expect("not zero");
        let key = ladder.key(&Target::Queue("q")).expect("it fits");
        for entry in [ladder.entry().as_str(), "mq_worker_delayed_ms_512"] {
            assert_eq!(wait(small_ladder(), entry, &key), Duration::from_millis(waits), "{millis}, {entry}");
        }
    }
}

#[test]
fn the_objects_are_celerys() {
    let ladder = seconds_ladder();
    assert_eq!(ladder.len(), 28);
    assert_eq!(ladder[27].name, "celery_delayed_27");
    assert_eq!(ladder[27].stops, "1.#");
    assert_eq!(ladder[0].falls, "*.".repeat(27) + "0.#");
    assert_eq!(ladder[1].below, "celery_delayed_0");
    assert_eq!(ladder[3].stay, Duration::from_secs(8));
}

#[test]
fn only_the_target_matches_at_the_exit() {
    let key = |target: Target<'_>| seconds(77).key(&target).expect("it fits");
    let queue = |name| Target::Queue(name).binding().expect("it fits");
    assert!(topic_matches(&queue("a.b"), &key(Target::Queue("a.b"))));
    assert!(!topic_matches(&queue("b"), &key(Target::Queue("a.b"))));
    let to = |name, routing_key| key(Target::Exchange { name, routing_key });
    let bound = |name, kind, pattern| exchange_binding(name, kind, pattern).expect("it fits");
    let topic = Some(ExchangeKind::Topic);
    assert!(topic_matches(&bound("x.y", topic, "order.*.paid"), &to("x.y", "order.eu.paid")));
    assert!(!topic_matches(&bound("x.y", topic, "order.*.paid"), &to("x", "y.order.eu.paid")));
    assert!(topic_matches(&bound("x", topic, "#"), &to("x", "any.thing")));
    assert!(!topic_matches(&bound("x", topic, "#"), &key(Target::Queue("email"))));
    assert!(topic_matches(&bound("f", Some(ExchangeKind::Fanout), ""), &to("f", "")));
    assert!(
        topic_matches(&sink_binding(), &to("x", "a"))
            && !topic_matches(&sink_binding(), &key(Target::Queue("q")))
    );
}

#[test]
fn the_traces_of_a_delay_are_taken_off() {
    let bits = "0.".repeat(27) + "1.";
    let to_exchange =
        seconds(1).key(&Target::Exchange { name: "a.b%", routing_key: "k.l" }).expect("it fits");
    for (exchange, key, expected) in [
        ("celery_delayed_delivery", format!("{bits}q"), ("", "q")),
        ("celery_delayed_3", format!("{bits}q"), ("", "q")),
        ("celery_delayed_0", format!("{bits}other.key"), ("", "q")),
        ("mq_worker_delayed_ms_16", to_exchange, ("a.b%", "k.l")),
        ("", "q".into(), ("", "q")),
        ("x", format!("{bits}q"), ("x", &format!("{bits}q"))),
        ("celery_delayed_1", "é".repeat(40), ("celery_delayed_1", &"é".repeat(40))),
    ] {
        let (exchange, routing_key) = without_delay("q", exchange, &key);
        assert_eq!((exchange.as_str(), routing_key.as_str()), expected);
    }
}

#[test]
fn what_cannot_be_delayed_is_an_error() {
    assert!(Ladder::choose(MAX_DELAY + Duration::from_secs(1)).is_err_and(|error| error.is_config()));
    assert_eq!(Ladder::choose(Duration::ZERO).expect("zero"), None);
    let long = Target::Exchange { name: "x", routing_key: &"k".repeat(200) };
    assert!(long.binding().is_err_and(|error| error.is_config()));
}

#[test]
fn a_queue_of_any_name_has_a_key_of_its_own() {
    let long = "q".repeat(200);
    let names = ["a.#", "*", "#.b", long.as_str(), "mq-queue.a", "mq-exchange.a.b", "a", "b.c"];
    for name in names {
        let key = seconds(3).key(&Target::Queue(name)).expect("a key");
        assert!(key.len() <= MAX_NAME, "{key}");
        let bound: Vec<_> = names
            .into_iter()
            .filter(|other| topic_matches(&Target::Queue(other).binding().expect("a key"), &key))
            .collect();
        assert_eq!(bound, [name]);
        assert!(!topic_matches(&sink_binding(), &key));
        assert_eq!(without_delay(name, "celery_delayed_1", &key), (String::new(), name.to_owned()));
    }
    let longest = "q".repeat(199);
    assert!(seconds(3).key(&Target::Queue(&longest)).expect("a key").ends_with(&longest), "as Celery has it");
}
