//! What fuzzing drives: every decoder, every parser and every plain state machine, each as a function of bytes that
//! returns when all is well and panics when a promise is broken.
//!
//! libFuzzer runs them on nightly (`fuzz/`), and `cargo test` runs each over its committed corpus and over seeded
//! mutations of it on stable (`tests/tests/fuzz_corpora.rs`). docs/fuzzing.md says how to run and add one. A target's
//! seeds are made here from real encodings, so that a change of a format shows as a corpus that is out of date.

pub mod allocation;
pub mod backup;
pub mod disk;
pub mod erasure;
pub mod federation;
mod feed;
pub mod files;
pub mod kmip;
pub mod mutation;
pub mod sealing;
pub mod shares;
mod sites;
pub mod state;
pub mod stores;
pub mod text;
pub mod transport;
pub mod values;
pub mod wal;
pub mod wire;

/// A seed: its file's name in the corpus, and its bytes.
pub type Seed = (&'static str, Vec<u8>);

/// One thing that is fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: of the file in `fuzz/fuzz_targets`, and of the folder in `fuzz/corpus`.
    pub name: &'static str,
    /// What is run.
    pub run: fn(&[u8]),
    /// What its corpus begins with.
    pub seeds: fn() -> Vec<Seed>,
    /// Mutations of its corpus that the test suite tries: as many as take about half a second.
    pub mutations: u32,
}

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Seed>, mutations: u32) -> Target {
    Target { name, run, seeds, mutations }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("frame_header", wire::frame_header, wire::frame_header_seeds, 20000),
    target("request", wire::request, wire::request_seeds, 20000),
    target("reply", wire::reply, wire::reply_seeds, 20000),
    target("delta", wire::delta, wire::delta_seeds, 20000),
    target("command", wire::command, wire::command_seeds, 20000),
    target("raft_message", wire::raft_message, wire::raft_message_seeds, 20000),
    target("wal_record", disk::wal_record, disk::wal_record_seeds, 20000),
    target("block", disk::block, disk::block_seeds, 20000),
    target("fragment", disk::fragment, disk::fragment_seeds, 5000),
    target("sealed_chunk", sealing::chunk, sealing::chunk_seeds, 600),
    target("sealed_payload", sealing::payload, sealing::payload_seeds, 10000),
    target("stripe", erasure::stripe, erasure::stripe_seeds, 20000),
    target("erasure", erasure::erasure, erasure::erasure_seeds, 1000),
    target("text", text::text, text::text_seeds, 20000),
    target("command_line", text::command_line, text::command_line_seeds, 1000),
    target("tree_name", text::tree_name, text::tree_name_seeds, 20000),
    target("backup", backup::backup, backup::backup_seeds, 4000),
    target("ttlv", kmip::ttlv, kmip::ttlv_seeds, 20000),
    target("settings", files::settings, files::settings_seeds, 10000),
    target("framed_file", files::framed_file, files::framed_file_seeds, 10000),
    target("share", shares::share, shares::share_seeds, 10000),
    target("certificate", transport::certificate, transport::certificate_seeds, 10000),
    target("wal_recovery", wal::recovery, wal::recovery_seeds, 150),
    target("store_recovery", stores::recovery, stores::recovery_seeds, 100),
    target("log_group", state::log_group, state::log_group_seeds, 250),
    target("control_group", state::control_group, state::control_group_seeds, 300),
    target("snapshot", state::snapshot, state::snapshot_seeds, 300),
    target("sender", federation::sender, federation::sender_seeds, 4000),
    target("receiver", federation::receiver, federation::receiver_seeds, 20000),
];
