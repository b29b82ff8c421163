//! A certificate authority of a test, for servers that speak TLS and ask for certificates.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use std::path::{Path, PathBuf};

/// A certificate authority, and files of what it signed.
pub struct Authority {
    directory: PathBuf,
    name: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one, whose files lie in a directory that is made.
    pub fn new(directory: &Path, name: &str) -> Self {
        std::fs::create_dir_all(directory).expect("made");
        let mut params = CertificateParams::new(Vec::new()).expect("done");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("done")).expect("done");
        std::fs::write(directory.join(format!("{name}.pem")), issuer.pem()).expect("done");
        Self { directory: directory.to_owned(), name: name.to_owned(), issuer }
    }

    /// Its certificate.
    pub fn file(&self) -> PathBuf {
        self.directory.join(format!("{}.pem", self.name))
    }

    /// Makes a certificate and answers the files of it and of its key. PyKMIP demands a common name and the use
    /// clientAuth of its clients, and a certificate for ECDSA of itself: it speaks no suite for RSA that rustls does.
    pub fn issue(&self, common_name: &str, host: &str, usage: Option<ExtendedKeyUsagePurpose>) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("done");
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("done");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usage.into_iter().collect();
        let certificate = params.signed_by(&key, &self.issuer).expect("done");
        let stem = format!("{}-{common_name}", self.name);
        let files = (self.directory.join(format!("{stem}.pem")), self.directory.join(format!("{stem}.key")));
        std::fs::write(&files.0, certificate.pem()).expect("done");
        std::fs::write(&files.1, key.serialize_pem()).expect("done");
        files
    }

    /// A certificate for a client.
    pub fn issue_client(&self, common_name: &str) -> (PathBuf, PathBuf) {
        self.issue(common_name, "client.test", Some(ExtendedKeyUsagePurpose::ClientAuth))
    }

    /// One for a server.
    pub fn issue_server(&self, host: &str) -> (PathBuf, PathBuf) {
        self.issue(&format!("server-{host}"), host, Some(ExtendedKeyUsagePurpose::ServerAuth))
    }
}
