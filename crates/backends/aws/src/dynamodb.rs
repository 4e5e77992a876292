//! The metadata store in a [DynamoDB] table: replicated by AWS over a region's zones, shared by any number of servers,
//! and paid by the request.
//!
//! - [`DynamoDb`]: the metadata contract over DynamoDB's API
//! - [`Location`]: where it is, as people write it: `dynamodb://REGION/TABLE/PREFIX`
//! - [`create_table`]: makes the table, once
//!
//! One prefix of a table is one store: all its records lie in one partition, in the order of their keys, so that a prefix
//! is listed by one query, consistently and in order. A partition takes 1,000 KiB of writes and 3,000 × 4 KiB of
//! consistent reads a second.
//!
//! What holds: an acknowledged write survives the loss of a zone. Reads and writes are linearizable within the table's
//! region; a replica of the table in another region is no store. A record's version is drawn at random for each write, so
//! it is never used again, and tells whose write it was: one whose answer was lost is settled by reading it.
//!
//! [DynamoDB]: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/

mod db;
mod failure;
mod location;
mod look;
mod requests;
mod table;

pub use db::{DynamoDb, MAX_VALUE_BYTES};
pub use location::{InvalidLocation, Location};
pub use table::{Capacity, Made, create_table};
