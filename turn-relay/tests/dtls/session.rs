//! A client over DTLS, with `dimpl`.

use std::{
    collections::VecDeque,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use dimpl::{Config, Dtls, DtlsCertificate, Output};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use stand_ins::Authority;

use crate::{
    client::{Client, PATIENCE, Wire},
    now,
};

/// How long a client listens before it looks whether it has to say something again.
const PAUSE: Duration = Duration::from_millis(50);

/// One end of a session.
pub(crate) struct DtlsWire {
    pub(crate) socket: UdpSocket,
    engine: Dtls,
    messages: VecDeque<Vec<u8>>,
    /// All datagrams that it has sent.
    pub(crate) sent: Vec<Vec<u8>>,
    pub(crate) is_open: bool,
    /// Whether the relay has ended the session.
    pub(crate) is_ended: bool,
    /// The relay's certificate.
    pub(crate) certificate: Vec<u8>,
}

impl DtlsWire {
    /// A client that has not said anything yet, with datagrams of `mtu` bytes at the most.
    pub(crate) fn new(relay: SocketAddr, mtu: usize) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        Self::on(socket, relay, mtu)
    }

    pub(crate) fn on(socket: UdpSocket, relay: SocketAddr, mtu: usize) -> Self {
        socket.connect(relay).expect("loopback");
        socket.set_read_timeout(Some(PAUSE)).expect("not zero");
        // which it does not show to anybody
        let own = Authority::new()
            .and_then(|authority| authority.server_identity(&[]))
            .expect("keys can be made");
        let certificate = CertificateDer::from_pem_slice(own.certificate_pem.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes());
        let certificate = DtlsCertificate {
            certificate: certificate.expect("it is PEM").to_vec(),
            private_key: key.expect("it is PEM").secret_der().to_vec(),
        };
        let config = Config::builder().mtu(mtu).build().expect("good settings");
        let mut engine = Dtls::new_12(Arc::new(config), certificate, now());
        engine.set_active(true);
        Self {
            socket,
            engine,
            messages: VecDeque::new(),
            sent: Vec::new(),
            is_open: false,
            is_ended: false,
            certificate: Vec::new(),
        }
    }

    /// A client whose session is open.
    pub(crate) fn open(relay: SocketAddr) -> Self {
        let mut wire = Self::new(relay, 1_200);
        wire.shake_hands();
        wire
    }

    #[track_caller]
    pub(crate) fn shake_hands(&mut self) {
        let deadline = now() + PATIENCE;
        self.tick();
        while !self.is_open {
            assert!(now() < deadline, "no session comes about");
            self.step();
        }
    }

    /// Says what is due.
    pub(crate) fn tick(&mut self) {
        self.engine.handle_timeout(now()).expect("there is time");
        self.drain();
    }

    /// Listens for a moment.
    pub(crate) fn step(&mut self) {
        if let Some(datagram) = self.datagram() {
            self.take(&datagram);
        }
        self.tick();
    }

    /// The next datagram, untouched.
    pub(crate) fn datagram(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        let len = self.socket.recv(&mut buffer).ok()?;
        buffer.truncate(len);
        Some(buffer)
    }

    pub(crate) fn take(&mut self, datagram: &[u8]) {
        self.try_to_take(datagram).expect("the relay speaks DTLS");
    }

    /// As [`Self::take`], of what may be the relay's word that it does not understand.
    pub(crate) fn try_to_take(&mut self, datagram: &[u8]) -> Result<(), dimpl::Error> {
        self.engine.handle_packet(datagram)?;
        self.drain();
        Ok(())
    }

    /// Sends messages in one datagram, each in a record of its own.
    pub(crate) fn send_together(&mut self, messages: &[Vec<u8>]) {
        for message in messages {
            self.engine
                .send_application_data(message)
                .expect("the session is open");
        }
        self.drain();
    }

    /// Takes everything that has come, so that there is space for more.
    pub(crate) fn catch_up(&mut self) {
        while let Some(datagram) = self.datagram() {
            self.take(&datagram);
        }
    }

    /// Says that it ends the session.
    pub(crate) fn close(&mut self) {
        self.engine.close().expect("once");
        self.drain();
    }

    fn drain(&mut self) {
        let mut buffer = vec![0; 65_536];
        loop {
            match self.engine.poll_output(&mut buffer) {
                Output::Packet(datagram) => {
                    self.socket.send(datagram).expect("the relay is there");
                    self.sent.push(datagram.to_vec());
                }
                Output::ApplicationData(message) => self.messages.push_back(message.to_vec()),
                Output::Connected => self.is_open = true,
                Output::CloseNotify => self.is_ended = true,
                Output::PeerCert(certificate) => self.certificate = certificate.to_vec(),
                Output::Timeout(_) => return,
                Output::BufferTooSmall { .. } | Output::KeyingMaterial(..) | _ => {}
            }
        }
    }
}

impl Wire for DtlsWire {
    fn send(&mut self, message: &[u8]) {
        self.engine
            .send_application_data(message)
            .expect("the session is open");
        self.drain();
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let deadline = now() + PATIENCE;
        while self.messages.is_empty() && !self.is_ended && now() < deadline {
            self.step();
        }
        self.messages.pop_front()
    }
}

pub(crate) fn dtls_client(relay: SocketAddr) -> Client<DtlsWire> {
    Client::new(DtlsWire::open(relay))
}
