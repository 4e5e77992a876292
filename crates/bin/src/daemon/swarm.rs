//! The Docker Swarm that runs the engines of a cluster.

use std::path::Path;
use std::sync::Arc;

use steadfast_core::Environment;
use steadfast_core::orchestrator::Orchestrator;
use steadfast_core::store::Store;

use crate::config::{ClusterConfig, SwarmConfig};
use crate::exit::Result;

#[cfg(feature = "swarm")]
mod built {
    use std::fs;
    use std::time::Duration;

    use steadfast_agent::host::Starter;
    use steadfast_core::ids::ZoneName;
    use steadfast_orchestrators::swarm::{Engine, SwarmOptions, SwarmOrchestrator};

    use super::*;
    use crate::daemon::volume_plugin;
    use crate::data_dir::write_whole;
    use crate::exit::{Context as _, Failure};

    /// How often it is looked whether the engine is there, and whether it has been started anew and has forgotten its
    /// drivers.
    const ROUND: Duration = Duration::from_secs(2);

    /// Has the swarm run what `agents` are told.
    pub(in crate::daemon) fn over(
        agents: Arc<dyn Orchestrator>,
        config: &ClusterConfig,
        swarm: &SwarmConfig,
        store: &Store,
        environment: &Environment,
    ) -> Result<Arc<dyn Orchestrator>> {
        let options = SwarmOptions {
            cluster: config.cluster.clone(),
            images: swarm.images.clone(),
            driver: volume_plugin::DRIVER.to_owned(),
            members: volume_plugin::members(&config.cluster),
        };
        let engine = Engine::at(environment.clone(), &swarm.engine);
        Ok(Arc::new(SwarmOrchestrator::new(environment.clone(), store.clone(), engine, options, agents)))
    }

    /// The zone that the label `zone` of this machine's node says, in the swarm or at its engine. It is kept in the file
    /// `kept`, for an agent that starts while its engine is away: members have to go on then.
    pub(in crate::daemon) async fn zone(
        swarm: &SwarmConfig,
        environment: &Environment,
        kept: &Path,
    ) -> Result<ZoneName> {
        let remedy = "docker node update --label-add zone=ZONE NODE; or give --zone";
        let said = match Engine::at(environment.clone(), &swarm.engine).label("zone").await {
            Ok(Some(said)) => said,
            Ok(None) => {
                let text = "--zone: the swarm's node has no label `zone`, nor has its engine";
                return Err(Failure::usage(text, remedy));
            }
            Err(error) => fs::read_to_string(kept).map_err(|_none| {
                Failure::new(format!("--zone: the node's zone is not known: {error}")).remedy(remedy)
            })?,
        };
        let zone = said.parse().map_err(|error| {
            let text = format!("--zone: the label `zone` of the swarm's node is {said:?}: {error}");
            Failure::usage(text, remedy)
        })?;
        write_whole(kept, said.as_bytes(), 0o644).context(format!("write {}", kept.display()))?;
        Ok(zone)
    }

    /// Keeps this machine's engine knowing the plugin, for as long as the agent runs, and the agent knowing whether it
    /// is there.
    pub(in crate::daemon) fn advertise(
        swarm: &SwarmConfig,
        environment: &Environment,
    ) -> Result<Arc<Starter>> {
        let starter = Arc::new(Starter::new("its engine of Docker"));
        let told = Arc::clone(&starter);
        let engine = Engine::at(environment.clone(), &swarm.engine);
        let environment = environment.clone();
        let tasks = environment.tasks().clone();
        let until = tasks.shutdown();
        tasks.spawn("volume driver", async move {
            while !until.is_requested() {
                let trouble = engine.trouble().await;
                let answers = trouble.is_none();
                starter.note(trouble);
                if answers && let Err(error) = engine.advertise(volume_plugin::DRIVER).await {
                    tracing::debug!(error = %error.chain(), "the engine of Docker does not load the driver");
                }
                tokio::select! {
                    () = until.requested() => {}
                    () = environment.clock().sleep(ROUND) => {}
                }
            }
        });
        Ok(told)
    }
}

#[cfg(not(feature = "swarm"))]
mod built {
    use steadfast_agent::host::Starter;
    use steadfast_core::ids::ZoneName;

    use super::*;
    use crate::exit::Failure;

    fn refused() -> Failure {
        Failure::new("swarm: this build has no Docker Swarm").remedy("build it with --features swarm")
    }

    pub(in crate::daemon) fn over(
        _agents: Arc<dyn Orchestrator>,
        _config: &ClusterConfig,
        _swarm: &SwarmConfig,
        _store: &Store,
        _environment: &Environment,
    ) -> Result<Arc<dyn Orchestrator>> {
        Err(refused())
    }

    #[expect(clippy::unused_async, reason = "the other build asks the engine")]
    pub(in crate::daemon) async fn zone(_: &SwarmConfig, _: &Environment, _: &Path) -> Result<ZoneName> {
        Err(refused())
    }

    pub(in crate::daemon) fn advertise(_: &SwarmConfig, _: &Environment) -> Result<Arc<Starter>> {
        Err(refused())
    }
}

pub(super) use built::{advertise, over, zone};

#[cfg(all(test, feature = "swarm"))]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    #[test]
    fn while_its_engine_is_away_a_node_has_the_zone_that_it_had() {
        let folder = tempfile::tempdir().unwrap();
        let swarm = SwarmConfig { images: BTreeMap::new(), engine: folder.path().join("docker.sock") };
        let kept = folder.path().join("zone");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let asked = || runtime.block_on(zone(&swarm, &Environment::system([7; 32]), &kept));
        let unknown = asked().unwrap_err();
        assert!(
            unknown.message.starts_with("--zone: ") && unknown.message.contains("docker.sock"),
            "{unknown}"
        );
        assert!(unknown.remedy.unwrap().contains("--label-add zone="));

        fs::write(&kept, "a").unwrap();
        assert_eq!(asked().unwrap().as_str(), "a");
        fs::write(&kept, "No Zone").unwrap();
        let wrong = asked().unwrap_err();
        assert!(wrong.message.contains("\"No Zone\""), "{wrong}");
    }
}
