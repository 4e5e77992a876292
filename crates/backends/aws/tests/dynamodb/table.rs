//! The table, and who may use it: what is wrong is refused with what to do, and nothing is left half-done.

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use aws_sdk_dynamodb::{Client, Config};
use steadfast_backend_aws::Sdk;
use steadfast_backend_aws::dynamodb::{Capacity, DynamoDb, Location, Made, create_table};
use steadfast_core::{Effect, Environment, ErrorKind};

use crate::emulator::Emulator;
use crate::emulator::door::Befall;
use crate::{location, sdk, store};

/// Somebody else's client.
async fn client(emulator: &Emulator) -> Client {
    let config = Config::builder()
        .behavior_version(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new("eu-central-1"))
        .endpoint_url(emulator.url())
        .credentials_provider(aws_credential_types::Credentials::new("test", "test", None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    Client::from_conf(config.build())
}

async fn make(client: &Client, hash: &str, range: &str) {
    let attribute = |name: &str| {
        let attribute = AttributeDefinition::builder().attribute_name(name);
        attribute.attribute_type(ScalarAttributeType::S).build().unwrap()
    };
    let part =
        |name: &str, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap();
    let request = client.create_table().table_name("steadfast").billing_mode(BillingMode::PayPerRequest);
    let request = request.attribute_definitions(attribute(hash)).attribute_definitions(attribute(range));
    let request = request.key_schema(part(hash, KeyType::Hash)).key_schema(part(range, KeyType::Range));
    request.send().await.unwrap();
}

#[tokio::test]
async fn a_table_is_made_once_and_what_was_left_half_made_is_finished() {
    let emulator = Emulator::start();
    let create = || async { create_table(&sdk(&emulator), location(), Capacity::OnDemand).await };
    // The table is made, and the answer says it is not; then what marks it as ours is lost.
    emulator.door().befall("CreateTable", 0, Befall::FailAfter(500, "InternalServerError", "internal"));
    emulator.door().befall("PutItem", 0, Befall::LoseRequest);
    let error = create().await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error:?}");
    let error = DynamoDb::connect(&sdk(&emulator), location()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert!(error.message().contains("half-made"), "{error:?}");
    assert_eq!(create().await.unwrap(), Made::Now);
    assert_eq!(create().await.unwrap(), Made::Before);
    assert_eq!(emulator.door().counts()["CreateTable"], 1);
    DynamoDb::connect(&sdk(&emulator), location()).await.unwrap();
    let table = client(&emulator).await.describe_table().table_name("steadfast").send().await.unwrap();
    assert_eq!(table.table().unwrap().deletion_protection_enabled(), Some(true));
}

#[tokio::test]
async fn a_table_of_somebody_else_is_refused_and_left_as_it_is() {
    for (hash, range, items) in [("id", "at", 0), ("store", "key", 1)] {
        let emulator = Emulator::start();
        let client = client(&emulator).await;
        make(&client, hash, range).await;
        for n in 0..items {
            let text = |text: &str| AttributeValue::S(text.to_owned());
            let request = client.put_item().table_name("steadfast").item(hash, text("theirs"));
            request.item(range, text(&format!("{n}"))).send().await.unwrap();
        }
        let error = create_table(&sdk(&emulator), location(), Capacity::OnDemand).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Invalid, Effect::None), "{error:?}");
        assert!(error.message().contains("is not one of ours"), "{error:?}");
        let error = DynamoDb::connect(&sdk(&emulator), location()).await.unwrap_err();
        assert!(error.message().contains("is not one of ours"), "{error:?}");
        let left = client.scan().table_name("steadfast").send().await.unwrap();
        assert_eq!(left.count(), items);
    }
}

#[tokio::test]
async fn a_newer_format_is_for_a_newer_version() {
    let (emulator, _db) = store().await;
    let request = client(&emulator).await.put_item().table_name("steadfast");
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let request = request.item("store", text("steadfast")).item("key", text("steadfast"));
    request.item("format", AttributeValue::N("2".to_owned())).send().await.unwrap();
    let error = DynamoDb::connect(&sdk(&emulator), location()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert!(error.message().contains("format 2") && error.message().contains("newer version"), "{error:?}");
}

#[tokio::test]
async fn a_missing_table_or_a_wrong_region_is_told_with_the_verb_that_makes_it() {
    let (emulator, _db) = store().await;
    for elsewhere in ["dynamodb://eu-central-1/another/lab", "dynamodb://us-east-2/steadfast"] {
        let location: Location = elsewhere.parse().unwrap();
        let error = DynamoDb::connect(&sdk(&emulator), location).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::NotFound, Effect::None), "{error:?}");
        assert!(error.message().contains(&format!("steadfast store create {elsewhere}")), "{error:?}");
    }
}

#[tokio::test]
async fn who_may_not_is_told_what_to_allow() {
    let (emulator, _db) = store().await;
    for (code, named) in [
        ("AccessDeniedException", "dynamodb:GetItem, PutItem, DeleteItem and Query"),
        ("ExpiredTokenException", "log in again"),
        ("UnrecognizedClientException", "credentials are wrong"),
        ("InvalidSignatureException", "clock"),
    ] {
        emulator.door().befall("GetItem", 0, Befall::Refuse(400, code, "no"));
        let error = DynamoDb::connect(&sdk(&emulator), location()).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Denied, Effect::None), "{error:?}");
        assert!(error.message().contains(named), "{error:?}");
    }
    emulator.door().befall("DescribeTable", 0, Befall::Refuse(400, "AccessDeniedException", "no"));
    let error = create_table(&sdk(&emulator), location(), Capacity::OnDemand).await.unwrap_err();
    assert!(error.message().contains("dynamodb:CreateTable, DescribeTable and Scan"), "{error:?}");
}

#[tokio::test]
async fn nobody_answers() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let somebody = aws_credential_types::Credentials::new("test", "test", None, None, "test");
    let sdk = Sdk::new(Environment::system([200; 32])).with_endpoint(format!("http://{closed}"));
    let error = DynamoDb::connect(&sdk.with_credentials(somebody), location()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error:?}");
    assert!(
        error.message().contains("cannot connect") && error.message().contains("eu-central-1"),
        "{error:?}"
    );
}
