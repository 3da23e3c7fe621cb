//! An MQTT client that says exactly what a test wants said, byte by byte, in 3.1.1 and in 5.
//!
//! It shares no code with the broker under test, nor with any library: what it expects is what the
//! standards say.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::{Node, SOON};

/// How a client connects.
#[derive(Debug, Clone)]
pub struct Connect {
    /// 4 for 3.1.1, 5.
    pub version: u8,
    /// The client ID.
    pub id: String,
    /// Whether it wants nothing of a session before.
    pub clean: bool,
    /// Seconds; 0 for none.
    pub keep_alive: u16,
    /// Topic, payload and properties of its will.
    pub will: Option<(String, String, Vec<u8>)>,
    /// As on the wire, without their length; of version 5.
    pub properties: Vec<u8>,
    /// The password of the user `ipdc`.
    pub password: Option<String>,
}

impl Connect {
    /// A clean session without a will.
    #[must_use]
    pub fn new(version: u8, id: &str) -> Self {
        Connect {
            version,
            id: id.to_owned(),
            clean: true,
            keep_alive: 0,
            will: None,
            properties: Vec::new(),
            password: None,
        }
    }

    /// With a session that is kept for `seconds`; in 3.1.1, for as long as the broker likes.
    #[must_use]
    pub fn lasting(version: u8, id: &str, seconds: u32) -> Self {
        let properties = [&[0x11][..], &seconds.to_be_bytes()].concat();
        Connect { clean: false, properties, ..Connect::new(version, id) }
    }

    fn packet(&self) -> Vec<u8> {
        let mut flags = u8::from(self.clean) << 1;
        let mut payload = text(&self.id);
        if let Some((topic, message, properties)) = &self.will {
            flags |= 0x04;
            payload.extend(self.with_length(properties));
            payload.extend([text(topic), text(message)].concat());
        }
        if let Some(password) = &self.password {
            flags |= 0xc0;
            payload.extend([text("ipdc"), text(password)].concat());
        }
        let mut body = [text("MQTT"), vec![self.version, flags]].concat();
        body.extend(self.keep_alive.to_be_bytes());
        body.extend(self.with_length(&self.properties));
        packet(0x10, &[body, payload].concat())
    }

    fn with_length(&self, properties: &[u8]) -> Vec<u8> {
        of_version(self.version, properties)
    }
}

/// A message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Whether it is, or was, retained.
    pub retain: bool,
    /// Whether it may have come before.
    pub again: bool,
    /// As on the wire, without their length; of version 5.
    pub properties: Vec<u8>,
    /// The packet ID by which the broker sent it; 0 at QoS 0.
    pub id: [u8; 2],
}

impl Message {
    /// A message that is not retained.
    #[must_use]
    pub fn new(topic: &str, payload: &str, qos: u8) -> Self {
        let payload = payload.as_bytes().to_vec();
        Message { topic: topic.to_owned(), payload, qos, ..Message::default() }
    }

    /// The same, to be retained.
    #[must_use]
    pub fn retained(self) -> Self {
        Message { retain: true, ..self }
    }

    /// The same, with these properties.
    #[must_use]
    pub fn with(self, properties: &[u8]) -> Self {
        Message { properties: properties.to_vec(), ..self }
    }

    /// Whether `property` is among its properties, as it is on the wire.
    #[must_use]
    pub fn has(&self, property: &[u8]) -> bool {
        self.properties.windows(property.len()).any(|window| window == property)
    }

    /// Its payload as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// A connected client.
pub struct Mqtt {
    stream: TcpStream,
    version: u8,
    last_id: u16,
    heard: VecDeque<Message>,
    /// The properties of the broker's CONNACK, of version 5.
    pub granted: Vec<u8>,
    /// Whether it acknowledges what it hears.
    pub acknowledges: bool,
}

impl Mqtt {
    /// Where the node's clients connect.
    ///
    /// # Panics
    /// When it says no such thing.
    #[must_use]
    pub fn address(node: &Node) -> String {
        node.status()["mqtt"].as_str().expect("an address").to_owned()
    }

    /// Connects; gives the client, whether there was a session, and the verdict: 0 is yes.
    ///
    /// # Panics
    /// When the broker says anything but a CONNACK.
    #[must_use]
    pub fn open(address: &str, connect: &Connect) -> (Mqtt, bool, u8) {
        let stream = TcpStream::connect(address).expect("the broker listens");
        stream.set_read_timeout(Some(SOON)).expect("a time-out");
        stream.set_nodelay(true).expect("an option");
        let mut mqtt = Mqtt {
            stream,
            version: connect.version,
            last_id: 0,
            heard: VecDeque::new(),
            granted: Vec::new(),
            acknowledges: true,
        };
        mqtt.send(&connect.packet());
        let (first, body) = mqtt.packet().expect("a CONNACK");
        assert_eq!(first, 0x20, "a CONNACK");
        mqtt.granted = body[2..].to_vec();
        (mqtt, body[0] == 1, body[1])
    }

    /// Connects, and expects to be let in.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn connect(address: &str, connect: &Connect) -> Mqtt {
        let (mqtt, _, verdict) = Mqtt::open(address, connect);
        assert_eq!(verdict, 0, "{connect:?}");
        mqtt
    }

    /// Writes bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        // A broker that has hung up is seen when its answer is read.
        let _ = self.stream.write_all(bytes);
    }

    /// The next packet: its first byte and its body; none when the broker hung up.
    ///
    /// # Panics
    /// When nothing comes for long.
    pub fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut first = [0];
        self.fill(&mut first)?;
        let (mut length, mut shift) = (0, 0);
        loop {
            let mut byte = [0];
            self.fill(&mut byte)?;
            length |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.fill(&mut body)?;
        Some((first[0], body))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(bytes) {
            Ok(()) => Some(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the broker said nothing for {SOON:?}")
            }
            Err(_) => None,
        }
    }

    /// The next packet that is no message; messages are kept for [`Mqtt::hear`].
    ///
    /// # Panics
    /// When the broker hung up.
    pub fn answer(&mut self) -> (u8, Vec<u8>) {
        loop {
            let (first, body) = self.packet().expect("an answer");
            if first >> 4 != 3 {
                return (first, body);
            }
            let message = self.read_message(first, &body);
            self.heard.push_back(message);
        }
    }

    /// The next message, acknowledged if it asks for that.
    ///
    /// # Panics
    /// When none comes.
    pub fn hear(&mut self) -> Message {
        let message = self.heard.pop_front().unwrap_or_else(|| {
            loop {
                let (first, body) = self.packet().expect("a message");
                if first >> 4 == 3 {
                    return self.read_message(first, &body);
                }
            }
        });
        if self.acknowledges {
            match message.qos {
                0 => {}
                1 => self.send(&packet(0x40, &message.id)),
                _ => {
                    self.send(&packet(0x50, &message.id));
                    assert_eq!(self.answer().0, 0x62, "a PUBREL");
                    self.send(&packet(0x70, &message.id));
                }
            }
        }
        message
    }

    fn read_message(&self, first: u8, body: &[u8]) -> Message {
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let (topic, mut rest) = body[2..].split_at(length);
        let qos = first >> 1 & 3;
        let mut id = [0, 0];
        if qos > 0 {
            id = [rest[0], rest[1]];
            rest = &rest[2..];
        }
        let mut properties = Vec::new();
        if self.version == 5 {
            // Those of these tests have less than 16 KiB.
            let (mut length, mut at) = (usize::from(rest[0] & 0x7f), 1);
            if rest[0] & 0x80 != 0 {
                length |= usize::from(rest[1]) << 7;
                at = 2;
            }
            properties = rest[at..at + length].to_vec();
            rest = &rest[at + length..];
        }
        Message {
            topic: String::from_utf8_lossy(topic).into_owned(),
            payload: rest.to_vec(),
            qos,
            retain: first & 1 == 1,
            again: first & 8 != 0,
            properties,
            id,
        }
    }

    /// Publishes, to the end of what its quality of service asks for; gives the verdict, 0 for yes.
    ///
    /// # Panics
    /// When the broker answers anything else.
    pub fn publish(&mut self, message: &Message) -> u8 {
        let id = self.begin(message);
        let verdict = |body: &[u8]| body.get(2).copied().unwrap_or_default();
        match message.qos {
            0 => 0,
            1 => {
                let (first, body) = self.answer();
                assert_eq!((first, &body[..2]), (0x40, &id[..]), "a PUBACK");
                verdict(&body)
            }
            _ => {
                let (first, body) = self.answer();
                assert_eq!((first, &body[..2]), (0x50, &id[..]), "a PUBREC");
                if verdict(&body) >= 0x80 {
                    return verdict(&body);
                }
                self.send(&packet(0x62, &id));
                let (first, body) = self.answer();
                assert_eq!((first, &body[..2]), (0x70, &id[..]), "a PUBCOMP");
                verdict(&body)
            }
        }
    }

    /// Sends a message and waits for nothing; gives its packet ID.
    pub fn begin(&mut self, message: &Message) -> [u8; 2] {
        self.last_id += 1;
        let id = self.last_id.to_be_bytes();
        let mut body = text(&message.topic);
        if message.qos > 0 {
            body.extend(id);
        }
        body.extend(of_version(self.version, &message.properties));
        body.extend(&message.payload);
        let first =
            0x30 | u8::from(message.again) << 3 | message.qos << 1 | u8::from(message.retain);
        self.send(&packet(first, &body));
        id
    }

    /// Subscribes to one filter; `options` begin with the quality of service. Gives the verdict.
    ///
    /// # Panics
    /// When the broker answers anything else.
    pub fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        self.subscribe_with(filter, options, &[])
    }

    /// The same with properties.
    ///
    /// # Panics
    /// As [`Mqtt::subscribe`].
    pub fn subscribe_with(&mut self, filter: &str, options: u8, properties: &[u8]) -> u8 {
        let mut body = vec![0, 7];
        body.extend(of_version(self.version, properties));
        body.extend(text(filter));
        body.push(options);
        self.send(&packet(0x82, &body));
        let (first, body) = self.answer();
        assert_eq!((first, &body[..2]), (0x90, &[0, 7][..]), "a SUBACK");
        *body.last().expect("a verdict")
    }

    /// Takes a subscription back.
    ///
    /// # Panics
    /// When the broker does not say that it did.
    pub fn unsubscribe(&mut self, filter: &str) {
        let body = [vec![0, 8], of_version(self.version, &[]), text(filter)].concat();
        self.send(&packet(0xa2, &body));
        let (first, body) = self.answer();
        assert_eq!((first, &body[..2]), (0xb0, &[0, 8][..]), "an UNSUBACK");
    }

    /// Asks whether the broker lives.
    ///
    /// # Panics
    /// When it does not.
    pub fn ping(&mut self) {
        self.send(&packet(0xc0, &[]));
        assert_eq!(self.answer().0, 0xd0, "a PINGRESP");
    }

    /// Says goodbye and waits until the broker hangs up.
    pub fn disconnect(mut self) {
        self.send(&packet(0xe0, &[]));
        self.ends();
    }

    /// Waits until the broker hangs up.
    pub fn ends(&mut self) {
        while self.packet().is_some() {}
    }

    /// Waits until the broker hangs up, for as long as `bound`; false when it does not.
    pub fn ends_within(&mut self, bound: Duration) -> bool {
        self.stream.set_read_timeout(Some(bound)).expect("a time-out");
        let mut sink = [0; 64 << 10];
        loop {
            match self.stream.read(&mut sink) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
    }
}

/// A packet: its first byte, its length, its body.
#[must_use]
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first][..], &number(body.len()), body].concat()
}

/// A user property, as on the wire.
#[must_use]
pub fn user_property(name: &str, value: &str) -> Vec<u8> {
    [vec![0x26], text(name), text(value)].concat()
}

/// A text, as on the wire.
///
/// # Panics
/// When it has more than 64 KiB.
#[must_use]
pub fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a short text");
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}

fn of_version(version: u8, properties: &[u8]) -> Vec<u8> {
    if version == 5 { [&number(properties.len()), properties].concat() } else { Vec::new() }
}

/// A length, seven bits a byte.
fn number(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (n & 0x7f) as u8;
        n >>= 7;
        bytes.push(if n > 0 { low | 0x80 } else { low });
        if n == 0 {
            return bytes;
        }
    }
}
