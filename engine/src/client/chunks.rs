//! Sealed chunks at a site: whether it holds one, sent to it, fetched from it. Nothing is opened here.

use super::{Client, ClientError, Target, unexpected};
use bytes::Bytes;
use farside_codec::delta::{ChunkReceipt, ChunkRef};
use farside_codec::ids::ChunkId;
use farside_codec::limits::MAX_CHUNKS_PER_QUESTION;
use farside_codec::message::{GetChunk, PutChunk, Reply, Request};

impl Client {
    /// The site's receipt for a chunk that it holds; asking touches it.
    pub(super) async fn receipt_of(&self, chunk: ChunkId) -> Result<Option<ChunkReceipt>, ClientError> {
        Ok(self.receipts_of(&[chunk]).await?.pop().flatten())
    }

    /// The same of many chunks.
    pub(super) async fn receipts_of(&self, chunks: &[ChunkId]) -> Result<Vec<Option<ChunkReceipt>>, ClientError> {
        let mut held = Vec::with_capacity(chunks.len());
        for asked in chunks.chunks(MAX_CHUNKS_PER_QUESTION) {
            match self.link.call(Target::Chunk(asked[0]), &Request::HaveChunks(asked.to_vec())).await? {
                Reply::ChunksHeld(some) if some.len() == asked.len() => held.extend(some),
                reply => return Err(unexpected(&reply)),
            }
        }
        Ok(held)
    }

    /// Has the site store a chunk; it is durable when this answers.
    pub(super) async fn put_sealed(&self, chunk: ChunkId, sealed: Bytes) -> Result<ChunkReceipt, ClientError> {
        let request = Request::PutChunk(PutChunk { chunk, sealed_bytes: sealed.len() as u32 });
        match self.link.send(Target::Chunk(chunk), &request, sealed).await? {
            Reply::ChunkStored(receipt) => Ok(receipt),
            reply => Err(unexpected(&reply)),
        }
    }

    /// The whole of a chunk, as the site gives it: whoever opens or passes it on finds out whether it is that.
    pub(crate) async fn get_sealed(&self, reference: &ChunkRef) -> Result<Vec<u8>, ClientError> {
        let chunk = reference.chunk;
        let get = GetChunk { chunk, offset: 0, length: 0 };
        let request = match self.trusts_peers.get() {
            true => Request::GetChunk(get),
            false => Request::GetOwnChunk(get),
        };
        let (reply, sealed) = self.link.fetch(Target::Chunk(chunk), &request, reference.sealed_bytes).await?;
        match reply {
            Reply::ChunkRange(range) if range.length == reference.sealed_bytes => Ok(sealed),
            reply => Err(unexpected(&reply)),
        }
    }
}
