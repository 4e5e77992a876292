//! The backends of Steadfast, one feature each. This crate has no code of its own: who names no feature pays for
//! none of them.

#[cfg(feature = "dynamodb")]
pub use steadfast_backend_aws as aws;
#[cfg(feature = "embedded")]
pub use steadfast_backend_embedded as embedded;
#[cfg(feature = "etcd")]
pub use steadfast_backend_etcd as etcd;
#[cfg(feature = "linux")]
pub use steadfast_backend_linux as linux;
#[cfg(feature = "remote")]
pub use steadfast_backend_remote as remote;
#[cfg(feature = "rfc2136")]
pub use steadfast_backend_rfc2136 as rfc2136;
