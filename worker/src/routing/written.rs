//! How exchanges and queues are written in `mq-worker.toml`.

pub(super) fn is_false(flag: &bool) -> bool {
    !flag
}

pub(super) fn yes() -> bool {
    true
}

/// Optional durations: written as milliseconds, read as milliseconds or as a string such as `90s`.
pub(super) mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a duration such as \"90s\", or milliseconds")]
    enum Written {
        Millis(u64),
        #[serde(deserialize_with = "with_unit")]
        Text(Duration),
    }

    pub(in crate::routing) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
    }

    pub(in crate::routing) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Written>::deserialize(deserializer)?.map(|written| match written {
            Written::Millis(millis) => Duration::from_millis(millis),
            Written::Text(duration) => duration,
        }))
    }

    fn with_unit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(serde::de::Error::custom)
    }
}
