//! A certificate authority of a test, for servers that speak TLS and ask for certificates.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::path::{Path, PathBuf};

/// A certificate and its key, as files in PEM.
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
    /// Its certificate, in PEM.
    pub certificate: PathBuf,
}

impl Authority {
    /// Makes one, whose files lie in a directory that is made.
    pub fn new(directory: &Path, name: &str) -> Self {
        std::fs::create_dir_all(directory).expect("made");
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = directory.join("ca.pem");
        std::fs::write(&certificate, parameters.self_signed(&key).expect("signed").pem()).expect("written");
        Self { issuer: Issuer::new(parameters, key), directory: directory.to_owned(), certificate }
    }

    /// Makes a certificate for `name`, which is good for a server on this machine and for a client.
    pub fn issue(&self, name: &str) -> Pair {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut parameters = CertificateParams::new(names).expect("parameters");
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let signed = parameters.signed_by(&key, &self.issuer).expect("signed");
        let pair = Pair {
            certificate: self.directory.join(format!("{name}.pem")),
            key: self.directory.join(format!("{name}.key")),
        };
        std::fs::write(&pair.certificate, signed.pem()).expect("written");
        std::fs::write(&pair.key, key.serialize_pem()).expect("written");
        pair
    }
}
