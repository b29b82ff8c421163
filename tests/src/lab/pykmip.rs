//! PyKMIP: a KMIP server in Python, and its own client as the operator's hand.
//!
//! Version 0.11.0 runs on Python 3.11 with SQLAlchemy 2.1 and cryptography 50 as it is; nothing of it is patched. It is
//! started by a launcher in place of its console script only so that the server and the processes that it forks end when
//! its standard input is closed, which is what happens when a test dies.

use super::{Authority, python_program};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// PyKMIP, and the versions of what it stands on with which it works. It says none itself, and it names ciphers that
/// `cryptography` means to drop.
const REQUIREMENTS: [&str; 3] = ["pykmip==0.11.0", "cryptography==50.*", "sqlalchemy==2.*"];

/// What both scripts begin with.
const LAUNCHER: &str = r#"
import os, signal, sys, threading

def end_with_the_test():
    # Not by way of sys.stdin: its lock would be held in the processes that PyKMIP forks.
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)
"#;

/// Behind [`LAUNCHER`]: PyKMIP's own server.
const SERVER: &str = r#"
if __name__ == "__main__":
    threading.Thread(target=end_with_the_test, daemon=True).start()
    from kmip.services.server.server import main
    main()
"#;

/// Behind [`LAUNCHER`]: what an operator of the server does with PyKMIP's own client.
const OPERATOR: &str = r#"
from kmip.core import enums
from kmip.core.factories.attributes import AttributeFactory
from kmip.core.attributes import Name
from kmip.pie import objects
from kmip.pie.client import ProxyKmipClient

port, ca, cert, key, command, name = sys.argv[1:7]
# An empty file, so that no configuration of this machine's user plays a part.
files = {"cert": cert, "key": key, "ca": ca, "config_file": os.devnull}
with ProxyKmipClient(hostname="127.0.0.1", port=int(port), **files) as client:
    def found():
        value = Name.create(name, enums.NameType.UNINTERPRETED_TEXT_STRING)
        attribute = AttributeFactory().create_attribute(enums.AttributeType.NAME, value)
        return client.locate(attributes=[attribute])
    if command == "register":
        mask = [enums.CryptographicUsageMask.MAC_GENERATE]
        secret = bytes.fromhex(sys.argv[7])
        object = objects.SymmetricKey(enums.CryptographicAlgorithm.HMAC_SHA256, 256, secret, masks=mask, name=name)
        print(client.register(object))
    elif command == "activate":
        [client.activate(uid) for uid in found()]
    elif command == "revoke":
        [client.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, uid) for uid in found()]
    elif command == "compromise":
        [client.revoke(enums.RevocationReasonCode.KEY_COMPROMISE, uid) for uid in found()]
    elif command == "destroy":
        [client.destroy(uid) for uid in found()]
    elif command == "describe":
        for uid in found():
            for attribute in client.get_attributes(uid)[1]:
                print(attribute.attribute_name.value, attribute.attribute_value)
"#;

/// The URL of a server on this machine.
pub fn kmip_url(port: u16, ca: &Path, (cert, key): &(PathBuf, PathBuf)) -> String {
    format!("kmip://127.0.0.1:{port}?ca={}&cert={}&key={}", ca.display(), cert.display(), key.display())
}

/// A PyKMIP server with its certificates and keys. It ends with this value.
pub struct PyKmip {
    directory: TempDir,
    /// Who signed the server's certificate, and whose clients it takes.
    pub authority: Authority,
    /// The certificate and the key of a client.
    pub client: (PathBuf, PathBuf),
    /// Where it listens.
    pub port: u16,
    process: Option<Child>,
    python: PathBuf,
}

impl PyKmip {
    /// Installs and starts one; why not, where there can be none.
    pub fn start() -> Result<Self, String> {
        let python = python_program("pykmip", &REQUIREMENTS, "python")?;
        let directory = tempfile::tempdir().expect("done");
        let authority = Authority::new(directory.path(), "authority");
        let client = authority.issue_client("tenant");
        let (certificate, key) = authority.issue_server("127.0.0.1");
        let (port, home) = (super::free_tcp_port(), directory.path());
        std::fs::create_dir(home.join("policies")).expect("done");
        std::fs::write(home.join("launcher.py"), [LAUNCHER, SERVER].concat()).expect("done");
        std::fs::write(home.join("by_operator.py"), [LAUNCHER, OPERATOR].concat()).expect("done");
        let settings = format!(
            "[server]\nhostname=127.0.0.1\nport={port}\ncertificate_path={}\nkey_path={}\nca_path={}\n\
             auth_suite=TLS1.2\npolicy_path={home}/policies\nenable_tls_client_auth=True\n\
             logging_level=INFO\ndatabase_path={home}/keys.db\n",
            certificate.display(),
            key.display(),
            authority.file().display(),
            home = home.display(),
        );
        std::fs::write(home.join("server.conf"), settings).expect("done");
        let mut server = Self { directory, authority, client, port, process: None, python };
        server.restart();
        Ok(server)
    }

    /// Ends the server if it runs, and starts it with the keys that it had.
    pub fn restart(&mut self) {
        self.stop();
        let home = self.directory.path();
        let output = std::fs::File::create(home.join("output")).expect("done");
        let process = Command::new(&self.python)
            .arg(home.join("launcher.py"))
            .arg("-f")
            .arg(home.join("server.conf"))
            .arg("-l")
            .arg(home.join("server.log"))
            .stdin(Stdio::piped())
            .stdout(output.try_clone().expect("done"))
            .stderr(output)
            .process_group(0)
            .spawn()
            .expect("done");
        self.process = Some(process);
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.process.as_mut().expect("done").try_wait().expect("done");
            assert!(ended.is_none() && Instant::now() < deadline, "PyKMIP does not start: {}", self.told());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the server wrote.
    pub fn told(&self) -> String {
        let read = |name| std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        format!("{}\n{}", read("output"), read("server.log"))
    }

    /// Kills the server and what it forked.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let group = format!("-{}", process.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
            let _ = process.wait();
        }
    }

    /// Its URL for that client.
    pub fn url(&self) -> String {
        self.url_of(&self.client)
    }

    /// Its URL for another one.
    pub fn url_of(&self, client: &(PathBuf, PathBuf)) -> String {
        kmip_url(self.port, &self.authority.file(), client)
    }

    /// Where the files of this server are.
    pub fn home(&self) -> &Path {
        self.directory.path()
    }

    /// Does something by PyKMIP's own client, and answers what it printed.
    pub fn operator(&self, command: &str, arguments: &[&str]) -> String {
        let output = Command::new(&self.python)
            .arg(self.home().join("by_operator.py"))
            .arg(self.port.to_string())
            .args([&self.authority.file(), &self.client.0, &self.client.1])
            .arg(command)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("done");
        assert!(output.status.success(), "{command} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("done")
    }
}

impl Drop for PyKmip {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("--- PyKMIP wrote:\n{}", self.told());
        }
    }
}
