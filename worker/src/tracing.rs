//! The macros of `tracing`, with a net under each event: a program may install a subscriber of its own, and when that
//! one panics, what was to be told of goes on all the same. `use crate::tracing;` puts them in place of the crate's.

macro_rules! debug_ {
    ($($event:tt)+) => {{ let _ = $crate::panics::caught(|| ::tracing::debug!($($event)+)); }};
}
macro_rules! info_ {
    ($($event:tt)+) => {{ let _ = $crate::panics::caught(|| ::tracing::info!($($event)+)); }};
}
macro_rules! warn_ {
    ($($event:tt)+) => {{ let _ = $crate::panics::caught(|| ::tracing::warn!($($event)+)); }};
}
macro_rules! error_ {
    ($($event:tt)+) => {{ let _ = $crate::panics::caught(|| ::tracing::error!($($event)+)); }};
}

pub(crate) use {debug_ as debug, error_ as error, info_ as info, warn_ as warn};
