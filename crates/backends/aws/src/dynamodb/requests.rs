//! One table asked by one client: each request once, within a limit on the environment's clock.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use aws_credential_types::provider::ProvideCredentials as _;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use steadfast_core::metadata::{Record, Version};
use steadfast_core::{Environment, Error, ErrorKind, Result};

use super::Location;
use super::failure::{Failure, foreign, without_credentials};
use crate::Sdk;

/// How long DynamoDB gets for one request. With the read that settles a write this is below the time that callers give
/// one attempt.
const LIMIT: Duration = Duration::from_secs(4);
/// How long the search for credentials may take: that of an instance's role is asked for several times.
const CREDENTIALS_LIMIT: Duration = Duration::from_secs(20);

/// The table's attributes. Two of them are its key.
pub(crate) const STORE: &str = "store";
pub(crate) const KEY: &str = "key";
pub(crate) const VERSION: &str = "version";
pub(crate) const VALUE: &str = "value";

pub(crate) type Item = HashMap<String, AttributeValue>;

/// A request that failed: what that means, and the error itself if DynamoDB gave it.
pub(crate) struct Failed<E> {
    pub(crate) failure: Failure,
    pub(crate) error: Option<Box<E>>,
}

/// A client, and what it is asked about.
pub(crate) struct Requests {
    client: Client,
    location: Location,
    environment: Environment,
}

impl Requests {
    /// Nothing is asked of the table yet, but somebody has to be who asks.
    pub(crate) async fn new(sdk: &Sdk, location: Location) -> Result<Self> {
        let config = sdk.config(location.region()).await;
        let requests =
            Requests { client: Client::new(&config), location, environment: sdk.environment().clone() };
        let found = match config.credentials_provider() {
            None => Err("none is configured".to_owned()),
            Some(provider) => {
                match requests.environment.timeout(CREDENTIALS_LIMIT, provider.provide_credentials()).await {
                    Some(found) => found.map(drop).map_err(|error| {
                        std::error::Error::source(&error)
                            .map_or_else(|| error.to_string(), ToString::to_string)
                    }),
                    None => Err(format!("none within {CREDENTIALS_LIMIT:?}")),
                }
            }
        };
        match found {
            Ok(()) => Ok(requests),
            Err(why) => Err(requests.error(without_credentials(&why), "connect", &"the store")),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn location(&self) -> &Location {
        &self.location
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The answer to one request. The SDK's futures are long: they are kept aside.
    pub(crate) fn send<'a, T, E, R>(
        &'a self,
        request: impl Future<Output = Result<T, SdkError<E, R>>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, Failed<E>>>
    where
        T: Send + 'a,
        E: std::error::Error + ProvideErrorMetadata + Send + 'static,
        R: fmt::Debug + Send + 'a,
    {
        let request = request.boxed();
        let answer = async move {
            match self.environment.timeout(LIMIT, request).await {
                None => Err(Failed { failure: Failure::silence(LIMIT), error: None }),
                Some(Ok(answer)) => Ok(answer),
                Some(Err(error)) => {
                    let failure = Failure::of(&error, &self.location);
                    let error = match error {
                        SdkError::ServiceError(service) => Some(Box::new(service.into_err())),
                        _ => None,
                    };
                    Err(Failed { failure, error })
                }
            }
        };
        answer.boxed()
    }

    /// The answer to a request that changes nothing.
    pub(crate) fn read<'a, T, E, R>(
        &'a self,
        operation: &'static str,
        subject: &'a (dyn fmt::Display + Sync),
        request: impl Future<Output = Result<T, SdkError<E, R>>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T>>
    where
        T: Send + 'a,
        E: std::error::Error + ProvideErrorMetadata + Send + 'static,
        R: fmt::Debug + Send + 'a,
    {
        let answer = self.send(request);
        let answer = answer.map(move |answer| {
            answer.map_err(|failed| self.error(failed.failure, operation, subject).without_effect())
        });
        answer.boxed()
    }

    /// The item of a partition at a key, as every acknowledged write has left it.
    pub(crate) async fn item(
        &self,
        operation: &'static str,
        subject: &(dyn fmt::Display + Sync),
        partition: &str,
        key: &str,
    ) -> Result<Option<Item>> {
        let request = self.client.get_item().table_name(self.location.table()).consistent_read(true);
        let request = request.key(STORE, text(partition)).key(KEY, text(key));
        Ok(self.read(operation, subject, request.send()).await?.item)
    }

    /// What an item of a store holds.
    pub(crate) fn record(
        &self,
        operation: &'static str,
        subject: &(dyn fmt::Display + Sync),
        item: &mut Item,
    ) -> Result<Record> {
        match (item.remove(VERSION), item.remove(VALUE)) {
            (Some(AttributeValue::S(version)), Some(AttributeValue::B(value))) => {
                Ok(Record { version: Version::new(version), value: Bytes::from(value.into_inner()) })
            }
            _ => Err(self.error(
                Failure::refused(
                    ErrorKind::Corrupt,
                    format!(
                        "an item without version and value: something else writes there{}",
                        foreign(&self.location)
                    ),
                ),
                operation,
                subject,
            )),
        }
    }

    pub(crate) fn error(
        &self,
        failure: Failure,
        operation: &'static str,
        subject: &(dyn fmt::Display + Sync),
    ) -> Error {
        let error = Error::new(failure.kind, self, operation, subject, failure.message);
        if failure.may_have_happened { error } else { error.without_effect() }
    }
}

/// A text as an attribute.
pub(crate) fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

impl fmt::Display for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store at {}", self.location)
    }
}
