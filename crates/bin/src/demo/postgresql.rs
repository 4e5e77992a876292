//! PostgreSQL: one `INSERT`, committed by itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls};

use super::session::{PATIENCE, Session};

/// A connection to a primary.
#[derive(Debug)]
pub(super) struct PostgresqlSession {
    client: Client,
    connection: JoinHandle<()>,
}

impl PostgresqlSession {
    pub(super) async fn open(address: SocketAddr, env: &BTreeMap<String, String>) -> Result<Self, String> {
        let of = |name: &str| env.get(name).map(String::as_str);
        let mut config = Config::new();
        config
            .host(address.ip().to_string())
            .port(address.port())
            .user(of("PGUSER").unwrap_or("postgres"))
            .dbname(of("PGDATABASE").unwrap_or("postgres"))
            .application_name("steadfast-demo")
            .connect_timeout(PATIENCE);
        if let Some(password) = of("PGPASSWORD") {
            config.password(password);
        }
        let (client, connection) = limited("connect", config.connect(NoTls)).await?;
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                // Whoever waits for an answer gets the error too.
                tracing::debug!(%error, "the connection ended");
            }
        });
        let session = PostgresqlSession { client, connection };
        // A standby answers too; only the primary takes writes.
        let make = "CREATE TABLE IF NOT EXISTS steadfast_demo (number bigint PRIMARY KEY)";
        limited("CREATE TABLE", session.client.batch_execute(make)).await?;
        Ok(session)
    }
}

impl Drop for PostgresqlSession {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

#[async_trait]
impl Session for PostgresqlSession {
    async fn write(&mut self, number: u64) -> Result<(), String> {
        let number = i64::try_from(number).map_err(|error| error.to_string())?;
        let insert = "INSERT INTO steadfast_demo (number) VALUES ($1)";
        limited("INSERT", self.client.execute(insert, &[&number])).await.map(drop)
    }

    async fn read_all(&mut self) -> Result<Vec<u64>, String> {
        let rows = limited("SELECT", self.client.query("SELECT number FROM steadfast_demo", &[])).await?;
        rows.iter()
            .map(|row| {
                let number: i64 = row.try_get(0).map_err(|error| error.to_string())?;
                u64::try_from(number).map_err(|error| error.to_string())
            })
            .collect()
    }
}

async fn limited<T>(
    what: &str,
    call: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            Err(format!("{what}: {error}{cause}"))
        }
        Err(_) => Err(format!("{what}: no answer within {PATIENCE:?}")),
    }
}
