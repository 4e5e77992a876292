//! The seams of the SDK: what it would take from the system, taken from the environment.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::rt::sleep::{AsyncSleep, Sleep};
use aws_smithy_async::time::TimeSource;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_smithy_types::retry::RetryConfig;
use futures::future::BoxFuture;
use steadfast_core::Environment;
use steadfast_core::runtime::Clock;

/// How Amazon Web Services are reached, and as whom. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Sdk {
    environment: Environment,
    http: SharedHttpClient,
    endpoint: Option<String>,
    credentials: Option<SharedCredentialsProvider>,
}

impl Sdk {
    /// Over HTTPS, with the system's certificates, as whoever this process is on AWS: the variables `AWS_*`, the files
    /// in `~/.aws`, or the role of the container or the instance. `AWS_ENDPOINT_URL` and its likes are heeded, too.
    pub fn new(environment: Environment) -> Self {
        let tls = Provider::Rustls(CryptoMode::Ring);
        let http = aws_smithy_http_client::Builder::new().tls_provider(tls).build_https();
        Sdk { environment, http, endpoint: None, credentials: None }
    }

    /// The same by way of another HTTP client: a proxy's, or a model's.
    #[must_use]
    pub fn with_http(mut self, http: SharedHttpClient) -> Self {
        self.http = http;
        self
    }

    /// The same at another place than the region's own: an interface endpoint, or an emulator.
    #[must_use]
    pub fn with_endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// The same as somebody else.
    #[must_use]
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(SharedCredentialsProvider::new(credentials));
        self
    }

    /// Where time and randomness come from.
    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// What a client is made from. Nothing is asked of AWS yet, except for what a profile's file or a role needs.
    ///
    /// The SDK repeats nothing and ends nothing early: what may be asked again is decided where it is known what was
    /// asked, and how long it may take by who waits.
    pub(crate) async fn config(&self, region: &str) -> SdkConfig {
        let timer = Timer(Arc::clone(self.environment.clock()));
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .http_client(self.http.clone())
            .sleep_impl(timer.clone())
            .time_source(timer)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(credentials) = &self.credentials {
            loader = loader.credentials_provider(credentials.clone());
        }
        if let Some(endpoint) = &self.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        loader.load().await
    }
}

impl fmt::Debug for Sdk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sdk").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// The environment's clock as the SDK asks for time.
#[derive(Debug, Clone)]
struct Timer(Arc<dyn Clock>);

impl AsyncSleep for Timer {
    fn sleep(&self, duration: std::time::Duration) -> Sleep {
        let clock = Arc::clone(&self.0);
        Sleep::new(Exclusive(Mutex::new(Box::pin(async move { clock.sleep(duration).await }))))
    }
}

impl TimeSource for Timer {
    fn now(&self) -> SystemTime {
        self.0.wall().into()
    }
}

/// A future that may be shared, since only who owns it can poll it.
struct Exclusive(Mutex<BoxFuture<'static, ()>>);

impl Future for Exclusive {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(context)
    }
}
