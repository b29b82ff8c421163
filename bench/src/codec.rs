//! What bytes cost: erasure coding, sealing, hashing, checksums, on one core.

use crate::figure::{Rates, in_turn, tell};
use farside_codec::checksum::block_checksums;
use farside_codec::erasure::{Coder, Geometry, kernels};
use farside_codec::limits::DEFAULT_CHUNK_PLAIN_BYTES;
use farside_codec::seal::{ChunkKey, ChunkSecret, TenantDataKey, open_chunk, seal_chunk, sealed_bytes};
use reed_solomon_simd::ReedSolomonEncoder;
use serde_json::json;
use std::hint::black_box;

/// Fragments that stay in a second-level cache, and fragments that come from memory.
const FRAGMENT_BYTES: [(usize, &str); 2] = [(64 << 10, "cache"), (1 << 20, "memory")];
const GEOMETRIES: [&str; 4] = ["4+2", "8+3", "10+4", "16+4"];

/// Prints every figure.
pub(crate) fn run(as_json: bool) {
    for text in GEOMETRIES {
        for (bytes, place) in FRAGMENT_BYTES {
            encode(text, bytes, place, as_json);
        }
        rebuild(text, as_json);
    }
    chunks(as_json);
}

/// Bytes without a pattern.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut word = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as u8
    };
    (0..length).map(|_| word()).collect()
}

fn stripe(geometry: Geometry, bytes: usize) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let data = (0..geometry.data()).map(|index| noise(index as u64, bytes)).collect();
    (data, vec![vec![0; bytes]; geometry.parity()])
}

fn encode(text: &str, bytes: usize, place: &str, as_json: bool) {
    let geometry = Geometry::parse(text).expect("a geometry of the list");
    let (data, mut parity) = stripe(geometry, bytes);
    let inputs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let coder = Coder::new(geometry);
    let mut library = ReedSolomonEncoder::new(geometry.data(), geometry.parity(), bytes).expect("a shape it knows");
    let mut ours = || {
        let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        coder.encode(&inputs, &mut outputs).expect("equal lengths");
        black_box(&outputs);
    };
    let mut theirs = || {
        data.iter().for_each(|fragment| library.add_original_shard(fragment).expect("a shard"));
        black_box(library.encode().expect("encoded"));
    };
    let rates = in_turn(bytes * geometry.data(), &mut [&mut ours, &mut theirs]);
    let parameters = json!({ "geometry": text, "fragment_bytes": bytes, "kernel": kernels()[0].name() });
    let name = format!("encode {text} from {place}, {}", kernels()[0].name());
    tell(&name, parameters, &rates[0], ("reed-solomon-simd", &rates[1]), as_json);
}

/// Rebuilds two lost data fragments.
fn rebuild(text: &str, as_json: bool) {
    let bytes = 1 << 20;
    let geometry = Geometry::parse(text).expect("a geometry of the list");
    let (data, mut parity) = stripe(geometry, bytes);
    let inputs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let coder = Coder::new(geometry);
    {
        let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        coder.encode(&inputs, &mut outputs).expect("equal lengths");
    }
    let all: Vec<(usize, &[u8])> = inputs.iter().copied().chain(parity.iter().map(Vec::as_slice)).enumerate().collect();
    let present = &all[2..2 + geometry.data()];
    let mut lost = vec![vec![0; bytes]; 2];
    let mut ours = || {
        let mut wanted: Vec<(usize, &mut [u8])> = lost.iter_mut().map(Vec::as_mut_slice).enumerate().collect();
        coder.reconstruct(present, &mut wanted).expect("enough fragments");
        black_box(&wanted);
    };
    let (k, m) = (geometry.data(), geometry.parity());
    let mut encoder = ReedSolomonEncoder::new(k, m, bytes).expect("a shape it knows");
    data.iter().for_each(|fragment| encoder.add_original_shard(fragment).expect("a shard"));
    let their_parity: Vec<Vec<u8>> = encoder.encode().expect("encoded").recovery_iter().map(<[u8]>::to_vec).collect();
    let mut theirs = || {
        let originals = data.iter().enumerate().skip(2);
        let recovery = their_parity.iter().enumerate().take(2);
        black_box(reed_solomon_simd::decode(k, m, originals, recovery).expect("decoded"));
    };
    let rates = in_turn(bytes * k, &mut [&mut ours, &mut theirs]);
    let parameters = json!({ "geometry": text, "fragment_bytes": bytes, "lost": 2 });
    tell(&format!("rebuild two of {text}"), parameters, &rates[0], ("reed-solomon-simd", &rates[1]), as_json);
}

/// What a default chunk costs on its way, each beside a copy of the same bytes.
fn chunks(as_json: bool) {
    let plain = noise(7, DEFAULT_CHUNK_PLAIN_BYTES);
    let secret = ChunkSecret { digest: [7; 32], plain_bytes: plain.len() as u32 };
    let key = ChunkKey::new(&TenantDataKey::from_mac([7; 32]), &secret);
    let mut sealed = vec![0; sealed_bytes(plain.len())];
    let mut copy = vec![0; plain.len()];
    let mut sealing = || {
        sealed[..plain.len()].copy_from_slice(&plain);
        black_box(seal_chunk(&key, &mut sealed));
    };
    sealing();
    let good = {
        let mut good = plain.clone();
        good.resize(sealed_bytes(plain.len()), 0);
        seal_chunk(&key, &mut good);
        good
    };
    let mut opened = good.clone();
    let mut opening = || {
        opened.copy_from_slice(&good);
        open_chunk(&key, &mut opened).expect("what was sealed opens");
    };
    let mut hashing = || {
        black_box(blake3::hash(&plain));
    };
    let mut summing = || {
        black_box(block_checksums(&plain).fold(0, |sum, checksum| sum ^ checksum));
    };
    let mut copying = || {
        copy.copy_from_slice(&plain);
        black_box(&copy);
    };
    let works: &mut [&mut dyn FnMut()] = &mut [&mut sealing, &mut opening, &mut hashing, &mut summing, &mut copying];
    let rates = in_turn(plain.len(), works);
    let limit: (&str, &Rates) = ("memcpy", &rates[4]);
    let names = ["seal a chunk (with its BLAKE3 id)", "open a chunk", "BLAKE3 of a chunk", "CRC32 of its blocks"];
    for (name, rate) in names.into_iter().zip(&rates) {
        tell(name, json!({ "chunk_bytes": plain.len() }), rate, limit, as_json);
    }
}
