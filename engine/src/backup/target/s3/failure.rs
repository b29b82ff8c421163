//! Why one request to a store led to nothing: what object_store's errors carry, as this module's own HTTP service puts it in.

use super::super::{TargetError, presentable};
use std::error::Error;
use std::fmt;
use std::time::Duration;

/// One request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    /// For people.
    pub(super) why: String,
    /// How long the store wants to be left alone.
    pub(super) retry_after: Option<Duration>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// It did not get there.
    Unreached,
    /// There was no answer, or not all of it: it may have been carried out.
    Lost,
    /// The answer says no.
    Answer {
        /// Its HTTP status.
        status: u16,
        /// Its code in S3; empty if it has none.
        code: String,
        /// The bucket's region, if it says so.
        region: Option<String>,
    },
    /// The answer makes no sense.
    Garbled,
    /// The other side is not who it should be.
    Distrusted,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Try again.
    Passing,
    /// Try again, more slowly.
    Throttled,
    /// The bytes arrived as others; try again.
    Damaged,
    /// There is one already.
    Exists,
    NotFound,
    NoBucket,
    Denied,
    Elsewhere,
    Short,
    Full,
    /// It makes no sense; perhaps it does the next time.
    Garbled,
    Unusable,
}

impl Failure {
    pub(super) fn new(kind: Kind, why: impl Into<String>) -> Self {
        Self { kind, why: presentable(&why.into()), retry_after: None }
    }

    /// What is in an error of object_store: the failure of a request, or else something that the library made of an answer.
    pub(super) fn of(error: &object_store::Error) -> Self {
        let mut cause: Option<&dyn Error> = Some(error);
        while let Some(error) = cause {
            if let Some(failure) = error.downcast_ref::<Self>() {
                return failure.clone();
            }
            cause = error.source();
        }
        Self::new(Kind::Garbled, error.to_string())
    }

    /// Whether the request may have been carried out all the same.
    pub(super) fn may_be_done(&self) -> bool {
        match &self.kind {
            Kind::Lost => true,
            Kind::Answer { status, .. } => *status >= 500,
            Kind::Unreached | Kind::Garbled | Kind::Distrusted => false,
        }
    }

    /// Whether the same may lead to something in a moment.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.verdict(), Verdict::Passing | Verdict::Throttled | Verdict::Damaged | Verdict::Garbled)
    }

    pub(super) fn verdict(&self) -> Verdict {
        match &self.kind {
            Kind::Unreached | Kind::Lost => Verdict::Passing,
            Kind::Answer { status, code, .. } => by_code(code).unwrap_or_else(|| by_status(*status)),
            Kind::Garbled => Verdict::Garbled,
            Kind::Distrusted => Verdict::Unusable,
        }
    }

    /// As whoever asked is told it, about `name` where there is one.
    pub(super) fn into_error(self, target: &str, name: Option<&str>) -> TargetError {
        let (target, why, verdict) = (target.to_owned(), self.why.clone(), self.verdict());
        match (verdict, name.map(str::to_owned)) {
            (Verdict::Passing, _) => TargetError::Unreachable { target, why },
            (Verdict::Throttled, _) => TargetError::Throttled { target, why },
            (Verdict::NotFound, Some(name)) => TargetError::NotFound { target, name },
            (Verdict::NotFound | Verdict::NoBucket, _) => TargetError::NoPlace { target },
            (Verdict::Denied, _) => TargetError::Denied { target, why },
            (Verdict::Full, _) => TargetError::Full { target },
            (Verdict::Elsewhere, _) => TargetError::Region { target, region: self.region() },
            (Verdict::Exists, Some(name)) => TargetError::Exists { target, name },
            (Verdict::Damaged, Some(name)) => TargetError::Damaged { target, name },
            (Verdict::Short, Some(name)) => TargetError::Short { target, name },
            (Verdict::Exists | Verdict::Damaged | Verdict::Short, _) | (Verdict::Garbled | Verdict::Unusable, _) => {
                TargetError::Failed { target, why }
            }
        }
    }

    fn region(self) -> Option<String> {
        match self.kind {
            Kind::Answer { region, .. } => region.map(|region| presentable(&region)),
            _ => None,
        }
    }
}

/// By the code, where it says more than the status: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>,
/// and what MinIO and Ceph answer when they are full.
fn by_code(code: &str) -> Option<Verdict> {
    Some(match code {
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException" => Verdict::Throttled,
        "InternalError"
        | "RequestTimeout"
        | "OperationAborted"
        | "ConditionalRequestConflict"
        | "ServiceUnavailable" => Verdict::Passing,
        "BadDigest"
        | "InvalidDigest"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch"
        | "IncompleteBody" => Verdict::Damaged,
        "NoSuchBucket" | "InvalidBucketName" => Verdict::NoBucket,
        "NoSuchKey" | "NoSuchVersion" => Verdict::NotFound,
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" => {
            Verdict::Denied
        }
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => Verdict::Elsewhere,
        "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage" => Verdict::Full,
        _ => return None,
    })
}

fn by_status(status: u16) -> Verdict {
    match status {
        429 => Verdict::Throttled,
        408 | 500 | 502 | 503 | 504 => Verdict::Passing,
        401 | 403 => Verdict::Denied,
        404 => Verdict::NotFound,
        301 | 302 | 307 | 308 => Verdict::Elsewhere,
        412 => Verdict::Exists,
        416 => Verdict::Short,
        507 => Verdict::Full,
        _ => Verdict::Unusable,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, code: &str, verdict: Verdict, exit_code: u8) {
        let kind = Kind::Answer { status, code: code.into(), region: None };
        let failure = Failure::new(kind, "why");
        assert_eq!(failure.verdict(), verdict, "{status} {code}");
        let error = failure.into_error("s3://abc", Some("name"));
        assert_eq!(error.exit_code(), exit_code, "{error}");
    }

    #[test]
    fn answers_are_told_apart() {
        check(503, "SlowDown", Verdict::Throttled, 4);
        check(429, "", Verdict::Throttled, 4);
        for status in [500, 502, 503, 504, 408] {
            check(status, "", Verdict::Passing, 4);
        }
        check(400, "RequestTimeout", Verdict::Passing, 4);
        check(409, "ConditionalRequestConflict", Verdict::Passing, 4);
        check(409, "BucketAlreadyExists", Verdict::Unusable, 1);
        check(400, "BadDigest", Verdict::Damaged, 6);
        check(403, "AccessDenied", Verdict::Denied, 3);
        check(400, "ExpiredToken", Verdict::Denied, 3);
        check(401, "", Verdict::Denied, 3);
        check(404, "NoSuchBucket", Verdict::NoBucket, 5);
        check(404, "NoSuchKey", Verdict::NotFound, 5);
        check(404, "", Verdict::NotFound, 5);
        check(301, "PermanentRedirect", Verdict::Elsewhere, 2);
        check(412, "PreconditionFailed", Verdict::Exists, 3);
        check(416, "InvalidRange", Verdict::Short, 6);
        check(507, "", Verdict::Full, 1);
        check(403, "QuotaExceeded", Verdict::Full, 1);
        check(501, "NotImplemented", Verdict::Unusable, 1);
        check(400, "", Verdict::Unusable, 1);
    }

    #[test]
    fn what_may_be_done_already() {
        let answer = |status| Kind::Answer { status, code: String::new(), region: None };
        let doubtful = |kind| Failure::new(kind, "").may_be_done();
        assert!(doubtful(Kind::Lost) && doubtful(answer(500)) && doubtful(answer(503)));
        assert!(!doubtful(Kind::Unreached) && !doubtful(answer(412)) && !doubtful(answer(403)));
    }
}
