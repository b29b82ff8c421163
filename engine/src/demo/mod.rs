//! `farside demo`: two real nodes on this machine. Data goes into `near`, which is killed with SIGKILL while it is
//! written to; `far` takes over, and everything that it had acknowledged is read back and compared byte for byte.

pub(crate) mod local;
mod report;
pub(crate) mod work;

use crate::cli::{all_caught_up, show_bytes, status_document};
use crate::client::{self, Client, ClientError, Log, PutReceipt, Upload};
use crate::terminal::{Progress, line, note};
use crate::tree;
use farside_codec::ids::{Hlc, Label};
use farside_codec::message::{Failover, FailoverReport, Moment, RefusalCode, Reply, Request};
use farside_codec::seal::ObjectKind;
use farside_io::cores;
use local::{Generated, LocalSite, SitePlan, device_bytes, join};
use report::Report;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use work::WorkDirectory;

/// What the demo is told.
pub struct Options {
    /// A file or tree to put.
    pub path: Option<PathBuf>,
    /// Where to keep the sites.
    pub keep: Option<PathBuf>,
    /// Bytes of generated data.
    pub bytes: u64,
    /// One JSON object instead of the table.
    pub json: bool,
}

const LOG: &str = "demo/data";
/// Generated objects: large ones in chunks, and some that ride in their deltas.
const LARGE_OBJECT_BYTES: u64 = 32 << 20;
const SMALL_OBJECTS: u64 = 100;
const SMALL_OBJECT_BYTES: u64 = 5_000;
/// Objects written while the near site is killed.
const LIVE_OBJECT_BYTES: u64 = 300_000;
const LIVE_WRITERS: u64 = 4;
/// How long it is written to before it is killed.
const LIVE: Duration = Duration::from_millis(1500);
/// How long the first data may take to reach the far site.
const CATCH_UP: Duration = Duration::from_secs(600);

/// Where an object's bytes can be had again.
enum Source {
    Generated(u64, u64),
    File(PathBuf),
    Nothing,
}

/// What was acknowledged of one object.
struct Object {
    sequence: u64,
    time: Hlc,
    size_bytes: u64,
    source: Source,
}

impl Object {
    fn new(receipt: &PutReceipt, source: Source) -> Self {
        let placed = &receipt.receipt;
        Self { sequence: placed.cursor.sequence, time: placed.time, size_bytes: receipt.size_bytes, source }
    }
}

/// What was acknowledged, by name.
type Acknowledged = BTreeMap<Vec<u8>, Object>;

/// Runs it. The error is a sentence for people.
pub fn run(options: &Options) -> Result<(), String> {
    let bytes = match &options.path {
        Some(path) => tree_bytes(path).map_err(|error| format!("{}: {error}", path.display()))?,
        None => options.bytes,
    };
    let work = WorkDirectory::new(options.keep.as_deref(), None)?;
    let cores = cores::available().map_err(|error| error.to_string())?;
    let plan = |name, core: usize| SitePlan {
        root: &work.path,
        name,
        cores: vec![core],
        device_bytes: device_bytes(bytes + (1 << 28)),
        mtu: None,
    };
    say(options, "making two sites, near and far, on this machine");
    let near = LocalSite::start(&plan("near", cores[0]))?;
    let far = LocalSite::start(&plan("far", *cores.last().unwrap_or(&0)))?;
    let outcome = crate::cli::on_runtime(scenario(options, near, &far, &work.path));
    let report = outcome.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    report.print(options.json);
    match report.intact() {
        true => Ok(()),
        false => Err("something that was acknowledged and replicated is missing or different at the far site".into()),
    }
}

fn say(options: &Options, what: &str) {
    if !options.json {
        line(what);
    }
}

fn tree_bytes(path: &Path) -> std::io::Result<u64> {
    let metadata = std::fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut bytes = 0;
    let mut left = vec![path.to_owned()];
    while let Some(directory) = left.pop() {
        // What can't be listed is told by the put itself.
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            // Small files cost their delta; everything costs at least a block a fragment.
            bytes += metadata.len().next_multiple_of(1 << 15);
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

async fn scenario(options: &Options, mut near: LocalSite, far: &LocalSite, work: &Path) -> Result<Report, ClientError> {
    let kms = format!("file:{}", work.join("tenant-kms").display());
    let (near_client, far_client) = (near.client().await?, far.client().await?);
    let tenant = label("demo")?;
    near_client.create_tenant(&tenant, &kms).await?;
    near_client.create_log(&tenant, &label("data")?).await?;
    join(&near_client, &far_client).await?;
    let log = near_client.open_log(LOG).await?;
    let mut report = Report::default();
    let acknowledged = Rc::new(RefCell::new(Acknowledged::new()));

    say(options, "putting data into near, sealed here; far follows");
    let begun = Instant::now();
    put_first(options, &log, &acknowledged, &mut report).await?;
    report.put_seconds = begun.elapsed().as_secs_f64();
    wait_until_caught_up(&near_client).await?;
    report.replication_seconds = begun.elapsed().as_secs_f64();

    say(options, "writing on, and killing near with SIGKILL meanwhile");
    kill_while_writing(&near_client, &log, &acknowledged, &mut near, &mut report).await?;
    let killed = Instant::now();

    say(options, "ordering far to take over");
    far_client.set_kms(&tenant, &kms).await?;
    let failover = fail_over(&far_client, &near.name).await?;
    report.take_failover(&failover, killed.elapsed());

    say(options, "reading everything back at far");
    let far_log = far_client.open_log(LOG).await?;
    let position = failover.logs.first().map_or(0, |log| log.position);
    let acknowledged = acknowledged.take();
    verify(&far_log, &acknowledged, position, &mut report).await?;
    // The far side is home now: it takes writes.
    far_log.put(Upload::bytes(b"written-at-far-after-the-failover", b"still here".to_vec())).await?;
    far_client.close().await?;
    Ok(report)
}

fn label(text: &str) -> Result<Label, ClientError> {
    client::parse_label(text)
}

/// Puts the data that is there before anything goes wrong.
async fn put_first(
    options: &Options,
    log: &Log,
    acknowledged: &Rc<RefCell<Acknowledged>>,
    report: &mut Report,
) -> Result<(), ClientError> {
    let mut progress = Progress::new();
    match &options.path {
        Some(path) if path.is_dir() => {
            let mut each = |receipt: &PutReceipt| {
                let file = path.join(std::ffi::OsStr::from_bytes(&receipt.name));
                let source = if file.is_file() && !file.is_symlink() { Source::File(file) } else { Source::Nothing };
                acknowledged.borrow_mut().insert(receipt.name.to_vec(), Object::new(receipt, source));
                report.bytes += receipt.size_bytes;
                report.objects += 1;
                progress.show(|| format!("{} objects, {}", report.objects, show_bytes(report.bytes)));
            };
            let mut tell = |notice: tree::Notice| note(format_args!("{}: {}", notice.path.display(), notice.what));
            tree::store(log, path, &mut each, &mut tell).await?;
        }
        Some(path) => {
            let name = path.file_name().map_or(&b"file"[..], |name| name.as_bytes()).to_vec();
            let input = std::fs::File::open(path).map_err(|error| ClientError::File(path.clone(), error))?;
            let receipt = log.put(Upload::reader(&name, Box::new(input))).await?;
            report.bytes += receipt.size_bytes;
            report.objects += 1;
            acknowledged.borrow_mut().insert(name, Object::new(&receipt, Source::File(path.clone())));
        }
        None => {
            let large = options.bytes.div_ceil(LARGE_OBJECT_BYTES);
            let sizes = (0..large).map(|index| LARGE_OBJECT_BYTES.min(options.bytes - index * LARGE_OBJECT_BYTES));
            for (index, size) in sizes.chain((0..SMALL_OBJECTS).map(|_| SMALL_OBJECT_BYTES)).enumerate() {
                put_generated(log, acknowledged, format!("object-{index}"), index as u64, size).await?;
                report.bytes += size;
                report.objects += 1;
                progress.show(|| format!("{} of {}", show_bytes(report.bytes), show_bytes(options.bytes)));
            }
        }
    }
    Ok(())
}

async fn put_generated(
    log: &Log,
    acknowledged: &Rc<RefCell<Acknowledged>>,
    name: String,
    seed: u64,
    size: u64,
) -> Result<(), ClientError> {
    let receipt = log.put(Upload::reader(name.as_bytes(), Box::new(Generated::new(seed, size)))).await?;
    acknowledged.borrow_mut().insert(name.into_bytes(), Object::new(&receipt, Source::Generated(seed, size)));
    Ok(())
}

/// Waits until the peer has acknowledged everything.
pub(crate) async fn wait_until_caught_up(client: &Client) -> Result<(), ClientError> {
    let deadline = Instant::now() + CATCH_UP;
    loop {
        let document = status_document(client).await?;
        if all_caught_up(&document) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(ClientError::Failed(format!("the peer did not catch up: {}", document["logs"])));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Writers go on until the node dies under them.
async fn kill_while_writing(
    client: &Client,
    log: &Log,
    acknowledged: &Rc<RefCell<Acknowledged>>,
    near: &mut LocalSite,
    report: &mut Report,
) -> Result<(), ClientError> {
    let before = acknowledged.borrow().len();
    let writers: Vec<_> = (0..LIVE_WRITERS)
        .map(|writer| {
            let (log, acknowledged) = (log.clone(), acknowledged.clone());
            tokio::task::spawn_local(async move {
                for number in 0.. {
                    let name = format!("live-{writer}-{number}");
                    let seed = 1_000_000 + writer * 1_000_000 + number;
                    if put_generated(&log, &acknowledged, name, seed, LIVE_OBJECT_BYTES).await.is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(LIVE).await;
    report.take_lag(&status_document(client).await?);
    near.kill();
    report.killed_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    for writer in writers {
        // What a writer waits for never comes; what it was told before counts.
        writer.abort();
        let _ = writer.await;
    }
    report.live_objects = (acknowledged.borrow().len() - before) as u64;
    Ok(())
}

/// Orders the failover, and again while the old home still seems to answer.
async fn fail_over(far: &Client, from: &Label) -> Result<FailoverReport, ClientError> {
    let order = Failover { from: Some(from.clone()), log: None, force: false, cut: false };
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match far.control(&Request::Failover(order.clone())).await {
            Ok(Reply::FailedOver(report)) => return Ok(report),
            Ok(reply) => return Err(client::unexpected(&reply)),
            Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::Unsafe && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Reads back everything that the far site had when it took over, and compares it.
async fn verify(log: &Log, acknowledged: &Acknowledged, position: u64, report: &mut Report) -> Result<(), ClientError> {
    let mut progress = Progress::new();
    for (name, known) in acknowledged {
        if known.sequence > position {
            report.take_lost(known.size_bytes, known.time);
            continue;
        }
        let intact = match log.get(name, &Moment::Latest).await {
            Ok(object) => object.info.size_bytes == known.size_bytes && compare(&object, &known.source).await?,
            Err(ClientError::NotFound(_) | ClientError::Corrupt { .. }) => false,
            Err(error) => return Err(error),
        };
        match intact {
            true => report.verified_objects += 1,
            false => report.damaged_objects += 1,
        }
        report.verified_bytes += known.size_bytes;
        progress.show(|| format!("{} of {} objects compared", report.verified_objects, acknowledged.len()));
    }
    Ok(())
}

async fn compare(object: &client::Object, source: &Source) -> Result<bool, ClientError> {
    let mut expected: Box<dyn Read> = match source {
        Source::Generated(seed, size) => Box::new(Generated::new(*seed, *size)),
        Source::File(path) => match std::fs::File::open(path) {
            Ok(file) => Box::new(file),
            Err(error) => return Err(ClientError::File(path.clone(), error)),
        },
        Source::Nothing => return Ok(object.info.kind != Some(ObjectKind::File) || object.info.size_bytes == 0),
    };
    let mut equal = true;
    let mut buffer = Vec::new();
    object
        .read(|bytes| {
            buffer.resize(bytes.len(), 0);
            equal &= expected.read_exact(&mut buffer).is_ok() && buffer == bytes;
            Ok(())
        })
        .await?;
    // Nothing may follow.
    Ok(equal && expected.read(&mut [0]).is_ok_and(|more| more == 0))
}
