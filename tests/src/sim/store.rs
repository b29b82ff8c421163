//! The stores that backups go to: buckets in memory that speak as much of S3 as is asked of them, at the end of a way on which
//! requests and answers are late, lost, refused and damaged, all from one seed.
//!
//! It stands where HTTP would: object_store makes and reads the messages, and the engine's own patience, attempts and doubts are
//! those of production. What a bucket has answered with yes it keeps.

use bytes::Bytes;
use farside::backup::target::{Answer, Courier, NoAnswer};
use farside_io::entropy::SeededEntropy;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;
use std::fmt::{self, Debug, Write};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What is wrong with the stores, for everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Nobody reaches them.
    Away,
    /// Of a hundred requests so many are answered with 500, or with 503 and the wish to be left alone.
    Refusing(u8),
    /// Of a hundred requests so many are lost, or their answers are.
    Lossy(u8),
    /// Each takes up to so long.
    Slow(Duration),
    /// Of a hundred objects that are read so many have a bit that is another one.
    Lying(u8),
}

/// How long a request is under way at most, where nothing is wrong.
const WAY: Duration = Duration::from_millis(15);
/// How long whoever asks waits before it gives an answer up: longer than the engine does.
const NEVER: Duration = Duration::from_secs(600);

struct Object {
    bytes: Bytes,
    /// `x-amz-meta-` and what follows.
    metadata: Vec<(String, String)>,
    number: u64,
}

struct Inside {
    objects: BTreeMap<String, Object>,
    random: SeededEntropy,
    trouble: Trouble,
    next_number: u64,
}

impl Inside {
    fn below(&self, bound: u64) -> u64 {
        self.random.next_u64() % bound.max(1)
    }

    fn chance(&self, percent: u8) -> bool {
        self.below(100) < u64::from(percent)
    }
}

/// All stores of a world. Clones are the same.
#[derive(Clone)]
pub struct Stores(Arc<Mutex<Inside>>);

impl Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stores")
    }
}

/// What becomes of a request on its way.
struct Fate {
    there: Duration,
    back: Duration,
    /// It is lost before it arrives, or its answer is.
    lost: Option<bool>,
    unreached: bool,
    refusal: Option<(StatusCode, &'static str)>,
    /// Which bit of an object that is read is another one.
    flipped: Option<u64>,
}

impl Stores {
    /// Empty ones.
    pub fn new(seed: u64) -> Self {
        let random = SeededEntropy::new(seed);
        Self(Arc::new(Mutex::new(Inside { objects: BTreeMap::new(), random, trouble: Trouble::None, next_number: 0 })))
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes what is wrong with them.
    pub fn set_trouble(&self, trouble: Trouble) {
        self.inside().trouble = trouble;
    }

    fn fate(&self) -> Fate {
        let inside = self.inside();
        let way = |longest: Duration| Duration::from_micros(500 + inside.below(longest.as_micros() as u64));
        let mut fate =
            Fate { there: way(WAY), back: way(WAY), lost: None, unreached: false, refusal: None, flipped: None };
        match inside.trouble {
            Trouble::None => {}
            Trouble::Away => fate.unreached = true,
            Trouble::Refusing(percent) if inside.chance(percent) => {
                fate.refusal = Some(match inside.below(2) {
                    0 => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
                    _ => (StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
                });
            }
            Trouble::Lossy(percent) if inside.chance(percent) => fate.lost = Some(inside.below(2) == 0),
            Trouble::Slow(longest) => (fate.there, fate.back) = (way(longest), way(longest)),
            Trouble::Lying(percent) if inside.chance(percent) => fate.flipped = Some(inside.random.next_u64()),
            Trouble::Refusing(_) | Trouble::Lossy(_) | Trouble::Lying(_) => {}
        }
        fate
    }

    fn answer(&self, request: &Request<Bytes>, flipped: Option<u64>) -> Response<Bytes> {
        let path = percent_decode_str(request.uri().path()).decode_utf8_lossy().trim_start_matches('/').to_owned();
        let query: BTreeMap<String, String> = request.uri().query().map(parse_query).unwrap_or_default();
        let mut inside = self.inside();
        match *request.method() {
            Method::GET if query.contains_key("list-type") => list(&inside, &path, &query),
            Method::GET => get(&inside, &path, request.headers(), flipped),
            Method::PUT => put(&mut inside, path, request),
            Method::DELETE => {
                inside.objects.remove(&path);
                reply(StatusCode::NO_CONTENT, Bytes::new())
            }
            _ => refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }
}

impl Courier for Stores {
    fn carry(&self, request: Request<Bytes>) -> Answer {
        // What is under way arrives, whatever becomes of whoever sent it.
        let carried = tokio::spawn(carry(self.clone(), request));
        Box::pin(async move { carried.await.unwrap_or(Err(NoAnswer::Lost)) })
    }

    fn draw(&self) -> u128 {
        let inside = self.inside();
        u128::from(inside.random.next_u64()) << 64 | u128::from(inside.random.next_u64())
    }
}

async fn carry(stores: Stores, request: Request<Bytes>) -> Result<Response<Bytes>, NoAnswer> {
    let fate = stores.fate();
    tokio::time::sleep(fate.there).await;
    if fate.unreached {
        return Err(NoAnswer::Unreached);
    }
    if fate.lost == Some(true) {
        return lost(&stores).await;
    }
    let answer = match fate.refusal {
        Some((status, code)) => refusal(status, code),
        None => stores.answer(&request, fate.flipped),
    };
    tokio::time::sleep(fate.back).await;
    match fate.lost {
        Some(_) => lost(&stores).await,
        None => Ok(answer),
    }
}

/// A connection that breaks, or one on which nothing more comes.
async fn lost(stores: &Stores) -> Result<Response<Bytes>, NoAnswer> {
    let is_silent = stores.inside().below(4) == 0;
    if is_silent {
        tokio::time::sleep(NEVER).await;
    }
    Err(NoAnswer::Lost)
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), percent_decode_str(value).decode_utf8_lossy().into_owned())
    };
    query.split('&').map(pair).collect()
}

fn reply(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply
}

fn refusal(status: StatusCode, code: &str) -> Response<Bytes> {
    reply(status, format!("<Error><Code>{code}</Code><Message>no</Message></Error>").into())
}

fn with(mut response: Response<Bytes>, headers: &[(&str, String)]) -> Response<Bytes> {
    for (name, value) in headers {
        let name = http::HeaderName::try_from(*name).expect("the name of a header");
        response.headers_mut().insert(name, value.parse().expect("the value of a header"));
    }
    response
}

fn put(inside: &mut Inside, path: String, request: &Request<Bytes>) -> Response<Bytes> {
    let is_new_only = request.headers().get("if-none-match").is_some_and(|value| value == "*");
    if is_new_only && inside.objects.contains_key(&path) {
        return refusal(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
    }
    let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let metadata = request.headers().iter().filter(|(name, _)| name.as_str().starts_with("x-amz-meta-"));
    let metadata = metadata.map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    inside.next_number += 1;
    let object = Object { bytes: request.body().clone(), metadata, number: inside.next_number };
    let tag = object.number;
    inside.objects.insert(path, object);
    with(reply(StatusCode::OK, Bytes::new()), &[("etag", format!("\"{tag}\""))])
}

/// The first and last byte of a range that a request names.
fn range(headers: &HeaderMap, length: usize) -> Option<(usize, usize)> {
    let (first, last) = headers.get("range")?.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse::<usize>().ok()?.min(length.saturating_sub(1))))
}

fn get(inside: &Inside, path: &str, headers: &HeaderMap, flipped: Option<u64>) -> Response<Bytes> {
    let Some(object) = inside.objects.get(path) else { return refusal(StatusCode::NOT_FOUND, "NoSuchKey") };
    let mut bytes = object.bytes.clone();
    if let Some(at) = flipped.filter(|_| !bytes.is_empty()) {
        let mut damaged = bytes.to_vec();
        let place = at as usize % damaged.len();
        damaged[place] ^= 1 << (at >> 32 & 7);
        bytes = damaged.into();
    }
    let length = bytes.len();
    let mut response = match range(headers, length) {
        Some((first, _)) if first >= length => return refusal(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange"),
        Some((first, last)) => {
            let part = reply(StatusCode::PARTIAL_CONTENT, bytes.slice(first..=last));
            with(part, &[("content-range", format!("bytes {first}-{last}/{length}"))])
        }
        None => reply(StatusCode::OK, bytes),
    };
    let sent = response.body().len();
    for (name, value) in &object.metadata {
        response = with(response, &[(name, value.clone())]);
    }
    let modified = "Tue, 01 Jan 2030 00:00:00 GMT".to_owned();
    let tag = format!("\"{}\"", object.number);
    with(response, &[("content-length", sent.to_string()), ("last-modified", modified), ("etag", tag)])
}

/// Names that are listed at once: few, so that there are several pages.
const PAGE: usize = 20;

fn list(inside: &Inside, bucket: &str, query: &BTreeMap<String, String>) -> Response<Bytes> {
    let bucket = format!("{}/", bucket.trim_end_matches('/'));
    let value = |name: &str| query.get(name).cloned().unwrap_or_default();
    let (prefix, after) = (value("prefix"), value("continuation-token"));
    let names = inside.objects.iter().filter_map(|(name, object)| Some((name.strip_prefix(&bucket)?, object)));
    let mut left = names.filter(|(name, _)| name.starts_with(&prefix) && *name > after.as_str()).peekable();
    let mut body = String::from("<?xml version=\"1.0\"?><ListBucketResult>");
    let mut last = String::new();
    for (name, object) in left.by_ref().take(PAGE) {
        let (bytes, tag) = (object.bytes.len(), object.number);
        // A name holds nothing that XML would take for its own.
        let _ = write!(
            body,
            "<Contents><Key>{name}</Key><Size>{bytes}</Size><ETag>\"{tag}\"</ETag>\
             <LastModified>2030-01-01T00:00:00.000Z</LastModified></Contents>"
        );
        last = name.to_owned();
    }
    let is_cut = left.peek().is_some();
    let _ = write!(body, "<IsTruncated>{is_cut}</IsTruncated>");
    if is_cut {
        let _ = write!(body, "<NextContinuationToken>{last}</NextContinuationToken>");
    }
    body.push_str("</ListBucketResult>");
    reply(StatusCode::OK, body.into())
}
