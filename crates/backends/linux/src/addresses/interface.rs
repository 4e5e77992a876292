//! A network interface of this machine, and the members' addresses on it.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io;
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use nix::ifaddrs::getifaddrs;
use nix::libc::{ARPHRD_ETHER, EACCES, EADDRNOTAVAIL, EEXIST, ENODEV, EPERM};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::LinkAddr;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use steadfast_core::{Environment, Error, ErrorKind, Result};

use super::arp::Hardware;

/// What the addresses that are put on an interface here are labelled with: others are not ours to remove.
const LABEL: &str = ":sf";
/// The longest label, and so the longest name of an interface and ours.
const LONGEST_LABEL: usize = 15;
/// A member's address stands for itself alone: the way to the network is that of the machine's own address.
const PREFIX: u8 = 32;

/// An interface by its name.
#[derive(Debug, Clone)]
pub(super) struct Interface {
    name: String,
    netlink: rtnetlink::Handle,
}

/// What is seen of an interface at one look.
#[derive(Debug)]
pub(super) struct View {
    pub(super) link: LinkAddr,
    pub(super) hardware: Hardware,
    /// The addresses that were put there for members.
    pub(super) ours: BTreeSet<Ipv4Addr>,
    /// The machine's own, with the masks of their networks.
    pub(super) others: Vec<(Ipv4Addr, Ipv4Addr)>,
}

impl View {
    /// Whether neighbours on the interface ask for the address there, rather than send it to a router.
    pub(super) fn is_on_link(&self, address: Ipv4Addr) -> bool {
        self.others.iter().any(|(own, mask)| *mask != Ipv4Addr::BROADCAST && *own & *mask == address & *mask)
    }
}

impl Interface {
    /// The interface of this name. It need not be there yet.
    ///
    /// # Errors
    /// `Invalid` if the name is too long for the label of the members' addresses.
    pub(super) fn open(name: &str, environment: &Environment) -> Result<Self> {
        if name.is_empty() || name.len() + LABEL.len() > LONGEST_LABEL {
            let most = LONGEST_LABEL - LABEL.len();
            let message = format!("network.interface: give the name of an interface, at most {most} letters");
            return Err(failure(name, ErrorKind::Invalid, "open", name, message).without_effect());
        }
        let (connection, netlink, _) = rtnetlink::new_connection()
            .map_err(|error| io_failure(name, "open", name, error).without_effect())?;
        environment.tasks().spawn("netlink", connection);
        Ok(Interface { name: name.to_owned(), netlink })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Says that the interface's addresses are ours alone to put in line, for as long as what it gives lives.
    ///
    /// It is a name in the network namespace, which the kernel frees with the process.
    ///
    /// # Errors
    /// `Busy` if another process has said so.
    pub(super) fn keep_alone(&self) -> Result<UnixListener> {
        let name = format!("steadfast/addresses/{}", self.name);
        let taken = SocketAddr::from_abstract_name(name).and_then(|name| UnixListener::bind_addr(&name));
        taken.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                let message =
                    "another agent of this machine has its addresses there: run one node on a machine";
                failure(&self.name, ErrorKind::Busy, "keep", &self.name, message).without_effect()
            }
            _ => io_failure(&self.name, "keep", &self.name, error).without_effect(),
        })
    }

    /// What is there now.
    ///
    /// # Errors
    /// `Invalid` if there is no such interface, or it is no Ethernet; `Unavailable` if it is down.
    pub(super) fn look(&self) -> Result<View> {
        let refuse = |kind, message: String| {
            Err(failure(&self.name, kind, "look at", &self.name, message).without_effect())
        };
        let all = getifaddrs()
            .map_err(|errno| io_failure(&self.name, "look at", &self.name, errno.into()).without_effect())?;
        let label = format!("{}{LABEL}", self.name);
        let (mut link, mut names) = (None, BTreeSet::new());
        let (mut ours, mut others) = (BTreeSet::new(), Vec::new());
        for found in all {
            let (Some(address), is_label) = (found.address, found.interface_name == label) else { continue };
            if let Some(address) = address.as_link_addr() {
                names.insert(found.interface_name.clone());
                if found.interface_name == self.name {
                    link = Some((*address, found.flags));
                }
            } else if let Some(address) = address.as_sockaddr_in().map(|address| address.ip()) {
                let mask = found.netmask.and_then(|mask| mask.as_sockaddr_in().map(|mask| mask.ip()));
                if is_label {
                    ours.insert(address);
                } else if found.interface_name.split(':').next() == Some(self.name.as_str()) {
                    others.push((address, mask.unwrap_or(Ipv4Addr::BROADCAST)));
                }
            }
        }
        let Some((link, flags)) = link else {
            let names: Vec<_> = names.into_iter().collect();
            let names = names.join(", ");
            return refuse(
                ErrorKind::Invalid,
                format!("network.interface: this machine has no interface of that name; it has {names}"),
            );
        };
        let Some(hardware) = link.addr().filter(|_| link.hatype() == ARPHRD_ETHER) else {
            return refuse(
                ErrorKind::Invalid,
                "network.interface: it is no Ethernet, and nobody would find addresses on it".to_owned(),
            );
        };
        if !flags.contains(InterfaceFlags::IFF_UP) {
            return refuse(ErrorKind::Unavailable, format!("it is down: ip link set {} up", self.name));
        }
        Ok(View { link, hardware: Hardware(hardware), ours, others })
    }

    /// Puts a member's address on the interface; done already is success.
    pub(super) async fn add(&self, view: &View, address: Ipv4Addr) -> Result<()> {
        let mut request = self.netlink.address().add(self.index(view)?, address.into(), PREFIX);
        request.message_mut().attributes.push(self.label());
        self.outcome("assign", address, request.execute().await, EEXIST)
    }

    /// Takes a member's address off the interface; gone already is success.
    pub(super) async fn remove(&self, view: &View, address: Ipv4Addr) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = rtnetlink::packet_route::AddressFamily::Inet;
        message.header.prefix_len = PREFIX;
        message.header.index = self.index(view)?;
        message.attributes = vec![AddressAttribute::Local(address.into()), self.label()];
        self.outcome("unassign", address, self.netlink.address().del(message).execute().await, EADDRNOTAVAIL)
    }

    fn label(&self) -> AddressAttribute {
        AddressAttribute::Label(format!("{}{LABEL}", self.name))
    }

    fn index(&self, view: &View) -> Result<u32> {
        u32::try_from(view.link.ifindex()).map_err(|error| {
            failure(&self.name, ErrorKind::Internal, "look at", &self.name, error).without_effect()
        })
    }

    /// What came of a request; `done` is the number by which the kernel says that nothing was to be done.
    fn outcome(
        &self,
        operation: &'static str,
        address: Ipv4Addr,
        result: Result<(), rtnetlink::Error>,
        done: i32,
    ) -> Result<()> {
        match result {
            Ok(()) => Ok(()),
            Err(rtnetlink::Error::NetlinkError(answer)) => match answer.to_io() {
                error if error.raw_os_error() == Some(done) => Ok(()),
                // The kernel has answered, and has done nothing.
                error => Err(io_failure(&self.name, operation, address, error).without_effect()),
            },
            Err(error) => Err(failure(
                &self.name,
                ErrorKind::Unavailable,
                operation,
                address,
                "the kernel was asked and has not answered",
            )
            .with_source(error)),
        }
    }
}

/// A failure of the interface `name`.
pub(super) fn failure(
    name: &str,
    kind: ErrorKind,
    operation: &'static str,
    subject: impl Display,
    message: impl Display,
) -> Error {
    Error::new(kind, format_args!("interface {name}"), operation, subject, message)
}

/// What an error of the system means to the caller. The effect is unknown: whoever knows better says so.
pub(super) fn io_failure(
    name: &str,
    operation: &'static str,
    subject: impl Display,
    error: io::Error,
) -> Error {
    let (kind, message) = match error.raw_os_error() {
        Some(EPERM | EACCES) => (
            ErrorKind::Denied,
            "adding addresses needs root, or the capabilities CAP_NET_ADMIN and CAP_NET_RAW".to_owned(),
        ),
        Some(ENODEV) => {
            (ErrorKind::Invalid, "network.interface: this machine has no interface of that name".to_owned())
        }
        _ => (ErrorKind::Unavailable, error.to_string()),
    };
    failure(name, kind, operation, subject, message).with_source(error)
}
