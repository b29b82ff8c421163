//! The HTTP service under object_store: one request, one answer, within the rates, the counters and the patience of a target.
//!
//! Everything that is no success becomes an error that holds a [`Failure`], so that whoever asked learns what the store said
//! and how long it wants to be left alone, which object_store would not tell. Nothing is tried again here.

use super::super::courier::{Courier, NoAnswer};
use super::super::gate::Gate;
use super::super::limits::{
    ANSWER_PATIENCE, CONNECT_PATIENCE, MAX_ANSWER_BYTES, MAX_PAGE_BYTES, PIECE_BYTES, SLOWEST_BYTES_PER_SECOND,
};
use super::failure::{Failure, Kind};
use bytes::{Bytes, BytesMut};
use farside_io::entropy::{SystemEntropy, random};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, RETRY_AFTER};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// In a request: its answer is an object, which whoever asked reads as it comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streamed;

/// In an answer: the SHA-256 that the store says it has computed.
#[derive(Debug, Clone)]
pub(super) struct Checksum(pub(super) String);

/// The way to one store.
#[derive(Debug, Clone)]
pub(super) struct Line {
    way: Way,
    gate: Arc<Gate>,
}

#[derive(Debug, Clone)]
enum Way {
    /// A pool of connections.
    Http(reqwest::Client),
    Courier(Arc<dyn Courier>),
}

impl Way {
    async fn execute(&self, mut request: reqwest::Request) -> Result<reqwest::Response, Failure> {
        let courier = match self {
            Self::Http(client) => return client.execute(request).await.map_err(|error| failure_of(&error)),
            Self::Courier(courier) => courier,
        };
        let body = match request.body_mut().take() {
            Some(body) => body.collect().await.map_err(|error| failure_of(&error))?.to_bytes(),
            None => Bytes::new(),
        };
        let mut carried = http::Request::new(body);
        *carried.method_mut() = request.method().clone();
        *carried.uri_mut() = request.url().as_str().parse().map_err(|_| Failure::new(Kind::Distrusted, "no URL"))?;
        *carried.headers_mut() = std::mem::take(request.headers_mut());
        match courier.carry(carried).await {
            Ok(answer) => Ok(answer.into()),
            Err(NoAnswer::Unreached) => Err(Failure::new(Kind::Unreached, "no connection")),
            Err(NoAnswer::Lost) => Err(Failure::new(Kind::Lost, "no answer")),
        }
    }
}

impl HttpConnector for Line {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Line {
    // As the trait's macro writes it.
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move { self.exchange(request).await.map_err(carried) })
    }
}

fn carried(failure: Failure) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, failure)
}

impl Line {
    /// Connections to an endpoint; `roots` are the only authorities that are trusted, where there are some.
    pub(super) fn new(
        endpoint: &reqwest::Url,
        roots: Option<Vec<reqwest::Certificate>>,
        gate: Arc<Gate>,
    ) -> reqwest::Result<Self> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_PATIENCE)
            // Signatures are made for one host.
            .redirect(reqwest::redirect::Policy::none())
            .https_only(endpoint.scheme() == "https")
            .http1_only()
            // Shorter than stores keep theirs: a put that goes out on a connection that is just closed is one more in doubt.
            .pool_idle_timeout(Duration::from_secs(4))
            .user_agent(concat!("farside/", env!("CARGO_PKG_VERSION")));
        if matches!(endpoint.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            builder = builder.no_proxy();
        }
        if let Some(roots) = roots {
            builder = builder.tls_certs_only(roots);
        }
        Ok(Self { way: Way::Http(builder.build()?), gate })
    }

    /// The same by a courier.
    pub(super) fn by(courier: Arc<dyn Courier>, gate: Arc<Gate>) -> Self {
        Self { way: Way::Courier(courier), gate }
    }

    /// A random number.
    pub(super) fn draw(&self) -> u128 {
        match &self.way {
            Way::Http(_) => u128::from_le_bytes(random(&SystemEntropy)),
            Way::Courier(courier) => courier.draw(),
        }
    }

    /// Makes one request.
    pub(super) async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, Failure> {
        let (head, body) = request.into_parts();
        let url = head.uri.to_string().parse();
        let url = url.map_err(|_| Failure::new(Kind::Distrusted, "its address is no URL"))?;
        let mut request = reqwest::Request::new(head.method, url);
        *request.headers_mut() = head.headers;
        let progress = Arc::new(Progress::new(body.content_length()));
        if body.content_length() > 0 {
            // A stream does not know its length, and stores take no put without.
            request.headers_mut().insert(CONTENT_LENGTH, body.content_length().into());
            *request.body_mut() = Some(paced(body, self.gate.clone(), progress.clone()));
        }
        self.gate.request().await;
        progress.begin();
        let mut answer = progress.watch(self.way.execute(request)).await.ok_or_else(no_answer)??;
        if !answer.status().is_success() {
            return Err(refusal(answer).await);
        }
        if head.extensions.get::<Streamed>().is_some() {
            if !is_plain(answer.headers()) {
                return Err(Failure::new(Kind::Garbled, "it answers a part that can't be one"));
            }
            let answer: http::Response<reqwest::Body> = answer.into();
            let (head, body) = answer.into_parts();
            let body = HttpResponseBody::new(body.map_err(|error| carried(failure_of(&error))));
            return Ok(HttpResponse::from_parts(head, body));
        }
        let body = all_of(&mut answer, MAX_PAGE_BYTES).await?;
        let body = body.ok_or_else(|| Failure::new(Kind::Garbled, "it answers more than any answer has"))?;
        let answer: http::Response<reqwest::Body> = answer.into();
        let (mut head, _) = answer.into_parts();
        let checksum = head.headers.get("x-amz-checksum-sha256").and_then(|value| value.to_str().ok());
        if let Some(checksum) = checksum.map(str::to_owned) {
            head.extensions.insert(Checksum(checksum));
        }
        Ok(HttpResponse::from_parts(head, body.into()))
    }
}

/// A body in pieces, as fast as the gate lets them through.
fn paced(body: HttpRequestBody, gate: Arc<Gate>, progress: Arc<Progress>) -> reqwest::Body {
    let state = (body.into_data_stream(), Bytes::new(), gate, progress);
    let pieces = stream::unfold(state, |(mut frames, mut rest, gate, progress)| async move {
        while rest.is_empty() {
            match frames.next().await? {
                Ok(frame) => rest = frame,
                Err(error) => return Some((Err(error), (frames, rest, gate, progress))),
            }
        }
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        progress.pause();
        gate.sending(piece.len()).await;
        progress.go_on();
        Some((Ok(piece), (frames, rest, gate, progress)))
    });
    reqwest::Body::wrap_stream(pieces)
}

/// How far a request has come: it may take as long as its bytes need, however long the gate holds it up, but not stand still.
#[derive(Debug)]
struct Progress {
    /// What the slowest line needs for the bytes.
    span: Duration,
    steps: Mutex<Steps>,
}

#[derive(Debug)]
struct Steps {
    begun: Instant,
    last: Instant,
    held_up: Duration,
    is_held_up: bool,
}

impl Progress {
    fn new(bytes: usize) -> Self {
        let now = Instant::now();
        let steps = Steps { begun: now, last: now, held_up: Duration::ZERO, is_held_up: false };
        Self { span: Duration::from_secs(bytes as u64 / SLOWEST_BYTES_PER_SECOND), steps: Mutex::new(steps) }
    }

    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) {
        let mut steps = self.steps();
        steps.begun = Instant::now();
        steps.last = steps.begun;
    }

    fn pause(&self) {
        let mut steps = self.steps();
        steps.last = Instant::now();
        steps.is_held_up = true;
    }

    fn go_on(&self) {
        let mut steps = self.steps();
        let held_up = steps.last.elapsed();
        steps.held_up += held_up;
        steps.last = Instant::now();
        steps.is_held_up = false;
    }

    fn deadline(&self) -> Instant {
        let steps = self.steps();
        match steps.is_held_up {
            true => Instant::now() + ANSWER_PATIENCE,
            false => (steps.last + ANSWER_PATIENCE).min(steps.begun + self.span + steps.held_up + ANSWER_PATIENCE),
        }
    }

    /// Waits for `work`; nothing if it stands still or takes too long.
    async fn watch<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            if let Ok(done) = timeout_at(self.deadline(), &mut work).await {
                return Some(done);
            }
            if self.deadline() <= Instant::now() {
                return None;
            }
        }
    }
}

fn no_answer() -> Failure {
    Failure::new(Kind::Lost, "no answer in time")
}

/// All of a small answer; nothing if it has more than `most`.
async fn all_of(answer: &mut reqwest::Response, most: usize) -> Result<Option<Bytes>, Failure> {
    let mut bytes = BytesMut::new();
    loop {
        let piece = timeout(ANSWER_PATIENCE, answer.chunk()).await.map_err(|_| no_answer())?;
        let Some(piece) = piece.map_err(|error| failure_of(&error))? else { return Ok(Some(bytes.freeze())) };
        if bytes.len() + piece.len() > most {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece);
    }
}

/// What a store says when it says no.
async fn refusal(mut answer: reqwest::Response) -> Failure {
    let status = answer.status();
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let region = header("x-amz-bucket-region");
    let body = all_of(&mut answer, MAX_ANSWER_BYTES).await.ok().flatten().unwrap_or_default();
    let body = String::from_utf8_lossy(&body);
    let code = element(&body, "Code").unwrap_or_default();
    let why = match (code, element(&body, "Message").unwrap_or_default()) {
        ("", _) => format!("it answers {status}"),
        (code, "") => format!("{code} ({status})"),
        (code, message) => format!("{code}: {message}"),
    };
    let region = region.or_else(|| element(&body, "Region").map(str::to_owned));
    let kind = Kind::Answer { status: status.as_u16(), code: code.to_owned(), region };
    Failure { retry_after: retry_after.map(Duration::from_secs), ..Failure::new(kind, why) }
}

/// What stands in an element of an error, which are flat.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(inner, _)| inner)
}

/// Whether a range, if the answer names one, has an end that can be counted with: object_store adds one to it.
fn is_plain(headers: &HeaderMap) -> bool {
    let Some(range) = headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok()) else { return true };
    let end = range.split_once('-').and_then(|(_, rest)| rest.split('/').next()?.trim().parse::<u64>().ok());
    end.is_some_and(|end| end < u64::MAX)
}

/// A failure below HTTP, with what is behind it: the library's own line tells only that something failed.
pub(super) fn failure_of(error: &reqwest::Error) -> Failure {
    let mut text = None;
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        text = Some(error.to_string());
        cause = error.source();
    }
    let text = text.unwrap_or_else(|| error.to_string());
    match error {
        error if error.is_timeout() && error.is_connect() => Failure::new(Kind::Unreached, "no connection in time"),
        error if error.is_timeout() => no_answer(),
        // A certificate that is not trusted is no matter of time.
        error if error.is_connect() && text.contains("certificate") => Failure::new(Kind::Distrusted, text),
        error if error.is_connect() => Failure::new(Kind::Unreached, text),
        error if error.is_builder() => Failure::new(Kind::Distrusted, text),
        _ => Failure::new(Kind::Lost, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_an_error() {
        let body = "<?xml?><Error><Code>SlowDown</Code><Message>Please &lt;wait&gt;</Message></Error>";
        assert_eq!(element(body, "Code"), Some("SlowDown"));
        assert_eq!(element(body, "Message"), Some("Please &lt;wait&gt;"));
        assert_eq!(element(body, "Region"), None);
        assert_eq!(element("<Code>half", "Code"), None);
    }

    #[test]
    fn ranges_that_can_be_counted_with() {
        let check = |range: &str, is_fine: bool| {
            let headers = HeaderMap::from_iter([(CONTENT_RANGE, range.parse().expect("a value"))]);
            assert_eq!(is_plain(&headers), is_fine, "{range}");
        };
        check("bytes 0-99/1000", true);
        check("bytes 0-18446744073709551614/*", true);
        check("bytes 0-18446744073709551615/*", false);
        check("bytes */1000", false);
        check("bytes", false);
        assert!(is_plain(&HeaderMap::new()));
    }
}
