//! Certificates as a stranger shows them: whoever is let in is one whom a trusted authority named.

use super::feed::Feed;
use super::{Seed, values};
use farside_io::entropy::SeededEntropy;
use farside_transport::{Authority, Caller, Crypto, Identity, Role, Trust, verify_caller};
use rustls::pki_types::{CertificateDer, UnixTime};
use std::time::Duration;

/// When the identities were issued: in 2025.
const ISSUED: Duration = Duration::from_secs(1_750_000_000);
const DAY: Duration = Duration::from_secs(86_400);

/// The authority of a site, always the same one.
pub(super) fn authority(number: u8) -> Authority {
    let entropy = SeededEntropy::new(u64::from(number));
    Authority::create(values::site(number), &values::label("near"), &entropy).expect("an authority")
}

/// An identity, always the same one.
pub(super) fn identity(authority: &Authority, role: Role, subject: &str) -> Identity {
    let entropy = SeededEntropy::new(subject.bytes().map(u64::from).sum::<u64>() + role as u64);
    authority.issue(role, subject, ISSUED, 30 * DAY, &entropy).expect("an identity")
}

/// Site 1, which trusts itself and its peer, site 2, and has never heard of site 3.
struct World {
    trust: Trust,
    crypto: Crypto,
    welcome: Vec<Identity>,
    strangers: Vec<Identity>,
}

impl World {
    fn new() -> Self {
        let [own, peer, other] = [1, 2, 3].map(authority);
        let trust = Trust::new(values::site(1), own.certificate());
        trust.set_peer(values::site(2), peer.certificate());
        let welcome = vec![
            identity(&own, Role::Node, "1"),
            identity(&own, Role::Client, "03030303030303030303030303030303"),
            identity(&own, Role::Admin, "root"),
            identity(&own, Role::Peer, "invited"),
            identity(&peer, Role::Peer, "1"),
        ];
        let strangers = vec![
            identity(&peer, Role::Node, "1"),
            identity(&peer, Role::Admin, "root"),
            identity(&other, Role::Peer, "1"),
        ];
        Self { trust, crypto: Crypto::default(), welcome, strangers }
    }

    fn verify(&self, certificate: &[u8], day: u32) -> Option<Caller> {
        let now = UnixTime::since_unix_epoch(ISSUED + day * DAY);
        verify_caller(&self.trust, &self.crypto, &CertificateDer::from(certificate), now).ok()
    }
}

thread_local! {
    static WORLD: World = World::new();
}

/// A certificate, of a caller or of an authority.
pub fn certificate(bytes: &[u8]) {
    let mut feed = Feed::new(bytes);
    let (day, of_authority) = (u32::from(feed.byte()), feed.is());
    let certificate = feed.rest();
    let named = Caller::of_certificate(&CertificateDer::from(certificate));
    if let Some(named) = &named {
        assert_eq!(Caller::parse(&named.uri()).as_ref(), Some(named));
    }
    WORLD.with(|world| {
        if let Some(caller) = world.verify(certificate, day) {
            let known = world.welcome.iter().find(|known| known.certificate() == certificate);
            assert_eq!(Some(&caller), known.map(Identity::caller), "whoever is let in was named by an authority");
            assert_eq!(Some(caller), named);
            assert!(day <= 30, "for as long as it was to last");
        }
        assert!(world.strangers.iter().all(|stranger| world.verify(stranger.certificate(), 1).is_none()));
        if of_authority {
            // A peer's record may hold anything as its authority.
            let trust = Trust::new(values::site(1), certificate);
            trust.set_peer(values::site(2), certificate);
            let hostile = World { trust, crypto: world.crypto.clone(), welcome: Vec::new(), strangers: Vec::new() };
            world.welcome.iter().for_each(|known| drop(hostile.verify(known.certificate(), 1)));
        }
    });
}

/// Seeds of [`certificate`].
pub fn certificate_seeds() -> Vec<Seed> {
    let of = |day: u8, of_authority: u8, certificate: &[u8]| [&[day, of_authority], certificate].concat();
    let world = World::new();
    let names = ["node", "client", "admin", "invited", "peer"];
    let welcome = names.into_iter().zip(&world.welcome).map(|(name, known)| (name, of(1, 0, known.certificate())));
    let names = ["peers-node", "peers-admin", "stranger"];
    let strangers = names.into_iter().zip(&world.strangers).map(|(name, known)| (name, of(1, 0, known.certificate())));
    let late = ("too-late", of(31, 0, world.welcome[0].certificate()));
    let own = ("authority", of(1, 1, authority(1).certificate()));
    welcome.chain(strangers).chain([late, own]).collect()
}
