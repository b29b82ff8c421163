//! SoftHSM: tokens as files, behind the interface that real ones have.

use super::debian_file;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where Debian puts the module.
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// A token, and its PIN in a file.
pub struct SoftHsm {
    /// To be in the environment, as `SOFTHSM2_CONF`, of whoever uses it.
    pub config: PathBuf,
    /// The file with the PIN.
    pub pin_file: PathBuf,
}

impl SoftHsm {
    /// Installs it, and makes a token; why not, where there can be none.
    pub fn make(directory: &Path, label: &str) -> Result<Self, String> {
        debian_file("softhsm2", MODULE)?;
        let tokens = directory.join("tokens");
        std::fs::create_dir_all(&tokens).expect("made");
        let (config, pin_file) = (directory.join("softhsm2.conf"), directory.join("pin"));
        std::fs::write(&config, format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display()))
            .expect("written");
        std::fs::write(&pin_file, "1234\n").expect("written");
        let token = Self { config, pin_file };
        token.tool("softhsm2-util", &["--init-token", "--free", "--label", label, "--pin", "1234", "--so-pin", "5678"]);
        Ok(token)
    }

    /// Runs a program of its administrator.
    pub fn tool(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        command.args(arguments).env("SOFTHSM2_CONF", &self.config).stdin(Stdio::null());
        let output = command.output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {told}");
    }

    /// The KMS URL of a token of that label.
    pub fn url(&self, label: &str) -> String {
        format!("pkcs11:token={label}?module-path={MODULE}&pin-source=file:{}", self.pin_file.display())
    }
}
