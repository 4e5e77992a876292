//! Looking up a name at the embedded DNS server itself, past the machine's own resolver and every cache.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;

use crate::exit::{Context as _, Failure, Result};

/// The addresses of `name`, as the server at `dns` says now. An empty answer is no failure.
pub(crate) async fn addresses(dns: SocketAddr, name: &str) -> Result<Vec<IpAddr>> {
    let tried = || format!("ask {dns} for {name}");
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name).context(tried())?, RecordType::A));
    let bytes = query.to_vec().context(tried())?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.context(tried())?;
    socket.connect(dns).await.context(tried())?;
    socket.send(&bytes).await.context(tried())?;
    let mut buffer = [0_u8; 4096];
    // Within one machine a datagram is there at once or not at all.
    let length = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut buffer))
        .await
        .map_err(|_| Failure::new(format!("{}: no answer within 1s", tried())))?
        .context(tried())?;
    let answer = Message::from_vec(&buffer[..length]).context(tried())?;
    if answer.metadata.id != query.metadata.id {
        return Err(Failure::new(format!("{}: the answer is to another question", tried())));
    }
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        code => return Err(Failure::new(format!("{}: {code}", tried()))),
    }
    Ok(answer
        .answers
        .iter()
        .filter_map(|record| match record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        })
        .collect())
}
