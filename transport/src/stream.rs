//! Frames on a stream: what is said, checked before it is believed, and bodies that are never copied on the way out.

use crate::rejection::Rejection;
use crate::statistics::Counters;
use crate::waiting::Waiting;
use bytes::Bytes;
use farside_codec::frame::HEADER_BYTES;
use farside_codec::message::{Refusal, RefusalCode, Reply, kind};
use farside_codec::{DecodeError, Field, FrameHeader, limits};
use quinn::{ConnectionError, ReadError, ReadExactError, RecvStream, SendStream, VarInt, WriteError};

/// Why a stream carried no more.
#[derive(Debug)]
pub enum StreamError {
    /// The connection or the stream is gone.
    Closed,
    /// One end turned the other away. TLS 1.3 tells a caller so only after its own handshake is done.
    Rejected(Rejection),
    /// The other end wants no more of what is being sent; its reply says why.
    Stopped,
    /// Nothing moved for as long as the settings allow.
    Stalled,
    /// What this end was to send is larger than any frame may be. Nothing of it was sent.
    TooLarge {
        /// Bytes that a frame of the kind may have.
        limit: usize,
        /// Bytes that it would have had.
        got: usize,
    },
    /// The other end broke the format.
    Corrupt(DecodeError),
    /// The other end sent another kind of frame than the one that was due.
    Unexpected {
        /// What was due.
        expected: u16,
        /// What came.
        got: u16,
    },
    /// The frame was made for another stream: it was replayed or spliced in.
    Foreign {
        /// This stream's number.
        expected: u64,
        /// The number in the frame.
        got: u64,
    },
}

impl std::fmt::Display for StreamError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection was lost"),
            Self::Rejected(rejection) => write!(f, "the connection was refused: {rejection}"),
            Self::Stopped => f.write_str("the other end wants no more"),
            Self::Stalled => f.write_str("nothing moved any more"),
            Self::TooLarge { limit, got } => write!(f, "{got} bytes are more than the {limit} that a frame may have"),
            Self::Corrupt(error) => write!(f, "a frame is corrupt: {error}"),
            Self::Unexpected { expected, got } => write!(f, "a frame of kind {got} came where {expected} was due"),
            Self::Foreign { expected, got } => write!(f, "a frame of stream {got} came on stream {expected}"),
        }
    }
}

impl std::error::Error for StreamError {}

impl From<ConnectionError> for StreamError {
    fn from(error: ConnectionError) -> Self {
        Rejection::of(&error).map_or(Self::Closed, Self::Rejected)
    }
}

impl From<ReadError> for StreamError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => error.into(),
            _ => Self::Closed,
        }
    }
}

impl From<WriteError> for StreamError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => error.into(),
            WriteError::Stopped(_) => Self::Stopped,
            _ => Self::Closed,
        }
    }
}

/// Why a call has no answer, or the answer no.
#[derive(Debug)]
pub enum CallError {
    /// The stream failed.
    Stream(StreamError),
    /// No answer in time. Whether the request was carried out is unknown.
    TimedOut,
    /// Refused by the other end; or here, where no other end could have taken the request.
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
        match error {
            StreamError::Stalled => Self::TimedOut,
            // It is too large for whomever it is sent to, so it is not tried anywhere else.
            StreamError::TooLarge { .. } => {
                Self::Refused(Refusal::new(RefusalCode::BadRequest, format!("the request can't be sent: {error}")))
            }
            error => Self::Stream(error),
        }
    }
}

/// A bidirectional stream of frames: one request, one reply. Dropped before [`Stream::finish`], it is reset: the other
/// end learns that the rest will not come.
pub struct Stream {
    send: SendStream,
    receive: RecvStream,
    waiting: Waiting,
    heard: bool,
    finished: bool,
}

impl Stream {
    pub(crate) fn new((send, receive): (SendStream, RecvStream), waiting: Waiting) -> Self {
        Self { send, receive, waiting, heard: false, finished: false }
    }

    /// Its number, which every frame on it carries: unique within the connection and the same at both ends.
    pub fn number(&self) -> u64 {
        VarInt::from(self.send.id()).into_inner()
    }

    /// Lets this stream's frames go before (above 0) or after (below 0) others of the connection.
    pub fn set_priority(&self, priority: i32) {
        // A stream that is closed already has nothing left to order.
        let _ = self.send.set_priority(priority);
    }

    /// Sends one frame; nothing of one that is larger than any may be.
    pub async fn send(&mut self, kind: u16, payload: Bytes) -> Result<(), StreamError> {
        self.fits(payload.len(), limits::MAX_FRAME_BYTES)?;
        let header = FrameHeader::of_payload(kind, 0, self.number(), &payload);
        let header = Bytes::copy_from_slice(&header.to_array());
        self.write(&mut [header, payload]).await
    }

    /// Sends a body frame made of `parts`, without copying them; nothing of one that is longer than any chunk.
    pub async fn send_body(&mut self, mut parts: Vec<Bytes>) -> Result<(), StreamError> {
        let length = bytes_of(&parts);
        self.fits(length, limits::MAX_CHUNK_SEALED_BYTES)?;
        let mut crc = crc32fast::Hasher::new();
        parts.iter().for_each(|part| crc.update(part));
        let header = FrameHeader::new(kind::BODY, 0, self.number(), length as u32, crc.finalize());
        parts.insert(0, Bytes::copy_from_slice(&header.to_array()));
        self.write(&mut parts).await
    }

    /// Sends a reply with its body, if it has one, and says that nothing more follows. One that fits no frame is answered as a
    /// refusal: whoever asked is told, and everybody else is answered as before.
    pub async fn reply(&mut self, reply: &Reply, body: Vec<Bytes>) -> Result<(), StreamError> {
        let encoded = reply.to_bytes();
        let fits = self.fits(encoded.len(), limits::MAX_FRAME_BYTES);
        match fits.and_then(|()| self.fits(bytes_of(&body), limits::MAX_CHUNK_SEALED_BYTES)) {
            Ok(()) => {
                self.send(kind::REPLY, encoded).await?;
                if !body.is_empty() {
                    self.send_body(body).await?;
                }
            }
            Err(error) => {
                let detail = format!("the answer can't be sent: {error}; ask for less at a time");
                let refused = Reply::Refused(Refusal::new(RefusalCode::Internal, detail));
                self.send(kind::REPLY, refused.to_bytes()).await?;
            }
        }
        self.finish();
        Ok(())
    }

    fn fits(&self, got: usize, limit: usize) -> Result<(), StreamError> {
        fits(&self.waiting.counters, got, limit)
    }

    async fn write(&mut self, mut left: &mut [Bytes]) -> Result<(), StreamError> {
        while !left.is_empty() {
            // Whoever reads nothing for that long must not hold what is being sent to it.
            let written = self.waiting.within(self.waiting.patience.stall, self.send.write_chunks(left)).await??;
            left = &mut left[written.chunks..];
        }
        Ok(())
    }

    fn corrupt(&self, error: DecodeError) -> StreamError {
        self.waiting.counters.corrupt_frame();
        StreamError::Corrupt(error)
    }

    /// Says that nothing more follows.
    pub fn finish(&mut self) {
        self.finished = true;
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
        let length = header.check_length(limits::MAX_FRAME_BYTES).map_err(|error| self.corrupt(error))?;
        let mut payload = Vec::new();
        // Grown as bytes arrive: a length alone reserves nothing.
        while payload.len() < length {
            let piece = self.piece(length, length - payload.len()).await?;
            if piece.len() == length {
                header.check_payload(&piece).map_err(|error| self.corrupt(error))?;
                return Ok(piece);
            }
            payload.extend_from_slice(&piece);
        }
        header.check_payload(&payload).map_err(|error| self.corrupt(error))?;
        Ok(payload.into())
    }

    /// Receives a body frame of exactly `length` bytes piece by piece, each as it came off the wire.
    pub async fn receive_body(&mut self, length: usize, mut piece: impl FnMut(Bytes)) -> Result<(), StreamError> {
        let header = self.header(kind::BODY).await?;
        if header.length() != length {
            let error = DecodeError::TooLong { what: "body", limit: length, got: header.length() };
            return Err(self.corrupt(error));
        }
        let mut crc = crc32fast::Hasher::new();
        let mut left = length;
        while left > 0 {
            let bytes = self.piece(length, left).await?;
            crc.update(&bytes);
            left -= bytes.len();
            piece(bytes);
        }
        match crc.finalize() == header.payload_crc() {
            true => Ok(()),
            false => Err(self.corrupt(DecodeError::Corrupt { what: "body checksum" })),
        }
    }

    /// The next bytes of a payload of `length`, of which `left` are due: at least one.
    async fn piece(&mut self, length: usize, left: usize) -> Result<Bytes, StreamError> {
        let stall = self.waiting.patience.stall;
        match self.waiting.within(stall, self.receive.read_chunk(left, true)).await?? {
            Some(chunk) => Ok(chunk.bytes),
            None => Err(self.corrupt(DecodeError::Truncated { need: length, have: length - left })),
        }
    }

    async fn header(&mut self, expected: u16) -> Result<FrameHeader, StreamError> {
        let patience = self.waiting.patience;
        let span = if self.heard { patience.stall } else { patience.first };
        self.heard = true;
        let mut bytes = [0; HEADER_BYTES];
        let read = self.waiting.within(span, self.receive.read_exact(&mut bytes)).await?;
        read.map_err(|error| match error {
            ReadExactError::FinishedEarly(have) => self.corrupt(DecodeError::Truncated { need: HEADER_BYTES, have }),
            ReadExactError::ReadError(error) => error.into(),
        })?;
        let header = FrameHeader::decode(&bytes).map_err(|error| self.corrupt(error))?;
        let own = self.number();
        match (header.kind(), header.correlation()) {
            (got, number) if got == expected && number == own => Ok(header),
            (got, number) => {
                self.waiting.counters.foreign_frame();
                Err(match got == expected {
                    true => StreamError::Foreign { expected: own, got: number },
                    false => StreamError::Unexpected { expected, got },
                })
            }
        }
    }
}

/// Bytes of a body.
pub(crate) fn bytes_of(parts: &[Bytes]) -> usize {
    parts.iter().map(Bytes::len).sum()
}

/// Refuses, counts and tells of what no frame may hold. Its maker should have made less of it, and is not to end for that.
pub(crate) fn fits(counters: &Counters, got: usize, limit: usize) -> Result<(), StreamError> {
    if got <= limit {
        return Ok(());
    }
    counters.oversized_frame();
    tracing::error!(bytes = got, limit, "what does not fit a frame is not sent");
    Err(StreamError::TooLarge { limit, got })
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.finished {
            // Without this, quinn would end the stream as if all had been said.
            let _ = self.send.reset(VarInt::from_u32(1));
        }
    }
}
