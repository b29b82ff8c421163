//! Frames on a stream: what is said, checked before it is believed, and bodies that are never copied on the way out.

use bytes::Bytes;
use farside_codec::frame::HEADER_BYTES;
use farside_codec::message::{Refusal, kind};
use farside_codec::{DecodeError, FrameHeader, limits};
use quinn::{RecvStream, SendStream, VarInt};

/// Why a stream carried no more.
#[derive(Debug)]
pub enum StreamError {
    /// The connection or the stream is gone.
    Closed,
    /// The other end broke the format.
    Corrupt(DecodeError),
    /// The other end sent another kind of frame than the one that was due.
    Unexpected {
        /// What was due.
        expected: u16,
        /// What came.
        got: u16,
    },
}

impl std::fmt::Display for StreamError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection was lost"),
            Self::Corrupt(error) => write!(f, "a frame is corrupt: {error}"),
            Self::Unexpected { expected, got } => write!(f, "a frame of kind {got} came where {expected} was due"),
        }
    }
}

impl std::error::Error for StreamError {}

/// Why a call has no answer, or the answer no.
#[derive(Debug)]
pub enum CallError {
    /// The stream failed.
    Stream(StreamError),
    /// No answer in time. Whether the request was carried out is unknown.
    TimedOut,
    /// Refused by the other end.
    Refused(Refusal),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stream(error) => error.fmt(f),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl std::error::Error for CallError {}

impl From<StreamError> for CallError {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

/// A bidirectional stream of frames: one request, one reply.
pub struct Stream {
    send: SendStream,
    receive: RecvStream,
}

impl Stream {
    pub(crate) fn new(send: SendStream, receive: RecvStream) -> Self {
        Self { send, receive }
    }

    /// Lets this stream's frames go before (above 0) or after (below 0) others of the connection.
    pub fn set_priority(&self, priority: i32) {
        // A stream that is closed already has nothing left to order.
        let _ = self.send.set_priority(priority);
    }

    /// Sends one frame.
    pub async fn send(&mut self, kind: u16, correlation: u64, payload: Bytes) -> Result<(), StreamError> {
        assert!(payload.len() <= limits::MAX_FRAME_BYTES, "a frame is bounded by its maker");
        let header = FrameHeader::of_payload(kind, 0, correlation, &payload);
        let header = Bytes::copy_from_slice(&header.to_array());
        self.send.write_all_chunks(&mut [header, payload]).await.map_err(|_| StreamError::Closed)
    }

    /// Sends a body frame made of `parts`, without copying them.
    pub async fn send_body(&mut self, mut parts: Vec<Bytes>) -> Result<(), StreamError> {
        let length: usize = parts.iter().map(Bytes::len).sum();
        assert!(length <= limits::MAX_CHUNK_SEALED_BYTES, "a body is at most a sealed chunk");
        let mut crc = crc32fast::Hasher::new();
        parts.iter().for_each(|part| crc.update(part));
        let header = FrameHeader::new(kind::BODY, 0, 0, length as u32, crc.finalize());
        parts.insert(0, Bytes::copy_from_slice(&header.to_array()));
        self.send.write_all_chunks(&mut parts).await.map_err(|_| StreamError::Closed)
    }

    /// Says that nothing more follows.
    pub fn finish(&mut self) {
        // Only a stream that was reset refuses, and then the other end knows.
        let _ = self.send.finish();
    }

    /// Ends once the other end has everything, or is gone.
    pub async fn delivered(&mut self) {
        let _ = self.send.stopped().await;
    }

    /// Tells the other end to stop sending, because what it sends is refused.
    pub fn stop(&mut self) {
        let _ = self.receive.stop(VarInt::from_u32(1));
    }

    /// Receives one frame of `kind` that is not a body, checked.
    pub async fn receive(&mut self, kind: u16) -> Result<Bytes, StreamError> {
        let header = self.header(kind).await?;
        let length = header.check_length(limits::MAX_FRAME_BYTES).map_err(StreamError::Corrupt)?;
        let mut payload = Vec::new();
        // Grown as bytes arrive: a length alone reserves nothing.
        while payload.len() < length {
            let chunk = self.receive.read_chunk(length - payload.len(), true).await.map_err(|_| StreamError::Closed)?;
            let Some(chunk) = chunk else {
                let error = DecodeError::Truncated { need: length, have: payload.len() };
                return Err(StreamError::Corrupt(error));
            };
            if chunk.bytes.len() == length {
                header.check_payload(&chunk.bytes).map_err(StreamError::Corrupt)?;
                return Ok(chunk.bytes);
            }
            payload.extend_from_slice(&chunk.bytes);
        }
        header.check_payload(&payload).map_err(StreamError::Corrupt)?;
        Ok(payload.into())
    }

    /// Receives a body frame of exactly `length` bytes piece by piece, each as it came off the wire.
    pub async fn receive_body(&mut self, length: usize, mut piece: impl FnMut(Bytes)) -> Result<(), StreamError> {
        let header = self.header(kind::BODY).await?;
        if header.length() != length {
            let error = DecodeError::TooLong { what: "body", limit: length, got: header.length() };
            return Err(StreamError::Corrupt(error));
        }
        let mut crc = crc32fast::Hasher::new();
        let mut left = length;
        while left > 0 {
            let chunk = self.receive.read_chunk(left, true).await.map_err(|_| StreamError::Closed)?;
            let Some(chunk) = chunk else {
                return Err(StreamError::Corrupt(DecodeError::Truncated { need: length, have: length - left }));
            };
            crc.update(&chunk.bytes);
            left -= chunk.bytes.len();
            piece(chunk.bytes);
        }
        match crc.finalize() == header.payload_crc() {
            true => Ok(()),
            false => Err(StreamError::Corrupt(DecodeError::Corrupt { what: "body checksum" })),
        }
    }

    async fn header(&mut self, expected: u16) -> Result<FrameHeader, StreamError> {
        let mut bytes = [0; HEADER_BYTES];
        self.receive.read_exact(&mut bytes).await.map_err(|error| match error {
            quinn::ReadExactError::FinishedEarly(have) => {
                StreamError::Corrupt(DecodeError::Truncated { need: HEADER_BYTES, have })
            }
            quinn::ReadExactError::ReadError(_) => StreamError::Closed,
        })?;
        let header = FrameHeader::decode(&bytes).map_err(StreamError::Corrupt)?;
        match header.kind() {
            got if got == expected => Ok(header),
            got => Err(StreamError::Unexpected { expected, got }),
        }
    }
}
