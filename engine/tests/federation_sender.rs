//! The sender, driven through random orders of answers, lost links and refused sends, against a model of its peer.
//!
//! The peer's rule is the product's promise: it takes a delta only if that continues its head and every chunk of it is
//! there. The sender must never break it, must end caught up, and must stay within its limits.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use farside::federation::sender::{Given, LoadedDelta, Sender, SenderCommand, SenderEvent, SenderLimits};
use farside_codec::delta::{Branch, ChunkRef, Cursor, Delta, Generation, Left, PrunedDelta};
use farside_codec::ids::{ChunkId, DeltaHash, Hlc, LogId, OperationId, SiteId};
use farside_codec::message::LogPosition;
use proptest::prelude::*;
use std::collections::HashSet;

const LIMITS: SenderLimits = SenderLimits {
    chunk_bytes_in_flight: 300,
    deltas_held: 12,
    delta_bytes_held: 400,
    deltas_per_delivery: 4,
    bytes_per_delivery: 90,
    chunks_per_question: 5,
};

fn generation() -> Generation {
    Generation { counter: 1, site: SiteId([1; 16]), incarnation: 0 }
}

fn start() -> Cursor {
    Cursor { generation: generation(), sequence: 0, hash: DeltaHash::ZERO }
}

/// A history whose deltas name chunks, some of them twice.
fn history(deltas: &[Vec<u8>]) -> Vec<LoadedDelta> {
    let build = |(index, chunks): (usize, &Vec<u8>)| {
        let encoded = Bytes::from(vec![index as u8; 10 + chunks.len() * 7]);
        let hash = Delta::hash(&[&encoded[..], &index.to_le_bytes()].concat());
        let cursor = Cursor { generation: generation(), sequence: index as u64 + 1, hash };
        let place = PrunedDelta {
            cursor: cursor.clone(),
            time: Hlc(index as u64),
            total_bytes: 0,
            left: Left { operation: OperationId::default(), removed: None },
        };
        // Some of those that name nothing are pruned.
        let is_pruned = chunks.is_empty() && index.is_multiple_of(3);
        LoadedDelta {
            cursor,
            given: if is_pruned { Given::Pruned(place) } else { Given::Whole(encoded) },
            chunks: chunks.iter().map(|id| ChunkRef { chunk: ChunkId([*id; 32]), sealed_bytes: 100 }).collect(),
        }
    };
    deltas.iter().enumerate().map(build).collect()
}

struct World {
    history: Vec<LoadedDelta>,
    peer_chunks: HashSet<ChunkId>,
    peer_head: usize,
    sender: Sender,
    waiting: Vec<SenderCommand>,
    recorded: Cursor,
    sending: HashSet<ChunkId>,
}

impl World {
    fn position(&self) -> LogPosition {
        let head = self.peer_head.checked_sub(1).map_or_else(start, |last| self.history[last].cursor.clone());
        let lineage = vec![Branch { generation: generation(), first: 1, previous: DeltaHash::ZERO }];
        LogPosition { log: LogId::default(), whole: head.clone(), head, lineage, refusal: None }
    }

    fn drain(&mut self) {
        while let Some(command) = self.sender.poll() {
            if let SenderCommand::Send(chunk) = &command {
                self.sending.insert(chunk.chunk);
                assert!(self.sending.len() <= 3, "more chunk bytes in flight than allowed");
            }
            self.waiting.push(command);
            assert!(self.waiting.len() < 64, "commands pile up");
        }
    }

    /// Carries out one waiting command, chosen by `pick`, and answers it.
    fn answer(&mut self, pick: usize, fails: bool) {
        let command = self.waiting.remove(pick % self.waiting.len());
        let event = match command {
            SenderCommand::Greet => SenderEvent::Positioned(self.position()),
            SenderCommand::Load { from, limit, .. } => {
                SenderEvent::Loaded(self.history.iter().skip(from as usize - 1).take(limit).cloned().collect())
            }
            SenderCommand::Ask(ids) => {
                SenderEvent::Held(ids.into_iter().map(|id| (id, self.peer_chunks.contains(&id))).collect())
            }
            SenderCommand::Send(chunk) => {
                self.sending.remove(&chunk.chunk);
                if fails {
                    SenderEvent::NotSent(chunk.chunk)
                } else {
                    self.peer_chunks.insert(chunk.chunk);
                    SenderEvent::Sent(chunk.chunk)
                }
            }
            SenderCommand::Deliver(deltas) => self.deliver(deltas),
            SenderCommand::Record { cursor, .. } => {
                self.recorded = cursor;
                SenderEvent::Recorded
            }
            SenderCommand::StepDown(_) | SenderCommand::Wait(_) => panic!("nothing here refuses"),
        };
        self.sender.handle(event);
    }

    fn deliver(&mut self, deltas: Vec<Given>) -> SenderEvent {
        for given in deltas {
            let next = &self.history[self.peer_head];
            assert_eq!(next.given, given, "a delta that does not continue the peer's head");
            assert!(next.chunks.iter().all(|chunk| self.peer_chunks.contains(&chunk.chunk)), "a chunk is missing");
            self.peer_head += 1;
        }
        SenderEvent::Positioned(self.position())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_the_peer_gets_a_prefix_and_in_the_end_everything(
        deltas in prop::collection::vec(prop::collection::vec(0u8..40, 0..6), 1..60),
        steps in prop::collection::vec((0usize..64, 0u8..20), 0..400),
    ) {
        let history = history(&deltas);
        let head = history.last().expect("at least one").cursor.clone();
        let mut world = World {
            history, peer_chunks: HashSet::new(), peer_head: 0, sender: Sender::new(start(), LIMITS),
            waiting: Vec::new(), recorded: start(), sending: HashSet::new(),
        };
        world.sender.handle(SenderEvent::Head(head.clone()));
        world.sender.handle(SenderEvent::Connected);
        for (pick, chance) in steps {
            world.drain();
            match chance {
                0 => {
                    // What was in flight either arrived without an answer, or did not arrive.
                    world.waiting.clear();
                    world.sending.clear();
                    world.sender.handle(SenderEvent::Lost);
                    world.sender.handle(SenderEvent::Recorded);
                    world.sender.handle(SenderEvent::Connected);
                }
                _ if !world.waiting.is_empty() => world.answer(pick, chance == 1),
                _ => {}
            }
        }
        world.drain();
        for _ in 0..10_000 {
            if world.waiting.is_empty() { break }
            world.answer(0, false);
            world.drain();
        }
        prop_assert!(world.sender.caught_up());
        prop_assert_eq!(world.peer_head, world.history.len());
        prop_assert_eq!(world.recorded, head);
    }
}
