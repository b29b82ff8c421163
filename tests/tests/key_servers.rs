//! Tenants whose keys come from a real KMS: what is put is read back, by those who may; every way in which the KMS can be
//! out of reach, or say no, has its own message and exit code; rotation never stands in anybody's way.

use farside_tests::lab::{Authority, OpenBao, SoftHsm};
use farside_tests::{Outcome, Site, bytes, command, outcome, skip};
use std::path::Path;

/// A site, and what is asked of it with a token of the KMS.
struct User<'a> {
    site: &'a Site,
    token: &'a str,
}

impl User<'_> {
    fn farside(&self, arguments: &[&str]) -> Outcome {
        let dir = self.site.directory.display().to_string();
        let mut command = command(&[arguments, &["--dir", &dir]].concat());
        outcome(command.env_remove("BAO_TOKEN").env("VAULT_TOKEN", self.token).env("HOME", &dir))
    }

    fn put(&self, log: &str, name: &str, contents: &Path) -> Outcome {
        self.farside(&["put", log, name, &contents.display().to_string()])
    }

    fn holds(&self, log: &str, name: &str, contents: &[u8]) {
        let read = self.farside(&["get", log, name]);
        assert_eq!(read.code, 0, "{}", read.stderr);
        assert!(read.stdout == contents, "{log} {name} differs");
    }
}

/// Starts OpenBao, with what a client's token may do and no more.
fn openbao(root: &Path) -> Option<OpenBao> {
    match OpenBao::start(root) {
        Ok(bao) => {
            bao.policy("acme", &[("transit/hmac/acme/sha2-256", "\"update\"")]);
            Some(bao)
        }
        Err(why) => {
            skip(&why);
            None
        }
    }
}

#[test]
fn a_tenant_of_openbao_and_all_that_can_be_wrong_with_it() {
    let root = tempfile::tempdir().expect("a directory");
    let Some(mut bao) = openbao(&root.path().join("bao")) else { return };
    let site = Site::start(root.path(), "near", &["--cores", "0"]);
    let (input, contents) = (root.path().join("in"), bytes(7, 3_000_000));
    std::fs::write(&input, &contents).expect("written");
    let (owner_token, client_token) = (bao.root_token.clone(), bao.token("acme"));
    let owner = User { site: &site, token: &owner_token };
    let client = User { site: &site, token: &client_token };

    owner.farside(&["tenant", "create", "acme", "--kms", &bao.url("")]).ok();
    owner.farside(&["log", "create", "acme/photos"]).ok();
    // A client needs to compute MACs, and nothing else.
    client.put("acme/photos", "first", &input).ok();
    client.holds("acme/photos", "first", &contents);
    client.farside(&["tenant", "rotate", "acme"]).fails(3, "denies this client");
    let settings = std::fs::read_to_string(site.directory.join("admin.client.toml")).expect("settings");
    assert!(settings.contains("vault:https://127.0.0.1") && !settings.contains(&owner_token), "{settings}");

    // A new version: what was sealed before and after can be read.
    let rotated = owner.farside(&["tenant", "rotate", "acme", "--json"]).json();
    assert_eq!((&rotated["kms_key"], &rotated["kms_key_version"]), (&"acme".into(), &2.into()), "{rotated}");
    assert_eq!(rotated["logs"][0]["state"], "rotated", "{rotated}");
    client.put("acme/photos", "second", &input).ok();
    client.holds("acme/photos", "first", &contents);
    client.holds("acme/photos", "second", &contents);

    // Its operators forbid the old version, and allow it again.
    bao.bao(&["write", "transit/keys/acme/config", "min_decryption_version=2", "min_encryption_version=2"]);
    client.farside(&["get", "acme/photos", "first"]).fails(3, "lets nobody use key acme, version 1");
    bao.bao(&["write", "transit/keys/acme/config", "min_decryption_version=1", "min_encryption_version=0"]);
    client.holds("acme/photos", "first", &contents);

    // Sealed, restarted and sealed still, unsealed.
    bao.bao(&["operator", "seal"]);
    client.farside(&["get", "acme/photos", "first"]).fails(4, "is sealed");
    bao.kill();
    client.farside(&["get", "acme/photos", "first"]).fails(4, "does not answer");
    bao.run();
    client.put("acme/photos", "third", &input).fails(4, "is sealed");
    bao.unseal();
    client.put("acme/photos", "third", &input).ok();

    // A token that was revoked, and none at all.
    bao.bao(&["token", "revoke", &client_token]);
    client.farside(&["get", "acme/photos", "first"]).fails(3, "denies this client");
    User { site: &site, token: "" }.farside(&["get", "acme/photos", "first"]).fails(3, "there is no token");

    owner.farside(&["tenant", "shred", "acme"]).fails(3, "2 of its keys are not gone");

    // Another key of the same name: nothing is sealed with it, and nothing opens.
    bao.bao(&["write", "transit/keys/acme/config", "deletion_allowed=true"]);
    bao.bao(&["delete", "transit/keys/acme"]);
    owner.farside(&["get", "acme/photos", "first"]).fails(5, "has no key acme, version 1");
    let shredded = owner.farside(&["tenant", "shred", "acme", "--json"]).json();
    assert!(shredded["shredded"] == true && shredded["keys"][1]["state"] == "destroyed", "{shredded}");
    bao.bao(&["write", "transit/keys/acme", "type=hmac", "key_size=32"]);
    owner.put("acme/photos", "fourth", &input).fails(3, "computes another key");
    // A tenant that can't be made leaves no key behind.
    owner.farside(&["tenant", "create", "acme", "--kms", &bao.url("&mount=transit")]).fails(1, "exists");
    bao.bao(&["read", "transit/keys/acme"]);
}

#[test]
fn a_client_proves_itself_by_a_role_or_a_certificate() {
    let root = tempfile::tempdir().expect("a directory");
    let Some(bao) = openbao(&root.path().join("bao")) else { return };
    let site = Site::start(root.path(), "near", &["--cores", "0"]);
    let (input, contents) = (root.path().join("in"), bytes(3, 1000));
    std::fs::write(&input, &contents).expect("written");
    let owner = User { site: &site, token: &bao.root_token.clone() };
    owner.farside(&["tenant", "create", "acme", "--kms", &bao.url("")]).ok();
    owner.farside(&["log", "create", "acme/photos"]).ok();
    owner.put("acme/photos", "first", &input).ok();

    // AppRole.
    let nobody = User { site: &site, token: "" };
    bao.bao(&["auth", "enable", "-path=roles", "approle"]);
    bao.bao(&["write", "auth/roles/role/farside", "token_policies=acme", "token_ttl=60"]);
    let role = bao.bao(&["read", "-field=role_id", "auth/roles/role/farside/role-id"]);
    let secret = bao.bao(&["write", "-f", "-field=secret_id", "auth/roles/role/farside/secret-id"]);
    let secret_file = root.path().join("secret");
    std::fs::write(&secret_file, format!("{}\n", secret.trim())).expect("written");
    let by_role = bao.url(&format!(
        "&auth=approle&auth-mount=roles&role-id={}&secret-id-file={}",
        role.trim(),
        secret_file.display()
    ));
    nobody.farside(&["tenant", "kms", "acme", &by_role]).ok();
    nobody.holds("acme/photos", "first", &contents);
    // A role that may look and not make: it is told so, after one more login.
    bao.policy("looks", &[("transit/keys/second", "\"read\"")]);
    bao.bao(&["write", "auth/roles/role/farside", "token_policies=acme,looks", "token_ttl=60"]);
    nobody.farside(&["tenant", "create", "second", "--kms", &by_role]).fails(3, "denies this client");
    std::fs::write(&secret_file, "0123").expect("written");
    nobody.farside(&["get", "acme/photos", "first"]).fails(3, "logging in");
    std::fs::remove_file(&secret_file).expect("removed");
    nobody.farside(&["get", "acme/photos", "first"]).fails(1, "secret");

    // Certificates.
    let (mine, others) =
        (Authority::new(&root.path().join("mine"), "mine"), Authority::new(&root.path().join("others"), "o"));
    bao.bao(&["auth", "enable", "cert"]);
    let trusted = format!("certificate=@{}", mine.file().display());
    bao.bao(&["write", "auth/cert/certs/farside", "token_policies=acme", &trusted]);
    let by_certificate = |authority: &Authority| {
        let (certificate, key) = authority.issue_client("client");
        bao.url(&format!("&auth=cert&cert={}&key={}", certificate.display(), key.display()))
    };
    nobody.farside(&["tenant", "kms", "acme", &by_certificate(&mine)]).ok();
    nobody.holds("acme/photos", "first", &contents);
    nobody.farside(&["tenant", "kms", "acme", &by_certificate(&others)]).fails(3, "logging in");
    // What did not work was not kept.
    nobody.holds("acme/photos", "first", &contents);

    // Somebody else's server.
    let wrong = format!("vault:{}?ca={}", bao.address(), others.file().display());
    owner.farside(&["tenant", "kms", "acme", &wrong]).fails(1, "ertificate");
    let nowhere = "vault:https://127.0.0.1:1";
    owner.farside(&["tenant", "kms", "acme", nowhere]).fails(4, "does not answer");
}

#[test]
fn a_tenant_whose_keys_are_in_a_token() {
    let root = tempfile::tempdir().expect("a directory");
    let token = match SoftHsm::make(&root.path().join("hsm"), "acme") {
        Ok(token) => token,
        Err(why) => return skip(&why),
    };
    let site = Site::start(root.path(), "near", &["--cores", "0"]);
    let dir = site.directory.display().to_string();
    let farside = |arguments: &[&str]| {
        outcome(command(&[arguments, &["--dir", &dir]].concat()).env("SOFTHSM2_CONF", &token.config))
    };
    let (input, contents) = (root.path().join("in"), bytes(5, 400_000));
    std::fs::write(&input, &contents).expect("written");
    let path = input.display().to_string();
    let holds = |name: &str| {
        let read = farside(&["get", "acme/photos", name]);
        assert!(read.code == 0 && read.stdout == contents, "{name}: {}", read.stderr);
    };
    farside(&["tenant", "create", "acme", "--kms", &token.url("acme")]).ok();
    farside(&["log", "create", "acme/photos"]).ok();
    farside(&["put", "acme/photos", "first", &path]).ok();
    let rotated = farside(&["tenant", "rotate", "acme", "--json"]).json();
    assert_eq!(rotated["kms_key_version"], 2, "{rotated}");
    farside(&["put", "acme/photos", "second", &path]).ok();
    holds("first");
    holds("second");

    // A wrong PIN is tried once: the token is not locked by it.
    for _ in 0..2 {
        std::fs::write(&token.pin_file, "4321").expect("written");
        farside(&["get", "acme/photos", "first"]).fails(3, "CKR_PIN_INCORRECT");
        std::fs::write(&token.pin_file, "1234").expect("written");
        holds("first");
    }
    farside(&["tenant", "kms", "acme", &token.url("nobody")]).fails(4, "no token that fits");
    let no_library = token.url("acme").replace("libsofthsm2.so", "nothing.so");
    farside(&["tenant", "kms", "acme", &no_library]).fails(4, "can't be loaded");
    farside(&["tenant", "kms", "acme", "pkcs11:token=acme?module-path=/x&pin-value=1234"]).fails(2, "holds no secret");
    std::fs::remove_file(&token.pin_file).expect("removed");
    farside(&["get", "acme/photos", "first"]).fails(1, "pin");
    std::fs::write(&token.pin_file, "1234").expect("written");

    // The token is wiped, as its keys are to be.
    farside(&["tenant", "shred", "acme"]).fails(3, "2 of its keys are not gone");
    token.tool("softhsm2-util", &["--delete-token", "--token", "acme"]);
    farside(&["get", "acme/photos", "first"]).fails(4, "no token that fits");
    token.tool("softhsm2-util", &["--init-token", "--free", "--label", "acme", "--pin", "1234", "--so-pin", "5678"]);
    farside(&["get", "acme/photos", "first"]).fails(5, "has no key acme, version 1");
    farside(&["tenant", "shred", "acme"]).ok();
}

#[test]
fn a_url_that_is_wrong_is_told_what_is_wrong_with_it() {
    let root = tempfile::tempdir().expect("a directory");
    let site = Site::start(root.path(), "near", &["--cores", "0"]);
    let wrong = [
        ("ldap:somewhere", "file:DIR"),
        ("file:", "file:DIR"),
        ("vault:", "no address"),
        ("vault:ftp://host", "https"),
        ("vault:http://kms.example", "in the open"),
        ("vault:https://me:secret@host", "neither a user"),
        ("vault:https://host/v1/transit", "no path"),
        ("vault:https://host?token=s.1234", "text file"),
        ("kmip://host?ca=a&cert=b", "lacks the parameter key"),
        ("pkcs11:token=a?module-path=m&pin-source=/p", "not absolute"),
        ("vault:https://host?mont=transit", "no parameter mont"),
        ("vault:https://host?mount=../sys", "mount is a path"),
        ("vault:https://host?mount=a&mount=b", "twice"),
        ("vault:https://host?cert=a.pem", "go together"),
        ("vault:https://host?auth=approle", "needs role-id"),
        ("vault:https://host?auth=ldap", "token, approle or cert"),
        ("vault:https://host?auth=token&role=x", "auth=cert"),
    ];
    for (url, what) in wrong {
        let refused = site.farside(&["tenant", "create", "acme", "--kms", url]);
        refused.fails(2, what);
        assert!(!refused.stderr.contains("secret@") && !refused.stderr.contains("s.1234"), "{}", refused.stderr);
    }
    assert_eq!(site.farside(&["tenant", "list"]).ok(), "", "nothing was made");
}

#[test]
fn rotation_stands_in_nobodys_way_and_crosses() {
    let root = tempfile::tempdir().expect("a directory");
    let near = Site::start(root.path(), "near", &["--cores", "0"]);
    let far = Site::start(root.path(), "far", &["--cores", "0"]);
    let kms = root.path().join("kms");
    near.make_log(&kms, "acme/photos");
    near.farside(&["log", "create", "acme/mail"]).ok();
    near.join(&far);
    let url = format!("file:{}", kms.display());
    let (input, contents) = (root.path().join("in"), bytes(11, 500_000));
    std::fs::write(&input, &contents).expect("written");
    let path = input.display().to_string();
    for round in 0..3 {
        for log in ["acme/photos", "acme/mail"] {
            near.farside(&["put", log, &format!("of-{round}"), &path]).ok();
        }
        let told = near.farside(&["tenant", "rotate", "acme"]).ok();
        assert!(told.contains(&format!("version {}", round + 2)) && told.contains("acme/mail: used"), "{told}");
    }
    near.farside(&["put", "acme/photos", "of-3", &path]).ok();
    near.wait_caught_up();
    far.farside(&["tenant", "kms", "acme", &url]).ok();
    let read = |site: &Site, name: &str| site.farside(&["get", "acme/photos", name]);
    for site in [&near, &far] {
        for round in 0..4 {
            let read = read(site, &format!("of-{round}"));
            assert!(read.code == 0 && read.stdout == contents, "of-{round}: {}", read.stderr);
        }
    }
    // A log that is at home elsewhere is told so.
    let told = far.farside(&["tenant", "rotate", "acme", "--json"]).json();
    assert_eq!((&told["logs"][0]["state"], &told["logs"][0]["home"]), (&"elsewhere".into(), &"near".into()), "{told}");
    // A directory that is not there says nothing of what is in it.
    std::fs::rename(&kms, kms.with_extension("away")).expect("renamed");
    near.farside(&["tenant", "shred", "acme"]).fails(5, "is not there");
    read(&near, "of-2").fails(5, "is not there");
    std::fs::rename(kms.with_extension("away"), &kms).expect("renamed");
    // Without the key of one version what was sealed under it is lost, and nothing else. The first one blinds the names.
    std::fs::remove_file(kms.join("acme.v3.key")).expect("removed");
    read(&near, "of-2").fails(5, "has no key acme, version 3");
    assert!(read(&near, "of-1").stdout == contents && read(&near, "of-3").stdout == contents);
    let told = near.farside(&["tenant", "rotate", "acme"]).ok();
    assert!(told.contains("version 6"), "the number of a version that is gone is not used again: {told}");
    near.farside(&["tenant", "rotate", "nobody"]).fails(5, "no tenant nobody");
}
