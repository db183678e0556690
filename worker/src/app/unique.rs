//! Unique calls: one key, one call that waits or runs.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::broker::Lock;
use crate::error::{Error, Result};
use crate::message::Headers;
use crate::message::headers::names;
use crate::routing::names::MAX_NAME;
use crate::task::Task;

/// The namespace for hashed keys. Keys are hashed so that a list of queues does not reveal arguments.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d71_776b_0000_5000_8000_756e_6971_7565);

/// The longest key of a lock, in bytes.
const MAX_KEY: usize = 200;

/// The key of a call, if its task is unique: equal for equal arguments in every program.
pub(super) fn key<T: Task>(args: &T::Args) -> Result<Option<String>> {
    let Some(written) = T::unique_by(args) else { return Ok(None) };
    let written = written.map_err(|error| {
        Error::codec(format!("cannot send `{}`: its unique key cannot be encoded: {error}", T::NAME))
    })?;
    let ordered = std::str::from_utf8(&written).ok().and_then(ordered).ok_or_else(|| {
        Error::codec(format!("cannot send `{}`: its unique key is not valid JSON", T::NAME))
    })?;
    let mut name = T::NAME.as_bytes().to_vec();
    name.push(0);
    name.extend(ordered.into_bytes());
    Ok(Some(Uuid::new_v5(&NAMESPACE, &name).simple().to_string()))
}

/// The same JSON with the keys of each object sorted, since a map is written in a different order each time. Numbers
/// stay as they are written: read into a `Value`, two different large numbers could become equal.
fn ordered(json: &str) -> Option<String> {
    let json = json.trim();
    if json.starts_with('{') {
        let entries: BTreeMap<String, &RawValue> = serde_json::from_str(json).ok()?;
        let entries = entries.into_iter().map(|(name, value)| {
            Some(format!("{}:{}", serde_json::to_string(&name).ok()?, ordered(value.get())?))
        });
        return Some(format!("{{{}}}", entries.collect::<Option<Vec<_>>>()?.join(",")));
    }
    if json.starts_with('[') {
        let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
        let items = items.into_iter().map(|item| ordered(item.get()));
        return Some(format!("[{}]", items.collect::<Option<Vec<_>>>()?.join(",")));
    }
    Some(json.to_owned())
}

/// Writes a lock into the headers of the call that holds it.
pub(super) fn write(headers: &mut Headers, lock: &Lock) {
    // AMQP's integers are signed, with 64 bits.
    let millis = i64::try_from(lock.lifetime.as_millis()).unwrap_or(i64::MAX);
    headers.set(names::UNIQUE, serde_json::json!([lock.key, millis]));
}

/// The lock that a message holds, if any.
pub(crate) fn read(headers: &Headers, id: &str) -> Option<Lock> {
    let Value::Array(parts) = headers.get(names::UNIQUE)? else { return None };
    let [Value::String(key), millis] = parts.as_slice() else { return None };
    // The header was written by hand: no broker has such a lock, and retrying would not help.
    if key.len() > MAX_KEY || id.len() > MAX_NAME {
        return None;
    }
    let lifetime = std::time::Duration::from_millis(millis.as_u64()?);
    Some(Lock { key: key.clone(), holder: id.to_owned(), lifetime })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{ordered, read, write};
    use crate::broker::Lock;
    use crate::message::Headers;

    #[test]
    fn a_lock_is_read_as_it_was_written_unless_no_broker_could_have_it() {
        let lock =
            |length| Lock { key: "k".repeat(length), holder: "id".into(), lifetime: Duration::from_secs(7) };
        let read_again = |lock: &Lock| {
            let mut headers = Headers::for_task("t", "id");
            write(&mut headers, lock);
            read(&headers, "id")
        };
        assert_eq!(read_again(&lock(200)), Some(lock(200)));
        assert_eq!(read_again(&lock(201)), None);
        let mut headers = Headers::for_task("t", "id");
        write(&mut headers, &lock(200));
        assert_eq!(read(&headers, &"i".repeat(256)), None);
    }

    #[test]
    fn objects_are_put_in_order_and_nothing_else_changes() {
        let table = [
            (
                r#"["a",{"b":1,"a":{"d":2,"c":[{"f":1,"e":2}]}}]"#,
                r#"["a",{"a":{"c":[{"e":2,"f":1}],"d":2},"b":1}]"#,
            ),
            ("340282366920938463463374607431768211455", "340282366920938463463374607431768211455"),
            (r#"{"b\"":"{","a":null}"#, r#"{"a":null,"b\"":"{"}"#),
            ("[2,1]", "[2,1]"),
            ("{}", "{}"),
        ];
        for (given, expected) in table {
            assert_eq!(ordered(given).as_deref(), Some(expected));
        }
        assert_eq!(ordered("{"), None);
    }
}
