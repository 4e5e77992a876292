//! The plainest probe: whether a connection is accepted.

use steadfast_core::engine::EngineView;
use tokio::net::TcpStream;

use super::Access;

pub(super) async fn observe(access: &Access) -> EngineView {
    let connected =
        access.within(access.timeout, async { Ok(TcpStream::connect(access.address).await?) }).await.is_ok();
    EngineView { alive: connected, ready: connected, ..EngineView::default() }
}
