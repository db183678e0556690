//! Finds the publish that made the broker close the channel.

use super::failure::{code, reply_code, text};
use super::outgoing::Outgoing;
use crate::error::{Error, ErrorKind};
use crate::tracing::warn;

/// Which publish made the broker close the channel, as far as its error message identifies it.
pub(super) enum ChannelCloseCause {
    /// `NOT_FOUND - no exchange 'x' in vhost '/'`, or `ACCESS_REFUSED - access to exchange 'x' …`.
    Exchange {
        name: String,
        is_refused: bool,
    },
    /// `PRECONDITION_FAILED - message size 17 is larger than configured max size 16`.
    LargerThan(usize),
    Unclear,
}

impl ChannelCloseCause {
    pub(super) fn new(error: &lapin::Error) -> Self {
        let text = text(error);
        let code = reply_code(error);
        let quoted = text.split_once("exchange '").and_then(|(_, rest)| rest.split_once('\''));
        if let (Some((name, _)), Some(code::NOT_FOUND | code::ACCESS_REFUSED)) = (quoted, code) {
            let name = if name == "amq.default" { "" } else { name };
            let is_refused = code == Some(code::ACCESS_REFUSED);
            return Self::Exchange { name: name.to_owned(), is_refused };
        }
        let limit = text.contains("message size").then(|| {
            text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).next_back()
        });
        match limit.flatten() {
            Some(limit) => Self::LargerThan(limit),
            None => {
                warn!(reason = text, "the broker closed the channel for publishing");
                Self::Unclear
            }
        }
    }

    pub(super) fn is_on(&self, outgoing: &Outgoing) -> bool {
        match self {
            Self::Exchange { name, .. } => outgoing.exchange.as_str() == name,
            Self::LargerThan(limit) => outgoing.body().len() > *limit,
            Self::Unclear => false,
        }
    }

    pub(super) fn to_error(&self, outgoing: &Outgoing, text: &str) -> Error {
        let kind = match self {
            Self::Exchange { is_refused: true, .. } => ErrorKind::AccessRefused,
            Self::Exchange { .. } => ErrorKind::Topology,
            Self::LargerThan(_) => ErrorKind::TooLarge,
            Self::Unclear => ErrorKind::Rejected,
        };
        Error::new(kind, format!("cannot publish to {}: {text}", outgoing.address()))
    }
}
