//! PostgreSQL, by the driver that Rust programs use.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;

use tokio::runtime::Runtime;
use tokio_postgres::{Client, Config, NoTls};

use super::engine::{Engine, PATIENCE, Session};

pub const POSTGRESQL: Engine = Engine {
    blueprint: "postgresql",
    port: 5432,
    program: "postgres",
    led_by_us: true,
    precious: "pgdata/global/pg_control",
    open: |address, env| Ok(Box::new(Postgresql::open(address, env)?)),
};

/// A connection, with a runtime of its own.
#[derive(Debug)]
pub struct Postgresql {
    runtime: Runtime,
    client: Client,
}

impl Postgresql {
    pub fn open(address: SocketAddr, env: &BTreeMap<String, String>) -> Result<Postgresql, String> {
        let password = env.get("PGPASSWORD").ok_or("no password is known")?;
        let mut config = Config::new();
        config.host(address.ip().to_string()).port(address.port()).connect_timeout(PATIENCE);
        config.user("postgres").dbname("postgres").password(password);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let connected = async {
            let (client, connection) = limited(config.connect(NoTls)).await?;
            tokio::spawn(connection);
            // A standby answers too; only a primary takes this.
            let make = "CREATE TABLE IF NOT EXISTS numbers (number bigint PRIMARY KEY)";
            limited(client.batch_execute(make)).await?;
            Ok::<_, String>(client)
        };
        let client = runtime.block_on(connected)?;
        Ok(Postgresql { runtime, client })
    }

    /// Runs statements that give nothing back.
    pub fn run(&mut self, sql: &str) -> Result<(), String> {
        self.runtime.block_on(limited(self.client.batch_execute(sql)))
    }

    /// Begins a statement and goes away without waiting for it: the server goes on with it.
    pub fn begin(&mut self, sql: &str) {
        let run = async {
            tokio::time::timeout(std::time::Duration::from_secs(1), self.client.batch_execute(sql)).await
        };
        let ended = self.runtime.block_on(run);
        assert!(ended.is_err(), "{sql} ended at once: {ended:?}");
    }
}

impl Session for Postgresql {
    fn write(&mut self, number: u64) -> Result<(), String> {
        self.run(&format!("INSERT INTO numbers (number) VALUES ({number})"))
    }

    fn read_all(&mut self) -> Result<Vec<u64>, String> {
        let rows = self.client.query("SELECT number FROM numbers", &[]);
        let rows = self.runtime.block_on(limited(rows))?;
        Ok(rows.iter().map(|row| u64::try_from(row.get::<_, i64>(0)).expect("what was written")).collect())
    }
}

async fn limited<T>(call: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(match error.as_db_error() {
            Some(said) => said.to_string(),
            None => error.to_string(),
        }),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}
