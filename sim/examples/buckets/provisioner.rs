//! A control plane for buckets: every tenant gets one, at a provider that charges for each.
//!
//! The provider is a model, so a run can say how many buckets there really are; the provisioner is a program, and knows
//! only what it is answered.

use std::collections::BTreeMap;
use std::time::Duration;

use steadfast_core::error::Result;
use steadfast_sim::cast::{Cast, Model, Seat};
use steadfast_sim::invariant::Rule;
use steadfast_sim::model::Fact;
use steadfast_sim::time::Time;
use steadfast_sim::world::{Answer, Ask, State};

const TENANTS: [&str; 3] = ["ada", "ben", "eve"];
const PATIENCE: Duration = Duration::from_secs(5);

/// The provider: its buckets, each with the tenant that it was made for.
#[derive(Debug, Default)]
struct Provider {
    buckets: BTreeMap<u32, String>,
}

impl Model for Provider {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket(u32);

impl Answer for Bucket {}

impl Provider {
    /// A bucket more, whoever asks.
    fn make(&mut self, tenant: &str) -> Bucket {
        let id = u32::try_from(self.buckets.len()).unwrap_or(u32::MAX);
        self.buckets.insert(id, tenant.to_owned());
        Bucket(id)
    }

    /// The bucket with this tag, made if there is none.
    fn ensure(&mut self, tenant: &str) -> Bucket {
        let found = self.buckets.iter().find(|(_, of)| *of == tenant).map(|(id, _)| Bucket(*id));
        found.unwrap_or_else(|| self.make(tenant))
    }
}

/// Nobody pays for two buckets, or goes without one.
#[derive(Debug)]
struct OneBucketEach;

impl OneBucketEach {
    fn counts(state: &State) -> BTreeMap<&str, usize> {
        let made = state.cloud.own::<Provider>().into_iter().flat_map(|provider| provider.buckets.values());
        made.fold(BTreeMap::new(), |mut counts, tenant| {
            *counts.entry(tenant.as_str()).or_default() += 1;
            counts
        })
    }
}

impl Rule for OneBucketEach {
    fn id(&self) -> &'static str {
        "one-bucket-each"
    }

    fn says(&self) -> &'static str {
        "every tenant has one bucket, and never two"
    }

    fn fact(&mut self, _at: Time, _fact: &Fact, state: &State) -> Result<(), String> {
        match Self::counts(state).into_iter().find(|(_, count)| *count > 1) {
            Some((tenant, count)) => Err(format!("{tenant} has {count} buckets")),
            None => Ok(()),
        }
    }

    fn end(&mut self, _at: Time, state: &State) -> Result<(), String> {
        let counts = Self::counts(state);
        match TENANTS.into_iter().find(|tenant| !counts.contains_key(tenant)) {
            Some(tenant) => Err(format!("{tenant} has no bucket")),
            None => Ok(()),
        }
    }
}

/// Gives every tenant a bucket, and writes down which. `careful`: one that may be there already is found again.
async fn provision(seat: Seat, careful: bool) {
    for tenant in TENANTS {
        while provision_one(&seat, tenant, careful).await.is_err() {
            seat.env().clock().sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn provision_one(seat: &Seat, tenant: &'static str, careful: bool) -> Result<()> {
    let records = seat.store().records();
    let key = records.key(["buckets", tenant])?;
    if records.get::<u32>(&key).await?.is_some() {
        return Ok(());
    }
    let ask = Ask { operation: "provider.create", resource: &tenant, writes: true, local: false };
    let making = seat.call(ask, move |provider: &mut Provider, _| {
        Ok(if careful { provider.ensure(tenant) } else { provider.make(tenant) })
    });
    let Bucket(id) = seat.within(PATIENCE, making).await?;
    // Whoever was first has written the same.
    records.create(&key, &id).await.map(drop)
}

/// The provisioner at its provider, under its rule.
pub(crate) fn cast(careful: bool) -> Cast {
    let provisioner = move |seat| provision(seat, careful);
    Cast::new().program("provisioner", provisioner).model(Provider::default).rule(|| OneBucketEach)
}
