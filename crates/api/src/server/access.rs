//! What a caller must be allowed: the first argument of every handler that is not open to all.

use axum::extract::FromRequestParts;
use axum::http::request::Parts as RequestParts;

use super::{Refusal, Shared};
use crate::auth::Principal;
use crate::problem::{Code, Problem};

/// May look at everything but secrets.
#[derive(Debug)]
pub(crate) struct CanRead;

/// May change things and see secrets.
#[derive(Debug)]
pub(crate) struct CanChange;

/// May use the store, within the rights of the principal.
#[derive(Debug)]
pub(crate) struct CanStore(pub(crate) Principal);

/// May look at the server's own state.
#[derive(Debug)]
pub(crate) struct CanInspect;

fn caller(parts: &RequestParts) -> Result<&Principal, Refusal> {
    parts.extensions.get::<Principal>().ok_or_else(|| {
        Problem::new(Code::TokenMissing, "the request has no token")
            .in_field("authorization")
            .remedy("send the header `Authorization: Bearer TOKEN`")
            .into()
    })
}

fn refused(caller: &Principal, what: &str) -> Refusal {
    Problem::new(Code::PermissionDenied, format!("the token of {caller} may not {what}"))
        .remedy("use a token that may, such as an admin's")
        .into()
}

impl FromRequestParts<Shared> for CanRead {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut RequestParts, _: &Shared) -> Result<Self, Refusal> {
        match caller(parts)? {
            Principal::Admin | Principal::Reader => Ok(CanRead),
            other @ (Principal::Node(_) | Principal::Server) => Err(refused(other, "look at this")),
        }
    }
}

impl FromRequestParts<Shared> for CanChange {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut RequestParts, _: &Shared) -> Result<Self, Refusal> {
        match caller(parts)? {
            Principal::Admin => Ok(CanChange),
            other @ (Principal::Reader | Principal::Node(_) | Principal::Server) => {
                Err(refused(other, "change this or see secrets"))
            }
        }
    }
}

impl FromRequestParts<Shared> for CanStore {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut RequestParts, _: &Shared) -> Result<Self, Refusal> {
        match caller(parts)? {
            principal @ (Principal::Node(_) | Principal::Server) => Ok(CanStore(principal.clone())),
            other @ (Principal::Admin | Principal::Reader) => {
                Err(refused(other, "use the store, which is for agents and servers"))
            }
        }
    }
}

impl FromRequestParts<Shared> for CanInspect {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut RequestParts, _: &Shared) -> Result<Self, Refusal> {
        match caller(parts)? {
            Principal::Admin | Principal::Reader | Principal::Server => Ok(CanInspect),
            other @ Principal::Node(_) => Err(refused(other, "inspect the server")),
        }
    }
}
