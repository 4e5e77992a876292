//! The Address Resolution Protocol (RFC 826) for IPv4 on Ethernet: who answers for an address, and word that we do
//! (RFC 5227).

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{LinkAddr, MsgFlags, bind, recvfrom, send};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

/// ARP's number on Ethernet.
const ETHER_TYPE: u16 = 0x0806;
/// What stands between the Ethernet header and the addresses: Ethernet, IPv4, and their lengths.
const KINDS: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1;
const BROADCAST: Hardware = Hardware([0xff; 6]);
const NOBODY: Hardware = Hardware([0; 6]);

/// The address of an Ethernet link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hardware(pub(super) [u8; 6]);

impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A message: `sender` says that it answers for `claimed`, and asks for `wanted`, or tells its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    sender: Hardware,
    claimed: Ipv4Addr,
    wanted: Ipv4Addr,
    request: bool,
}

impl Message {
    /// The message as a frame for everybody.
    fn frame(self) -> Vec<u8> {
        let operation: u16 = if self.request { REQUEST } else { REQUEST + 1 };
        let mut frame = Vec::with_capacity(42);
        frame.extend(BROADCAST.0);
        frame.extend(self.sender.0);
        frame.extend(ETHER_TYPE.to_be_bytes());
        frame.extend(KINDS);
        frame.extend(operation.to_be_bytes());
        frame.extend(self.sender.0);
        frame.extend(self.claimed.octets());
        frame.extend(NOBODY.0);
        frame.extend(self.wanted.octets());
        frame
    }

    /// The message in a frame; none if it is another protocol's, or cut short.
    fn parse(frame: &[u8]) -> Option<Message> {
        let bytes = |from: usize| frame.get(from..).and_then(|rest| rest.first_chunk::<4>()).copied();
        if frame.get(12..14)? != ETHER_TYPE.to_be_bytes() || frame.get(14..20)? != KINDS {
            return None;
        }
        Some(Message {
            request: frame.get(20..22)? == REQUEST.to_be_bytes(),
            sender: Hardware(*frame.get(22..)?.first_chunk()?),
            claimed: bytes(28)?.into(),
            wanted: bytes(38)?.into(),
        })
    }

    /// Whether it shows that somebody else than `own` uses `address`, or is about to.
    fn contests(&self, address: Ipv4Addr, own: Hardware) -> bool {
        let probes = self.request && self.claimed.is_unspecified() && self.wanted == address;
        self.sender != own && (self.claimed == address || probes)
    }
}

/// The messages of one interface's network.
#[derive(Debug)]
pub(super) struct ArpSocket {
    socket: AsyncFd<Socket>,
    index: usize,
    own: Hardware,
}

impl ArpSocket {
    /// Listens on the link, which is `own`.
    pub(super) fn open(link: &LinkAddr, own: Hardware) -> io::Result<Self> {
        let protocol = Protocol::from(i32::from(ETHER_TYPE.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
        bind(socket.as_raw_fd(), link)?;
        #[expect(
            deprecated,
            reason = "sound, since a socket keeps its descriptor; what replaces it is an unsafe function"
        )]
        let socket = AsyncFd::new(socket)?;
        Ok(ArpSocket { socket, index: link.ifindex(), own })
    }

    /// Asks who has the address, without saying that we do.
    pub(super) async fn probe(&self, address: Ipv4Addr) -> io::Result<()> {
        self.tell(Ipv4Addr::UNSPECIFIED, address).await
    }

    /// Tells everybody that the address is here.
    pub(super) async fn announce(&self, address: Ipv4Addr) -> io::Result<()> {
        self.tell(address, address).await
    }

    /// Returns the next who shows that it uses the address.
    pub(super) async fn contender(&self, address: Ipv4Addr) -> io::Result<Hardware> {
        let mut frame = [0; 128];
        loop {
            let mut ready = self.socket.readable().await?;
            let received = ready.try_io(|socket| {
                recvfrom::<LinkAddr>(socket.get_ref().as_raw_fd(), &mut frame).map_err(io::Error::from)
            });
            let Ok(received) = received else { continue };
            let (length, from) = received?;
            // What came in before the socket was bound to its interface is another network's.
            let here = from.is_some_and(|from| from.ifindex() == self.index);
            match frame.get(..length).and_then(Message::parse) {
                Some(message) if here && message.contests(address, self.own) => return Ok(message.sender),
                _ => {}
            }
        }
    }

    async fn tell(&self, claimed: Ipv4Addr, wanted: Ipv4Addr) -> io::Result<()> {
        let frame = Message { sender: self.own, claimed, wanted, request: true }.frame();
        loop {
            let mut ready = self.socket.writable().await?;
            let sent = ready.try_io(|socket| {
                send(socket.get_ref().as_raw_fd(), &frame, MsgFlags::empty()).map_err(io::Error::from)
            });
            if let Ok(sent) = sent {
                return sent.map(drop);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_found_in_its_frame_and_nothing_in_half_of_it() {
        let (own, other) = (Hardware([2, 0, 0, 0, 0, 1]), Hardware([2, 0, 0, 0, 0, 0xfe]));
        assert_eq!(other.to_string(), "02:00:00:00:00:fe");
        let (address, another) = (Ipv4Addr::new(10, 7, 0, 5), Ipv4Addr::new(10, 7, 0, 6));
        let none = Ipv4Addr::UNSPECIFIED;
        for (sender, claimed, wanted, request, contests) in [
            (other, address, another, false, true),
            (other, address, address, true, true),
            (other, none, address, true, true),
            (other, none, another, true, false),
            (other, none, address, false, false),
            (other, another, address, true, false),
            (own, address, address, true, false),
        ] {
            let message = Message { sender, claimed, wanted, request };
            let frame = message.frame();
            assert_eq!(Message::parse(&frame), Some(message));
            assert_eq!(message.contests(address, own), contests, "{message:?}");
            for length in 0..frame.len() {
                assert_eq!(Message::parse(&frame[..length]), None, "{length} bytes");
            }
        }
    }
}
