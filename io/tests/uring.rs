//! Real files on a real ring: what is written is there, what can't be done is refused by name, and where the machine
//! refuses O_DIRECT or locked memory the device works on and says so.

use farside_io::disk::{Disk, DiskError};
use farside_io::entropy::SeededEntropy;
use farside_io::pool::{Buffer, Pool, Slice};
use farside_io::uring::{self, OpenError, Ring, UringDisk, check_io_uring};
use futures_util::FutureExt;
use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::spawn_local;

const POOL_BYTES: usize = 16 << 20;
const BLOCK: u64 = 4096;

/// Says in one visible line that a test can't run here; with CI=true that is a failure.
fn skip(why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "can't be skipped in CI: {why}");
    eprintln!("SKIPPED: {why}");
}

/// Runs a test on a ring of its own, with a pool registered where the machine allows it.
fn on_ring(test: impl AsyncFnOnce(&Pool, &Ring)) {
    check_io_uring().expect("io_uring");
    let ran = uring::start(async {
        let pool = Pool::new(POOL_BYTES).expect("a pool");
        let ring = Ring::register(&pool).expect("a ring");
        test(&pool, &ring).await;
    });
    ran.expect("a runtime");
}

/// A directory on a file system of disks, which the system's temporary directory need not be.
fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

/// A device of `bytes`, and what keeps its directory.
fn device(ring: &Ring, bytes: u64) -> (UringDisk, PathBuf, TempDir) {
    let directory = directory();
    let path = directory.path().join("device");
    uring::create(&path, bytes).expect("a device file");
    (UringDisk::open(&path, ring).expect("a device"), path, directory)
}

/// Bytes that tell their place and their writer.
fn fill(out: &mut [u8], seed: u64) {
    let random = SeededEntropy::new(seed);
    out.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next_u64().to_le_bytes()[..chunk.len()]));
}

async fn filled(pool: &Pool, length: usize, seed: u64) -> Slice {
    let mut buffer = pool.take(length).await.expect("a buffer");
    fill(&mut buffer, seed);
    buffer.share()
}

async fn read(disk: &UringDisk, pool: &Pool, offset: u64, length: usize) -> Result<Buffer, DiskError> {
    let mut buffer = pool.take(length).await.expect("a buffer");
    buffer.fill(0xEE);
    let address = buffer.as_ptr();
    let (result, buffer) = disk.read(offset, buffer).await;
    assert_eq!((buffer.as_ptr(), buffer.len()), (address, length), "the buffer comes back as it was");
    result.map(|()| buffer)
}

/// Whether `length` bytes at `offset` are what `fill` makes of `seed`.
async fn holds(disk: &UringDisk, pool: &Pool, offset: u64, length: usize, seed: u64) -> bool {
    let mut expected = vec![0; length];
    fill(&mut expected, seed);
    read(disk, pool, offset, length).await.expect("read")[..] == expected
}

async fn round_trip(disk: &UringDisk, pool: &Pool) {
    disk.write(BLOCK, filled(pool, 3 * BLOCK as usize, 5).await).await.expect("written");
    disk.sync().await.expect("flushed");
    assert!(holds(disk, pool, BLOCK, 3 * BLOCK as usize, 5).await, "what was written is read");
}

/// Writes ranges of many sizes side by side, far more than the pool holds at once, flushes, and reads them so.
async fn at_depth(disk: &UringDisk, pool: &Pool) -> Vec<(u64, usize)> {
    let random = SeededEntropy::new(1);
    let (mut ranges, mut offset) = (Vec::new(), 0);
    loop {
        let length = (1 + random.next_u64() % 64) * BLOCK * if random.next_u64().is_multiple_of(8) { 4 } else { 1 };
        if offset + length > disk.len_bytes() {
            break;
        }
        ranges.push((offset, length as usize));
        offset += length;
    }
    let writes = ranges.iter().map(|(offset, length)| {
        let (disk, pool, offset, length) = (disk.clone(), pool.clone(), *offset, *length);
        spawn_local(async move { disk.write(offset, filled(&pool, length, offset).await).await })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.expect("it ended").expect("written");
    }
    disk.sync().await.expect("flushed");
    let reads = ranges.iter().map(|(offset, length)| {
        let (disk, pool, offset, length) = (disk.clone(), pool.clone(), *offset, *length);
        spawn_local(async move { holds(&disk, &pool, offset, length, offset).await })
    });
    for read in reads.collect::<Vec<_>>() {
        assert!(read.await.expect("it ended"), "a range holds another one's bytes");
    }
    ranges
}

#[test]
fn what_is_written_at_depth_is_read_back_here_and_by_everybody_else() {
    on_ring(async |pool, ring| {
        let (disk, path, _directory) = device(ring, 48 << 20);
        assert_eq!((disk.len_bytes(), disk.path()), (48 << 20, path.as_path()));
        let ranges = at_depth(&disk, pool).await;
        assert!(ranges.len() > 100, "{} ranges", ranges.len());
        assert_eq!(pool.free_bytes(), POOL_BYTES, "every buffer came back");
        let bytes = std::fs::read(path).expect("read");
        for (offset, length) in ranges {
            let mut expected = vec![0; length];
            fill(&mut expected, offset);
            assert!(bytes[offset as usize..][..length] == expected, "the file differs at {offset}");
        }
    });
}

#[test]
fn buffers_that_the_ring_does_not_know_work_as_well() {
    on_ring(async |_, ring| {
        let other = Pool::new(POOL_BYTES).expect("a pool");
        let (disk, _, _directory) = device(ring, 8 << 20);
        at_depth(&disk, &other).await;
    });
}

#[test]
fn misaligned_and_out_of_range_are_refused_before_anything_moves() {
    on_ring(async |pool, ring| {
        let (disk, path, _directory) = device(ring, 1 << 20);
        let end = 1 << 20;
        let outside = |offset, length| DiskError::OutOfRange { offset, length, device_bytes: end };
        let misaligned = |offset, length| DiskError::Misaligned { offset, length };
        let top = u64::MAX - BLOCK + 1;
        for (offset, length, error) in [
            (1, BLOCK, misaligned(1, BLOCK)),
            (512, BLOCK, misaligned(512, BLOCK)),
            (0, 100, misaligned(0, 100)),
            (end, BLOCK, outside(end, BLOCK)),
            (end - BLOCK, 2 * BLOCK, outside(end - BLOCK, 2 * BLOCK)),
            (top, BLOCK, outside(top, BLOCK)),
            (top, 2 * BLOCK, outside(top, 2 * BLOCK)),
        ] {
            assert_eq!(read(&disk, pool, offset, length as usize).await.map(drop), Err(error.clone()));
            assert_eq!(disk.write(offset, filled(pool, length as usize, 1).await).await, Err(error));
        }
        assert_eq!(std::fs::read(path).expect("read"), vec![0; end as usize]);
        disk.write(end - BLOCK, filled(pool, BLOCK as usize, 2).await).await.expect("the last block is the device's");
        round_trip(&disk, pool).await;
    });
}

#[test]
fn a_device_is_a_whole_number_of_blocks() {
    on_ring(async |pool, ring| {
        let directory = directory();
        let path = directory.path().join("device");
        File::create(&path).and_then(|file| file.set_len(10 * BLOCK + 100)).expect("a file");
        let disk = UringDisk::open(&path, ring).expect("a device");
        assert_eq!(disk.len_bytes(), 10 * BLOCK);
        round_trip(&disk, pool).await;
    });
}

#[test]
fn a_file_that_shrank_below_its_device_is_an_error_and_no_endless_wait() {
    on_ring(async |pool, ring| {
        let (disk, path, _directory) = device(ring, 1 << 20);
        let file = File::options().write(true).open(path).expect("the file");
        // Within a block: what is left of one can't be had under O_DIRECT, and asking again brings nothing.
        file.set_len(BLOCK + 1000).expect("shrunk");
        let gone = |offset| Err(DiskError::Io { operation: "read", offset, errno: libc::EIO });
        assert_eq!(read(&disk, pool, 0, BLOCK as usize).await.map(drop), Ok(()));
        assert_eq!(read(&disk, pool, 0, 4 * BLOCK as usize).await.map(drop), gone(BLOCK));
        assert_eq!(read(&disk, pool, 8 * BLOCK, BLOCK as usize).await.map(drop), gone(8 * BLOCK));
    });
}

#[test]
fn flushes_are_merged_and_nobody_who_waits_for_one_is_forgotten() {
    on_ring(async |pool, ring| {
        let (disk, _, _directory) = device(ring, 1 << 20);
        disk.write(0, filled(pool, BLOCK as usize, 1).await).await.expect("written");
        // Who begins a flush goes away at once; then half of many others do.
        assert!(Box::pin(disk.sync()).now_or_never().is_none());
        let flush = |_| {
            let disk = disk.clone();
            spawn_local(async move { disk.sync().await })
        };
        let (stay, go): (Vec<_>, Vec<_>) = (0..100).map(flush).enumerate().partition(|(index, _)| index % 2 == 0);
        tokio::task::yield_now().await;
        go.into_iter().for_each(|(_, flush)| flush.abort());
        for (_, flush) in stay {
            let flushed = tokio::time::timeout(Duration::from_secs(20), flush).await.expect("nobody is forgotten");
            flushed.expect("it ended").expect("flushed");
        }
        disk.sync().await.expect("flushed");
    });
}

#[test]
fn a_buffer_stays_with_the_kernel_when_its_caller_goes_away() {
    on_ring(async |pool, ring| {
        let (disk, _, _directory) = device(ring, 4 << 20);
        let there = filled(pool, 1 << 20, 8).await;
        disk.write(1 << 20, there).await.expect("written");
        let data = filled(pool, 1 << 20, 9).await;
        let mut left = 0;
        // What is done before anybody looks is given back at once; that is rare, and two in flight are wanted.
        for _ in 0..100 {
            left = u64::from(Box::pin(disk.write(0, data.clone())).now_or_never().is_none());
            let into = pool.take(1 << 20).await.expect("a buffer");
            left += u64::from(Box::pin(disk.read(1 << 20, into)).now_or_never().is_none());
            if left == 2 {
                break;
            }
            // One of the two may be under way still, with its buffer.
            while pool.free_bytes() < POOL_BYTES - (1 << 20) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        drop(data);
        assert_eq!(left, 2, "both are under way");
        assert_eq!(pool.free_bytes(), POOL_BYTES - (2 << 20), "the kernel still uses both");
        while pool.free_bytes() < POOL_BYTES {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(holds(&disk, pool, 0, 1 << 20, 9).await, "the write was carried out");
    });
}

#[test]
fn what_is_no_device_is_told_so() {
    on_ring(async |_, ring| {
        let directory = directory();
        let at = |name: &str| directory.path().join(name);
        let open = |path: &Path| UringDisk::open(path, ring).map(drop).expect_err("it is no device");
        assert!(matches!(open(&at("nothing")), OpenError::Missing(path) if path == at("nothing")));
        assert!(matches!(open(directory.path()), OpenError::NotADevice(_)), "{}", open(directory.path()));
        let made = Command::new("mkfifo").arg(at("fifo")).status().expect("mkfifo runs");
        assert!(made.success());
        assert!(matches!(open(&at("fifo")), OpenError::NotADevice(_)), "{}", open(&at("fifo")));
        assert!(matches!(open(Path::new("/dev/null")), OpenError::NotADevice(_)));
    });
}

#[test]
fn a_device_file_is_made_once_and_its_space_is_its_own() {
    let directory = directory();
    let path = directory.path().join("device");
    uring::create(&path, 3 << 20).expect("made");
    let metadata = path.metadata().expect("metadata");
    assert_eq!((metadata.len(), metadata.mode() & 0o777), (3 << 20, 0o600));
    assert!(metadata.blocks() * 512 >= 3 << 20, "its space is reserved");
    std::fs::write(&path, b"precious").expect("written");
    assert!(matches!(uring::create(&path, 4096), Err(OpenError::Exists(_))));
    assert_eq!(std::fs::read(&path).expect("read"), b"precious");
    let nowhere = directory.path().join("no/such/device");
    assert!(matches!(uring::create(&nowhere, 4096), Err(OpenError::Io(..))));
}

/// A file system of its own kind, as long as this lives. Only an administrator may have one.
struct Mount(TempDir);

impl Mount {
    fn new(kind: &str, options: &str) -> Option<Self> {
        let directory = directory();
        let mut mount = Command::new("mount");
        let output = mount.args(["-t", kind, "-o", options, "farside"]).arg(directory.path()).output();
        output.is_ok_and(|output| output.status.success()).then_some(Self(directory))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmount = || Command::new("umount").arg(self.0.path()).status().is_ok_and(|status| status.success());
        // A process that another test is just starting holds this one's files until it runs.
        let unmounted = (0..100).any(|_| {
            unmount() || {
                std::thread::sleep(Duration::from_millis(20));
                false
            }
        });
        assert!(unmounted || std::thread::panicking(), "unmounted");
    }
}

#[test]
fn a_file_system_without_o_direct_gets_a_notice_and_works() {
    // Since Linux 6.6 even tmpfs takes O_DIRECT; ramfs never does.
    let Some(mount) = Mount::new("ramfs", "mode=700") else {
        return skip("no ramfs can be mounted");
    };
    on_ring(async |pool, ring| {
        let path = mount.0.path().join("device");
        uring::create(&path, 8 << 20).expect("made, though nothing can be reserved");
        let disk = UringDisk::open(&path, ring).expect("a device");
        let notices: Vec<String> = disk.notices().iter().map(ToString::to_string).collect();
        assert!(matches!(&notices[..], [notice] if notice.contains("does not support O_DIRECT")), "{notices:?}");
        at_depth(&disk, pool).await;
    });
}

#[test]
fn a_full_file_system_is_told_apart_and_no_failure_of_the_device() {
    let Some(mount) = Mount::new("tmpfs", "size=4m") else {
        return skip("no tmpfs can be mounted");
    };
    let at = |name: &str| mount.0.path().join(name);
    assert!(matches!(uring::create(&at("large"), 16 << 20), Err(OpenError::Full(_, bytes)) if bytes == 16 << 20));
    assert!(!at("large").exists(), "no half-made file is left");
    std::fs::write(at("ballast"), vec![0; 1 << 20]).expect("written");
    File::create(at("sparse")).and_then(|file| file.set_len(16 << 20)).expect("a file with no space of its own");
    on_ring(async |pool, ring| {
        let disk = UringDisk::open(&at("sparse"), ring).expect("a device");
        let (mut offset, error) = (0, loop_until_full(&disk, pool).await);
        assert_eq!(error.1, DiskError::Full);
        assert!((2..4).contains(&(error.0 >> 20)), "full after {} bytes", error.0);
        // What was taken before is still there, and there is more once there is room.
        while offset < error.0 {
            assert!(holds(&disk, pool, offset, 1 << 20, offset).await);
            offset += 1 << 20;
        }
        disk.sync().await.expect("flushed");
        std::fs::remove_file(at("ballast")).expect("removed");
        disk.write(error.0, filled(pool, 1 << 20, 7).await).await.expect("written");
        assert!(holds(&disk, pool, error.0, 1 << 20, 7).await);
    });
}

/// Writes a MiB after the other; answers where that failed, and how.
async fn loop_until_full(disk: &UringDisk, pool: &Pool) -> (u64, DiskError) {
    let mut offset = 0;
    loop {
        match disk.write(offset, filled(pool, 1 << 20, offset).await).await {
            Ok(()) => offset += 1 << 20,
            Err(error) => return (offset, error),
        }
    }
}

/// Where the test of too little lockable memory finds its directory, in the process that is held short.
const HELD_SHORT: &str = "FARSIDE_TEST_HELD_SHORT";
/// Kept well above what the ring itself may need on old kernels, well below the pool.
const HELD_SHORT_KIB: u32 = 2048;

#[test]
fn a_pool_that_may_not_be_locked_gets_a_notice_and_works() {
    match std::env::var_os(HELD_SHORT) {
        Some(directory) => held_short(Path::new(&directory)),
        None => hold_short(),
    }
}

/// Runs this test again in a process that may lock little memory. An administrator may lock all; nobody else may.
fn hold_short() {
    let directory = TempDir::new().expect("a directory");
    let everybody = |path: &Path| std::fs::set_permissions(path, Permissions::from_mode(0o777)).expect("opened up");
    everybody(directory.path());
    let program = directory.path().join("again");
    std::fs::copy(std::env::current_exe().expect("a test has a path"), &program).expect("copied");
    everybody(&program);
    let mut again = Command::new("sh");
    again.args(["-c", &format!("ulimit -l {HELD_SHORT_KIB} && exec \"$0\" \"$@\"")]).arg(program);
    again.args(["--exact", "a_pool_that_may_not_be_locked_gets_a_notice_and_works", "--nocapture"]);
    again.env(HELD_SHORT, directory.path());
    if std::fs::metadata("/proc/self").expect("who this is").uid() == 0 {
        again.uid(65_534).gid(65_534);
    }
    match again.output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
        }
        Err(error) => skip(&format!("no process can be started as nobody: {error}")),
    }
}

fn held_short(directory: &Path) {
    on_ring(async |pool, ring| {
        let notices: Vec<String> = ring.notices().iter().map(ToString::to_string).collect();
        assert!(matches!(&notices[..], [notice] if notice.contains("memlock")), "{notices:?}");
        let path = directory.join("device");
        uring::create(&path, 8 << 20).expect("a device file");
        let disk = UringDisk::open(&path, ring).expect("a device");
        at_depth(&disk, pool).await;
    });
}
