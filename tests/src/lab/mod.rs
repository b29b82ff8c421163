//! Real servers that tests run against: each installs itself once into target/lab, starts in a directory of its test's own,
//! and ends with it. A machine that can't have one says so, and the test counts as skipped; with CI=true it fails.

mod authority;
mod openbao;
mod pykmip;
mod s3_proxy;
mod seaweedfs;
mod softhsm;

pub use authority::Authority;
pub use openbao::OpenBao;
pub use pykmip::{PyKmip, kmip_url};
pub use s3_proxy::{Faults, S3Proxy};
pub use seaweedfs::SeaweedFs;
pub use softhsm::SoftHsm;

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long an installation may take, on a slow line.
const INSTALL: Duration = Duration::from_secs(300);

fn home() -> PathBuf {
    let target = std::env::current_exe().expect("a test has a path");
    let target = target.ancestors().find(|path| path.join("CACHEDIR.TAG").exists()).map(Path::to_owned);
    target.unwrap_or_else(std::env::temp_dir).join("lab")
}

/// A program of Python packages, in an environment of its own; why not, where it can't be had.
fn python_program(package: &str, packages: &[&str], program: &str) -> Result<PathBuf, String> {
    let place = home().join(package);
    let path = place.join("bin").join(program);
    std::fs::create_dir_all(home()).map_err(|error| error.to_string())?;
    // Test programs may run side by side.
    let lock = File::create(home().join(format!("{package}.lock"))).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let installed = place.join("installed");
    if installed.exists() {
        return Ok(path);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place))?;
    let pip = place.join("bin/pip");
    run(Command::new(pip).args(["install", "--quiet", "--disable-pip-version-check"]).args(packages))?;
    std::fs::write(installed, "").map_err(|error| error.to_string())?;
    Ok(path)
}

/// Makes sure that there is such a file, which comes with a package of Debian's.
fn debian_file(package: &str, path: &str) -> Result<PathBuf, String> {
    let found = PathBuf::from(path);
    std::fs::create_dir_all(home()).map_err(|error| error.to_string())?;
    let lock = File::create(home().join(format!("{package}.lock"))).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    if !found.exists() {
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        run(Command::new("apt-get").args(["install", "-y", "-qq", "--no-install-recommends", package]))?;
    }
    match found.exists() {
        true => Ok(found),
        false => Err(format!("{package} has no {path}")),
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = format!("{command:?}");
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(|error| format!("{name}: {error}"))?;
    let begun = Instant::now();
    loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("{name}: {status}")),
            None if begun.elapsed() > INSTALL => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{name}: not done within {INSTALL:?}"));
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// A port that is free for TCP.
pub fn free_tcp_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// Waits until something holds.
fn wait_until(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < patience, "{what} did not come within {patience:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
