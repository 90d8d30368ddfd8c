//! `listen.dtls`, with the feature and without it.

use super::{Fixture, LEAST};

#[cfg(not(feature = "dtls"))]
#[test]
fn a_program_without_dtls_says_how_to_get_one_with_it() {
    let loaded = Fixture::new().load(&format!("{LEAST}listen: {{dtls: '0.0.0.0:5349'}}\n"));
    assert_eq!(
        loaded.errors,
        [
            "f.yaml:4: listen.dtls: this program speaks no DTLS: it was built without the cargo feature `dtls` \
             (remove the addresses: browsers use TLS over TCP, `listen.tls`; or build it with `--features dtls`)"
        ]
    );
    let loaded = Fixture::new().load(&format!("{LEAST}listen: {{dtls: []}}\n"));
    assert_eq!(loaded.errors, Vec::<String>::new());
}

#[cfg(feature = "dtls")]
mod with_the_feature {
    use std::net::SocketAddr;

    use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::{super::certificate, *};

    const DTLS: &str = "listen: {dtls: '0.0.0.0:5349'}\n";

    #[test]
    fn the_certificate_of_tls_is_that_of_dtls() {
        let fixture = Fixture::new();
        let loaded = fixture.load(&format!("{LEAST}{DTLS}"));
        assert_eq!(loaded.warnings, Vec::<String>::new());
        assert_eq!(loaded.errors, Vec::<String>::new());
        let config = loaded.config.expect("no error");
        assert_eq!(config.listen.dtls, [SocketAddr::from(([0; 4], 5349))]);
        // and nobody is sent there who has not asked for it
        assert_eq!(config.credentials.uris.len(), 3);
        assert!(
            config
                .tls
                .is_some_and(|tls| tls.identity.dtls_config().is_ok())
        );

        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("key");
        fixture.write("key.pem", &key.serialize_pem());
        fixture.write("fullchain.pem", &certificate(&key, 90));
        assert_eq!(
            fixture.load(&format!("{LEAST}{DTLS}")).errors,
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_key_that_is_none_for_dtls_is_refused_with_a_remedy() {
        let fixture = Fixture::new();
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("key");
        fixture.write("key.pem", &key.serialize_pem());
        fixture.write("fullchain.pem", &certificate(&key, 90));
        assert_eq!(fixture.load(LEAST).errors, Vec::<String>::new());
        let [error] = &fixture.load(&format!("{LEAST}{DTLS}")).errors[..] else {
            panic!("not one error");
        };
        assert!(
            error.contains("key.pem\": `listen.dtls` takes an ECDSA key on P-256 or P-384"),
            "{error}"
        );
        assert!(error.contains("--key-type ecdsa"), "{error}");
    }

    #[test]
    fn a_chain_that_clients_are_not_sent_is_warned_of() {
        let fixture = Fixture::new();
        let key = KeyPair::generate().expect("key");
        fixture.write("key.pem", &key.serialize_pem());
        let above = certificate(&KeyPair::generate().expect("key"), 90);
        fixture.write("fullchain.pem", &(certificate(&key, 90) + &above));
        assert_eq!(fixture.load(LEAST).warnings, Vec::<String>::new());
        let [warning] = &fixture.load(&format!("{LEAST}{DTLS}")).warnings[..] else {
            panic!("not one warning");
        };
        assert!(warning.contains("without the chain above it"), "{warning}");
    }

    #[test]
    fn without_a_certificate_there_is_no_dtls() {
        let loaded = Fixture::new().load(&format!(
            "realm: turn.example.org\nsecrets: kPlaXzQyVqFhMEUwbzcx\n{DTLS}"
        ));
        assert_eq!(
            loaded.errors,
            [
                "f.yaml:3: listen.dtls: DTLS takes a certificate (set `tls.certificate` and `tls.key`, or \
                 `listen.dtls: []`)"
            ]
        );
    }

    #[test]
    fn an_address_is_for_udp_or_for_dtls() {
        let loaded = Fixture::new().load(&format!(
            "{LEAST}listen: {{udp: '0.0.0.0:5349', dtls: '192.0.2.1:5349'}}\n"
        ));
        assert_eq!(
            loaded.errors,
            [
                "f.yaml:4: listen.dtls: cannot listen on 192.0.2.1:5349, since `listen.udp` has 0.0.0.0:5349 \
                 (choose another port)"
            ]
        );
    }

    #[test]
    fn dtls_alone_is_enough_to_listen_on() {
        let loaded = Fixture::new().load(&format!(
            "{LEAST}listen: {{udp: [], tcp: [], tls: [], dtls: '0.0.0.0:5349'}}\n\
             credentials: {{uris: 'turns:turn.example.org:5349?transport=udp'}}\n"
        ));
        assert_eq!(loaded.errors, Vec::<String>::new());
        assert_eq!(loaded.warnings, Vec::<String>::new());
    }
}
