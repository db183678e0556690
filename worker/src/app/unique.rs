//! Unique calls: one key, one call that waits or runs.

use serde_json::Value;
use uuid::Uuid;

use crate::broker::Lock;
use crate::error::{Error, Result};
use crate::message::Headers;
use crate::message::headers::names;
use crate::task::Task;

/// Keys are hashed under this name: what the arguments were is nobody's business who lists queues.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d71_776b_0000_5000_8000_756e_6971_7565);

/// The key of a call, if its task is unique: the same for the same arguments in every program.
pub(super) fn key<T: Task>(args: &T::Args) -> Result<Option<String>> {
    let Some(written) = T::unique_by(args) else { return Ok(None) };
    let written = written.map_err(|error| {
        Error::codec(format!("cannot send `{}`: what makes it unique cannot be written: {error}", T::NAME))
    })?;
    let mut name = T::NAME.as_bytes().to_vec();
    name.push(0);
    name.extend(written);
    Ok(Some(Uuid::new_v5(&NAMESPACE, &name).simple().to_string()))
}

/// Writes a lock into the headers of the call that holds it.
pub(super) fn write(headers: &mut Headers, lock: &Lock) {
    let millis = u64::try_from(lock.lifetime.as_millis()).unwrap_or(u64::MAX);
    headers.set(names::UNIQUE, serde_json::json!([lock.key, millis]));
}

/// The lock that a message holds, if it does.
pub(crate) fn read(headers: &Headers, id: &str) -> Option<Lock> {
    let Value::Array(parts) = headers.get(names::UNIQUE)? else { return None };
    let [Value::String(key), millis] = parts.as_slice() else { return None };
    let lifetime = std::time::Duration::from_millis(millis.as_u64()?);
    Some(Lock { key: key.clone(), holder: id.to_owned(), lifetime })
}
