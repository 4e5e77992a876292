//! Asking the cluster's DNS server, past the machine's own resolver and every cache.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

/// The addresses of `name`, as the server says now.
pub fn addresses(server: SocketAddr, name: &str) -> Result<Vec<IpAddr>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("ask {server} for {name}: {error}");
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name).map_err(|error| failed(&error))?, RecordType::A));
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| failed(&error))?;
    socket.set_read_timeout(Some(Duration::from_secs(1))).map_err(|error| failed(&error))?;
    socket.connect(server).map_err(|error| failed(&error))?;
    socket.send(&query.to_vec().map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).map_err(|error| failed(&error))?;
    let answer = Message::from_vec(&buffer[..length]).map_err(|error| failed(&error))?;
    match answer.metadata.response_code {
        ResponseCode::NoError => {}
        code => return Err(failed(&code)),
    }
    Ok(answer
        .answers
        .iter()
        .filter_map(|record| match record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            _ => None,
        })
        .collect())
}
