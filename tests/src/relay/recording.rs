//! What a relay has heard: for each stream who asked, and every byte either way.

use bytes::Bytes;
use farside_codec::frame::HEADER_BYTES;
use farside_codec::message::{Request, kind};
use farside_codec::{Field, FrameHeader};
use farside_transport::Caller;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

/// Both directions of one stream, as they passed.
#[derive(Debug, Clone)]
pub struct Said {
    /// Role of whom asked.
    pub role: &'static str,
    /// From the caller.
    pub asked: Vec<u8>,
    /// From the node.
    pub answered: Vec<u8>,
}

/// Clones share what was written down.
#[derive(Debug, Clone, Default)]
pub struct Recording(Arc<Mutex<Vec<Said>>>);

impl Recording {
    fn streams(&self) -> MutexGuard<'_, Vec<Said>> {
        self.0.lock().expect("nobody panics while writing down")
    }

    pub(super) fn begin(&self, caller: &Caller) -> usize {
        let mut streams = self.streams();
        streams.push(Said { role: caller.role.as_str(), asked: Vec::new(), answered: Vec::new() });
        streams.len() - 1
    }

    pub(super) fn asked(&self, number: usize, bytes: &[u8]) {
        self.streams()[number].asked.extend_from_slice(bytes);
    }

    pub(super) fn answered(&self, number: usize, bytes: &[u8]) {
        self.streams()[number].answered.extend_from_slice(bytes);
    }

    /// Everything, stream by stream.
    pub fn all(&self) -> Vec<Said> {
        self.streams().clone()
    }

    /// What was asked, as (role of the caller, name of the request).
    pub fn requests(&self) -> BTreeSet<(&'static str, String)> {
        let named = |said: &Said| Some((said.role, name_of(&said.request()?)));
        self.streams().iter().filter_map(named).collect()
    }

    /// Lengths of all bodies that passed, either way.
    pub fn bodies(&self) -> Vec<usize> {
        let streams = self.streams();
        let frames = streams.iter().flat_map(|said| [&said.asked, &said.answered]).flat_map(|bytes| frames(bytes));
        frames.filter(|(kind, _)| *kind == kind::BODY).map(|(_, payload)| payload.len()).collect()
    }
}

impl Said {
    /// The request that opened the stream, if all of it passed.
    fn request(&self) -> Option<Request> {
        let (kind, payload) = frames(&self.asked).into_iter().next()?;
        (kind == kind::REQUEST).then(|| Request::from_bytes(Bytes::copy_from_slice(payload)).expect("a request"))
    }
}

/// The whole frames at the beginning of one direction, as (kind, payload). A stream that was reset ends within one.
fn frames(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while bytes.len() >= HEADER_BYTES {
        let header = FrameHeader::decode(bytes).expect("nothing but frames passes");
        let Some(payload) = bytes.get(HEADER_BYTES..HEADER_BYTES + header.length()) else { break };
        header.check_payload(payload).expect("a frame is as it was sent");
        found.push((header.kind(), payload));
        bytes = &bytes[HEADER_BYTES + header.length()..];
    }
    found
}

/// A request's name, as it stands in the source.
fn name_of(request: &Request) -> String {
    format!("{request:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}
