//! A name server on the internet, with the records that the admin gives it.

use std::{
    net::{IpAddr, UdpSocket},
    sync::{Arc, Mutex, Weak},
    thread,
    time::Duration,
};

use crate::network::Network;

/// Names in lower case, without the dot at the end.
type Records = Mutex<Vec<(String, IpAddr)>>;

/// How often it is looked whether anybody wants the server any more.
const LOOK: Duration = Duration::from_millis(200);

const HEADER: usize = 12;
const A: u16 = 1;
const AAAA: u16 = 28;

/// The zone of the server. Dropped: the server ends.
pub(crate) struct Zone(Arc<Records>);

impl Zone {
    /// Answers on port 53 of every address of the internet's router.
    pub(crate) fn serve(network: &Network) -> Self {
        let zone = Self(Arc::default());
        let bound = || UdpSocket::bind("0.0.0.0:53").unwrap();
        let socket = network.internet.inside(bound);
        socket.set_read_timeout(Some(LOOK)).unwrap();
        let records = Arc::downgrade(&zone.0);
        thread::spawn(move || serve(&socket, &records));
        zone
    }

    pub(crate) fn add(&self, name: &str, address: impl Into<IpAddr>) {
        let record = (name.to_owned(), address.into());
        self.0.lock().unwrap().push(record);
    }

    /// Adds records as SETUP.md has them: `turn.example.org.  3600  IN  A  5.0.1.2`.
    pub(crate) fn paste(&self, block: &str) {
        for line in block.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let [name, _, "IN", kind, address] = words[..] else {
                panic!("no record: {line}");
            };
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(kind, if address.is_ipv4() { "A" } else { "AAAA" }, "{line}");
            self.add(name.strip_suffix('.').unwrap(), address);
        }
    }
}

fn serve(socket: &UdpSocket, records: &Weak<Records>) {
    let mut question = [0; 512];
    loop {
        let received = socket.recv_from(&mut question);
        let Some(records) = records.upgrade() else {
            return;
        };
        if let Ok((length, from)) = received
            && let Some(answer) = answer(&question[..length], &records.lock().unwrap())
        {
            // whoever asked asks again
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// RFC 1035 §4.1.
fn answer(query: &[u8], records: &[(String, IpAddr)]) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = query.get(at..at + length)?;
        name.push(String::from_utf8(label.to_ascii_lowercase()).ok()?);
        at += length;
    }
    let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    let question = query.get(HEADER..at + 4)?;
    let name = name.join(".");
    let of_name: Vec<_> = records.iter().filter(|(known, _)| *known == name).collect();
    let of_kind = of_name.iter().filter_map(|(_, address)| match address {
        IpAddr::V4(address) if kind == A => Some(address.octets().to_vec()),
        IpAddr::V6(address) if kind == AAAA => Some(address.octets().to_vec()),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    });
    let of_kind: Vec<_> = of_kind.collect();
    let unknown = if of_name.is_empty() { 3 } else { 0 };
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([0x81, 0x80 | unknown, 0, 1, 0]);
    answer.extend([u8::try_from(of_kind.len()).ok()?, 0, 0, 0, 0]);
    answer.extend(question);
    for address in of_kind {
        // the name is that of the question; class IN, a minute
        answer.extend([0xC0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 60, 0]);
        answer.push(u8::try_from(address.len()).ok()?);
        answer.extend(address);
    }
    Some(answer)
}
