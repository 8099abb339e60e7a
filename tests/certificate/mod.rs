//! A certificate for `localhost` by an authority of its own, in the files that the Secret's mount would show.

use std::path::Path;

use finetune_operator::report::tls;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// Writes certificate, key and authority into `dir`.
pub(crate) fn write(dir: &Path) {
    let mut authority = CertificateParams::new(Vec::<String>::new()).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, format!("authority {}", dir.display()));
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let names = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = names.signed_by(&key, &authority).expect("a certificate");
    for (name, pem) in [(tls::CERTIFICATE, certificate.pem()), (tls::KEY, key.serialize_pem()), (tls::AUTHORITY, authority.pem())] {
        std::fs::write(dir.join(name), pem).expect("the folder is writable");
    }
}
