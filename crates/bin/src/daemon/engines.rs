//! Stopping every engine of a node in order, when no agent is there to do it.

use std::path::Path;
use std::time::{Duration, Instant};

use steadfast_agent::guard::GuardSpec;
use steadfast_agent::guards::{GuardProgram, GuardState, Guards, ProcessGuards};
use steadfast_agent::node_dir::NodeDir;
use steadfast_core::Environment;
use steadfast_core::ids::MemberName;

use crate::exit::{Context as _, Failure, Result};

/// Beyond what the engines are given, for their guards to clean up.
const SLACK: Duration = Duration::from_secs(10);

/// Stops the engines of the node in `folder`, all at once, and waits until nothing of them is left.
pub(crate) async fn stop_all(folder: &Path) -> Result<()> {
    let dir = NodeDir::new(folder);
    let environment = Environment::system(crate::data_dir::random()?);
    let guards = ProcessGuards::new(environment, dir.clone(), GuardProgram::this());
    let mut deadline = Duration::ZERO;
    let mut stopping = Vec::new();
    for (member, _) in guards.list().await? {
        match guards.find(&member).await? {
            GuardState::Absent(_) => {}
            GuardState::Alive(_) => {
                let spec = read_spec(&dir, &member)?;
                guards.stop(&member).await?;
                deadline = deadline.max(Duration::from_millis(spec.stop_grace_ms));
                stopping.push(member);
            }
            // Nobody there to stop it in order.
            GuardState::Silent | GuardState::Orphans => guards.kill(&member).await?,
        }
    }
    let begun = Instant::now();
    for member in stopping {
        while !matches!(guards.find(&member).await?, GuardState::Absent(_)) {
            if begun.elapsed() > deadline + SLACK {
                guards.kill(&member).await?;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

fn read_spec(dir: &NodeDir, member: &MemberName) -> Result<GuardSpec> {
    let path = dir.spec(member);
    let bytes = std::fs::read(&path).context(format!("read {}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::new(format!("read {}: {error}", path.display())))
}
