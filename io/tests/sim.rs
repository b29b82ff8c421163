//! The simulated device: what a flush covers survives a power cut and nothing else is promised; every fault does what
//! its name says and no more; and one seed gives one history.

use farside_io::disk::{Disk, DiskError};
use farside_io::pool::{Buffer, Pool, Slice};
use farside_io::sim::{Fault, Operation, SimDisk, SimFaults};
use futures_util::FutureExt;
use futures_util::future::join_all;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 16;
const SECTOR: usize = 512;

fn run<T>(test: impl AsyncFnOnce(Pool) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(test(Pool::new(1 << 21).expect("a pool")))
}

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(BLOCKS * BLOCK, seed)
}

fn filled(pool: &Pool, blocks: u64, byte: u8) -> Slice {
    let mut buffer = pool.try_take((blocks * BLOCK) as usize).expect("a buffer");
    buffer.fill(byte);
    buffer.share()
}

async fn write(disk: &SimDisk, pool: &Pool, block: u64, byte: u8) -> Result<(), DiskError> {
    disk.write(block * BLOCK, filled(pool, 1, byte)).await
}

async fn read(disk: &SimDisk, pool: &Pool, block: u64) -> (Result<(), DiskError>, Buffer) {
    let mut buffer = pool.try_take(BLOCK as usize).expect("a buffer");
    buffer.fill(0xEE);
    disk.read(block * BLOCK, buffer).await
}

/// The byte that a block is full of; `None` if it is not of one kind.
fn uniform(bytes: &[u8]) -> Option<u8> {
    bytes.iter().all(|byte| *byte == bytes[0]).then_some(bytes[0])
}

fn live(disk: &SimDisk, block: u64) -> Option<u8> {
    uniform(&disk.live(block * BLOCK..(block + 1) * BLOCK))
}

fn durable(disk: &SimDisk, block: u64) -> Option<u8> {
    uniform(&disk.durable(block * BLOCK..(block + 1) * BLOCK))
}

fn eio(operation: &'static str, offset: u64) -> Result<(), DiskError> {
    Err(DiskError::Io { operation, offset, errno: libc::EIO })
}

/// What is done side by side: some blocks are written, each with a byte of its own, and perhaps the device is flushed.
#[derive(Debug, Clone)]
struct Batch {
    blocks: BTreeSet<u64>,
    flush: bool,
}

fn batch() -> impl Strategy<Value = Batch> {
    let blocks = prop::collection::btree_set(0..BLOCKS, 0..6);
    (blocks, any::<bool>()).prop_map(|(blocks, flush)| Batch { blocks, flush })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_a_flush_covers_survives_every_power_cut(
        seed in any::<u64>(), batches in prop::collection::vec(batch(), 1..30), cuts in 1u8..3,
    ) {
        run(async |pool| {
            let mut disk = disk(seed);
            for _ in 0..cuts {
                // What each block may hold after a cut: what was flushed last, or anything since.
                let mut allowed: Vec<Vec<u8>> =
                    (0..BLOCKS).map(|block| disk.live(block * BLOCK..(block + 1) * BLOCK)).collect();
                let mut written: Vec<Option<u8>> = vec![None; BLOCKS as usize];
                for (number, batch) in batches.iter().enumerate() {
                    let byte = number as u8 + 1;
                    let writes = join_all(batch.blocks.iter().map(|block| write(&disk, &pool, *block, byte)));
                    let flush = async { if batch.flush { disk.sync().await } else { Ok(()) } };
                    let (writes, flushed) = tokio::join!(writes, flush);
                    assert!(flushed.is_ok() && writes.iter().all(Result::is_ok));
                    for block in 0..BLOCKS as usize {
                        // A flush covers what had returned before it began.
                        if batch.flush && let Some(byte) = written[block] {
                            allowed[block] = vec![byte];
                        }
                        if batch.blocks.contains(&(block as u64)) {
                            allowed[block].push(byte);
                            written[block] = Some(byte);
                        }
                    }
                }
                disk = disk.crash();
                assert_eq!(disk.unsynced_writes(), 0);
                let all = disk.live(0..BLOCKS * BLOCK);
                assert_eq!(all, disk.durable(0..BLOCKS * BLOCK), "after a cut only what is durable is there");
                for (block, bytes) in all.chunks(BLOCK as usize).enumerate() {
                    for sector in bytes.chunks(SECTOR) {
                        let byte = uniform(sector).expect("a sector is written whole or not at all");
                        assert!(allowed[block].contains(&byte), "block {block} holds {byte}, not {:?}", allowed[block]);
                    }
                }
            }
        });
    }
}

#[test]
fn an_unflushed_write_is_kept_dropped_or_torn_by_a_power_cut() {
    let after_cut = |seed| {
        run(async |pool| {
            let disk = disk(seed);
            disk.write(0, filled(&pool, 4, 1)).await.expect("written");
            assert_eq!((live(&disk, 0), durable(&disk, 0), disk.unsynced_writes()), (Some(1), Some(0), 1));
            uniform(&disk.crash().live(0..4 * BLOCK))
        })
    };
    let outcomes: BTreeSet<Option<u8>> = (0..200).map(after_cut).collect();
    assert_eq!(outcomes, BTreeSet::from([Some(0), Some(1), None]));
}

#[test]
fn the_death_of_the_process_loses_nothing_that_was_written_and_anything_on_its_way() {
    let after_death = |seed| {
        run(async |pool| {
            let disk = disk(seed);
            write(&disk, &pool, 0, 1).await.expect("written");
            let mut on_its_way = Box::pin(write(&disk, &pool, 1, 2));
            assert!(on_its_way.as_mut().now_or_never().is_none());
            let next = disk.kill();
            assert_eq!(on_its_way.await, Err(DiskError::Failed));
            assert_eq!((live(&next, 0), durable(&next, 0)), (Some(1), Some(0)), "written, and still not flushed");
            live(&next, 1)
        })
    };
    let outcomes: BTreeSet<Option<u8>> = (0..50).map(after_death).collect();
    assert_eq!(outcomes, BTreeSet::from([Some(0), Some(2)]));
}

#[test]
fn handles_from_before_a_restart_are_out_of_use() {
    run(async |pool| {
        for restart in [SimDisk::crash, SimDisk::kill] {
            let old = disk(1);
            let new = restart(&old);
            assert_eq!(read(&old, &pool, 0).await.0, Err(DiskError::Failed));
            assert_eq!(write(&old, &pool, 0, 1).await, Err(DiskError::Failed));
            assert_eq!(old.sync().await, Err(DiskError::Failed));
            assert_eq!(live(&new, 0), Some(0));
            write(&new, &pool, 0, 1).await.expect("written");
            new.sync().await.expect("flushed");
            assert_eq!(durable(&new, 0), Some(1));
        }
    });
}

#[test]
fn a_write_lands_although_its_caller_goes_away() {
    run(async |pool| {
        let disk = disk(1);
        assert!(Box::pin(write(&disk, &pool, 3, 7)).now_or_never().is_none());
        assert_eq!(live(&disk, 3), Some(7));
    });
}

#[test]
fn a_lost_write_or_flush_is_answered_as_done() {
    run(async |pool| {
        let disk = disk(1);
        disk.inject(Operation::Write, 0, Fault::Lose);
        assert_eq!(write(&disk, &pool, 0, 1).await, Ok(()));
        assert_eq!(live(&disk, 0), Some(0));
        write(&disk, &pool, 0, 2).await.expect("written");
        disk.inject(Operation::Sync, 0, Fault::Lose);
        assert_eq!(disk.sync().await, Ok(()));
        assert_eq!((live(&disk, 0), durable(&disk, 0)), (Some(2), Some(0)));
        disk.inject(Operation::Read, 0, Fault::Lose);
        let (result, buffer) = read(&disk, &pool, 0).await;
        assert_eq!((result, uniform(&buffer)), (Ok(()), Some(0xEE)), "a lost read leaves the buffer as it was");
        assert_eq!(disk.sync().await, Ok(()));
        assert_eq!(durable(&disk, 0), Some(2), "the next flush is a real one");
    });
}

#[test]
fn a_misdirected_transfer_meets_other_bytes_within_the_device() {
    run(async |pool| {
        let disk = disk(1);
        disk.inject(Operation::Write, 0, Fault::Misdirect { to: 5 * BLOCK + 100 });
        assert_eq!(write(&disk, &pool, 0, 1).await, Ok(()));
        assert_eq!((live(&disk, 0), live(&disk, 5), live(&disk, 6)), (Some(0), Some(1), Some(0)));
        disk.inject(Operation::Write, 0, Fault::Misdirect { to: u64::MAX });
        assert_eq!(disk.write(0, filled(&pool, 2, 2)).await, Ok(()));
        assert_eq!([13, 14, 15].map(|block| live(&disk, block)), [Some(0), Some(2), Some(2)]);
        disk.inject(Operation::Read, 0, Fault::Misdirect { to: 5 * BLOCK });
        let (result, buffer) = read(&disk, &pool, 0).await;
        assert_eq!((result, uniform(&buffer)), (Ok(()), Some(1)));
    });
}

fn ones(bytes: &[u8]) -> u32 {
    bytes.iter().map(|byte| byte.count_ones()).sum()
}

#[test]
fn a_flip_stays_in_the_buffer_of_a_read_and_for_ever_after_a_write() {
    run(async |pool| {
        let disk = disk(1);
        disk.inject(Operation::Read, 0, Fault::Flip { bits: 1 });
        let (result, buffer) = read(&disk, &pool, 0).await;
        assert_eq!((result, ones(&buffer)), (Ok(()), 1));
        assert_eq!(ones(&read(&disk, &pool, 0).await.1), 0, "the device is as it was");
        disk.inject(Operation::Write, 0, Fault::Flip { bits: 1 });
        assert_eq!(write(&disk, &pool, 0, 0).await, Ok(()));
        disk.sync().await.expect("flushed");
        assert_eq!(ones(&disk.crash().live(0..BLOCK)), 1);
    });
}

#[test]
fn bits_flipped_at_rest_are_told_and_outlive_everything() {
    let disk = disk(9);
    for (offset, bit) in disk.flip(2 * BLOCK..3 * BLOCK, 1) {
        assert!((2 * BLOCK..3 * BLOCK).contains(&offset));
        assert_eq!(disk.live(offset..offset + 1), [1 << bit]);
    }
    assert_eq!(ones(&disk.crash().live(0..BLOCKS * BLOCK)), 1);
}

#[test]
fn what_is_changed_behind_its_back_is_not_undone_by_a_write_from_before() {
    run(async |pool| {
        let disk = disk(1);
        write(&disk, &pool, 0, 1).await.expect("written");
        disk.overwrite(10, &[9; 20]);
        disk.sync().await.expect("flushed");
        let bytes = disk.crash().live(0..BLOCK);
        assert_eq!((&bytes[..10], &bytes[10..30], &bytes[30..]), (&[1; 10][..], &[9; 20][..], &[1; 4066][..]));
    });
}

#[test]
fn a_failed_read_leaves_nothing_that_looks_like_data() {
    run(async |pool| {
        let disk = disk(1);
        disk.inject(Operation::Read, 0, Fault::Fail { errno: libc::EIO });
        let (result, buffer) = read(&disk, &pool, 2).await;
        assert_eq!(result, eio("read", 2 * BLOCK));
        assert!(!matches!(uniform(&buffer), Some(0 | 0xEE)), "neither what is stored nor what was in the buffer");
        assert_eq!(read(&disk, &pool, 2).await.0, Ok(()));
    });
}

#[test]
fn a_failed_write_leaves_any_part_of_itself() {
    let left = |seed| {
        run(async |pool| {
            let disk = disk(seed);
            disk.inject(Operation::Write, 0, Fault::Fail { errno: libc::EIO });
            assert_eq!(disk.write(0, filled(&pool, 4, 1)).await, eio("write", 0));
            let bytes = disk.live(0..4 * BLOCK);
            assert!(bytes.chunks(SECTOR).all(|sector| uniform(sector).is_some()), "it tears between sectors");
            uniform(&bytes)
        })
    };
    let outcomes: BTreeSet<Option<u8>> = (0..300).map(left).collect();
    assert_eq!(outcomes, BTreeSet::from([Some(0), Some(1), None]));
}

#[test]
fn a_full_file_system_takes_nothing_and_the_device_goes_on() {
    run(async |pool| {
        let disk = disk(1);
        disk.inject(Operation::Write, 0, Fault::Full);
        assert_eq!(write(&disk, &pool, 0, 1).await, Err(DiskError::Full));
        assert_eq!(live(&disk, 0), Some(0));
        assert_eq!(write(&disk, &pool, 0, 1).await, Ok(()));
    });
}

#[test]
fn a_failed_flush_puts_the_device_out_of_use_until_a_restart() {
    run(async |pool| {
        for (fault, error) in [(Fault::Fail { errno: libc::EIO }, eio("flush", 0)), (Fault::Full, Err(DiskError::Full))]
        {
            let disk = disk(1);
            write(&disk, &pool, 0, 1).await.expect("written");
            disk.inject(Operation::Sync, 0, fault);
            assert_eq!(disk.sync().await, error);
            assert_eq!(durable(&disk, 0), Some(0), "nothing became durable");
            assert_eq!(disk.clone().sync().await, Err(DiskError::Failed));
            assert_eq!(write(&disk, &pool, 0, 2).await, Err(DiskError::Failed));
            assert_eq!(read(&disk, &pool, 0).await.0, Err(DiskError::Failed));
            let next = disk.kill();
            assert_eq!(read(&next, &pool, 0).await.0, Ok(()));
        }
    });
}

#[test]
fn a_dead_device_stays_dead_and_keeps_its_bytes() {
    run(async |pool| {
        let disk = disk(1);
        write(&disk, &pool, 0, 1).await.expect("written");
        disk.sync().await.expect("flushed");
        let mut on_its_way = Box::pin(write(&disk, &pool, 0, 2));
        assert!(on_its_way.as_mut().now_or_never().is_none());
        disk.fail_forever();
        assert_eq!(on_its_way.await, eio("write", 0));
        assert_eq!(read(&disk, &pool, 0).await.0, eio("read", 0));
        let next = disk.crash();
        assert_eq!(next.sync().await, eio("flush", 0));
        assert_eq!(next.sync().await, Err(DiskError::Failed));
        assert_eq!(live(&next, 0), Some(1));
    });
}

#[test]
fn a_stall_holds_one_operation_or_all_until_they_are_released() {
    run(async |pool| {
        let disk = disk(1);
        disk.inject(Operation::Write, 0, Fault::Stall);
        let mut held = Box::pin(write(&disk, &pool, 0, 1));
        let long = Duration::from_secs(1000);
        assert!(tokio::time::timeout(long, held.as_mut()).await.is_err(), "it is held");
        write(&disk, &pool, 1, 1).await.expect("others overtake it");
        disk.sync().await.expect("flushed");
        assert_eq!((live(&disk, 0), durable(&disk, 1)), (Some(0), Some(1)));
        disk.release();
        held.await.expect("written");
        assert_eq!(live(&disk, 0), Some(1));
        disk.stall();
        let mut all = Box::pin(async { (read(&disk, &pool, 0).await.0, disk.sync().await) });
        assert!(tokio::time::timeout(long, all.as_mut()).await.is_err(), "everything is held");
        disk.release();
        assert_eq!(all.await, (Ok(()), Ok(())));
    });
}

#[test]
fn a_restart_ends_every_stall() {
    run(async |pool| {
        let disk = disk(1);
        disk.stall();
        let mut held = Box::pin(write(&disk, &pool, 0, 1));
        assert!(tokio::time::timeout(Duration::from_secs(1), held.as_mut()).await.is_err());
        let next = disk.crash();
        assert_eq!(held.await, Err(DiskError::Failed));
        assert_eq!(read(&next, &pool, 0).await.0, Ok(()));
    });
}

#[test]
fn a_delay_takes_its_time_and_nobody_else_s() {
    run(async |pool| {
        let disk = disk(1);
        disk.inject(Operation::Sync, 0, Fault::Delay(Duration::from_secs(5)));
        let begun = Instant::now();
        let (flushed, written) = tokio::join!(disk.sync(), async {
            let written = write(&disk, &pool, 0, 1).await;
            (written, begun.elapsed())
        });
        assert_eq!((flushed, written), (Ok(()), (Ok(()), Duration::ZERO)));
        assert!((5..6).contains(&begun.elapsed().as_secs()));
        assert_eq!(durable(&disk, 0), Some(0), "a flush does not cover what returned after it began");
    });
}

#[test]
fn a_planned_fault_waits_for_its_turn_among_operations_of_its_kind() {
    run(async |pool| {
        let disk = disk(1);
        disk.inject(Operation::Write, 2, Fault::Full);
        disk.inject(Operation::Read, 0, Fault::Fail { errno: libc::EIO });
        assert_eq!(write(&disk, &pool, 0, 1).await, Ok(()));
        assert_eq!(disk.sync().await, Ok(()));
        assert_eq!(read(&disk, &pool, 0).await.0, eio("read", 0));
        assert_eq!(write(&disk, &pool, 0, 1).await, Ok(()));
        assert_eq!(write(&disk, &pool, 0, 1).await, Err(DiskError::Full));
        assert_eq!(write(&disk, &pool, 0, 1).await, Ok(()));
        let counters = disk.crash().counters();
        assert_eq!((counters.reads, counters.writes, counters.syncs), (1, 4, 1));
    });
}

#[test]
fn a_device_that_shrank_refuses_what_is_gone_and_forgets_it() {
    run(async |pool| {
        let disk = disk(1);
        write(&disk, &pool, 15, 1).await.expect("written");
        let mut on_its_way = Box::pin(disk.write(7 * BLOCK, filled(&pool, 2, 2)));
        assert!(on_its_way.as_mut().now_or_never().is_none());
        disk.shrink(8 * BLOCK);
        let outside = |offset, length| DiskError::OutOfRange { offset, length, device_bytes: 8 * BLOCK };
        assert_eq!(on_its_way.await, Err(outside(7 * BLOCK, 2 * BLOCK)));
        assert_eq!(disk.len_bytes(), 8 * BLOCK);
        assert_eq!(read(&disk, &pool, 15).await.0, Err(outside(15 * BLOCK, BLOCK)));
        assert_eq!(write(&disk, &pool, 0, 1).await, Ok(()));
        let misaligned = DiskError::Misaligned { offset: 1, length: BLOCK };
        assert_eq!(disk.write(1, filled(&pool, 1, 1)).await, Err(misaligned));
    });
}

#[test]
fn a_careless_copy_goes_its_own_way() {
    run(async |pool| {
        let disk = disk(1);
        write(&disk, &pool, 0, 1).await.expect("written");
        let copy = disk.duplicate(2);
        write(&copy, &pool, 0, 2).await.expect("written");
        assert_eq!((live(&disk, 0), live(&copy, 0)), (Some(1), Some(2)));
    });
}

/// Everything that one seed leads to: each answer, and the bytes before and after a power cut.
fn history(seed: u64) -> (Vec<Result<(), DiskError>>, Vec<Vec<u8>>) {
    run(async |pool| {
        let (mut disk, mut answers, mut bytes) = (disk(seed), Vec::new(), Vec::new());
        let ppm = 50_000;
        disk.set_faults(SimFaults {
            read_failures_ppm: ppm,
            read_flips_ppm: ppm,
            write_failures_ppm: ppm,
            write_losses_ppm: ppm,
            write_misdirects_ppm: ppm,
            write_flips_ppm: ppm,
            sync_failures_ppm: ppm,
            max_extra_yields: 5,
        });
        for round in 0..20u8 {
            let writes = join_all((0..8).map(|block| write(&disk, &pool, block * 2, round)));
            let reads = join_all((0..8).map(|block| read(&disk, &pool, block)));
            let (writes, reads, flushed) = tokio::join!(writes, reads, disk.sync());
            answers.extend(writes);
            answers.push(flushed);
            for (answer, buffer) in reads {
                answers.push(answer);
                bytes.push(buffer.to_vec());
            }
            bytes.push(disk.durable(0..BLOCKS * BLOCK));
            disk = if round % 4 == 3 { disk.crash() } else { disk };
            bytes.push(disk.live(0..BLOCKS * BLOCK));
        }
        (answers, bytes)
    })
}

#[test]
fn one_seed_gives_one_history_and_another_one_another() {
    for seed in 0..20 {
        assert!(history(seed) == history(seed), "seed {seed} gives two histories");
        assert!(history(seed) != history(seed + 1000), "seeds {seed} and {} give one history", seed + 1000);
    }
}
