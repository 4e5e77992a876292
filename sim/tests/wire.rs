//! The API's client and server that ship, in process, with every fault at every request between them; and a model that
//! answers HTTP itself.

mod requests;

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, Response, StatusCode};
use bytes::Bytes;
use requests::{Befallen, each_befallen};
use steadfast_api::auth::Token;
use steadfast_api::client::{Client, ClientConfig};
use steadfast_api::control::OfControl;
use steadfast_api::server::{Parts, router};
use steadfast_api::testing::{self, ADMIN, NoLogs};
use steadfast_core::control::{Control, Guard};
use steadfast_core::controller::{Controller, ControllerConfig};
use steadfast_core::model::{Operation, OperationKind, OperationState};
use steadfast_core::world::{PlainBlueprints, service_file};
use steadfast_sim::cast::{Cast, Model, Seat};
use steadfast_sim::fault::{Class, Fault, Planned};
use steadfast_sim::invariant::Rule;
use steadfast_sim::model::{Fact, Profile};
use steadfast_sim::run::{Outcome, Scenario, run_with};
use steadfast_sim::time::Time;
use steadfast_sim::wire::{Exchange as _, Respond, Servers};
use steadfast_sim::world::State;

/// The API, in front of the store that the run's servers work on.
async fn api(seat: Seat) {
    let (env, store) = (seat.env().clone(), seat.store().clone());
    let server = "api".parse().expect("the name is one");
    let config = ControllerConfig::default();
    // Never started: whoever works on what is asked for here is another process.
    let controller = Controller::new(env.clone(), store.clone(), seat.backends().clone(), server, config);
    let plain = Arc::new(PlainBlueprints);
    let control =
        Control::new(env.clone(), store.clone(), controller, plain.clone(), plain.clone(), plain.clone());
    let parts = Parts {
        cluster: store.cluster().clone(),
        control: Arc::new(OfControl::new(control, plain, Arc::new(NoLogs))),
        ..testing::parts(env.clone(), Arc::clone(store.records().db()))
    };
    let router = router(parts);
    while seat.serve("api", router.clone()).await.is_err() {
        env.clock().sleep(Duration::from_millis(100)).await;
    }
    std::future::pending().await
}

/// A user who wants a service, asks until it is there, and forgets everything but the key when it crashes.
async fn user(seat: Seat) {
    let token = Token::new(ADMIN).expect("the token is a word");
    let mut config = ClientConfig::new(["http://api"], seat.store().cluster().clone(), Some(token));
    config.timeout = Duration::from_secs(5);
    let client = Client::over(seat.env().clone(), config, seat.wire()).expect("the address is one");
    let guard = Guard { idempotency_key: Some("once".to_owned()), if_index: None };
    let done = async || {
        let begun = client.apply(&service_file("orders", 1), &guard).await?;
        client.operation(&begun.id).await.map(|operation| operation.state == OperationState::Succeeded)
    };
    while !matches!(done().await, Ok(true)) {
        seat.env().clock().sleep(Duration::from_secs(1)).await;
    }
}

/// One service is asked for, so one create is on record, and done in the end.
#[derive(Debug)]
struct CreatedOnce;

impl CreatedOnce {
    fn creates(state: &State) -> Vec<Operation> {
        let prefix = "steadfast/sim/operations".parse().expect("the key is one");
        let found = state.cloud.store.scan(&prefix, None, usize::MAX).items.into_iter();
        let operations = found.map(|(_, record)| {
            let envelope: serde_json::Value =
                serde_json::from_slice(&record.value).expect("records are JSON");
            serde_json::from_value::<Operation>(envelope["body"].clone()).expect("it is an operation")
        });
        operations.filter(|operation| operation.kind == OperationKind::Create).collect()
    }
}

impl Rule for CreatedOnce {
    fn id(&self) -> &'static str {
        "created-once"
    }

    fn says(&self) -> &'static str {
        "what is asked for again under its key is done once"
    }

    fn fact(&mut self, _: Time, fact: &Fact, state: &State) -> Result<(), String> {
        if !matches!(fact, Fact::Own { .. }) {
            return Ok(());
        }
        let creates = Self::creates(state);
        if creates.len() > 1 { Err(format!("{creates:?}")) } else { Ok(()) }
    }

    fn end(&mut self, _: Time, state: &State) -> Result<(), String> {
        let creates = Self::creates(state);
        let done = |operation: &Operation| operation.state == OperationState::Succeeded;
        if creates.len() == 1 && creates.iter().all(done) { Ok(()) } else { Err(format!("{creates:?}")) }
    }
}

fn scenario() -> Scenario {
    let mut scenario = Scenario::calm("api", Profile::embedded(), 1);
    scenario.services.clear();
    scenario.nodes = 1;
    scenario.storm_ms = 40_000;
    scenario.heal.stable_ms = 10_000;
    scenario
}

fn carry(scenario: &Scenario) -> Outcome {
    let cast = Cast::new().program("api", api).program("user", user).model(Servers::default);
    run_with(scenario, &cast.rule(|| CreatedOnce)).expect("the names are some")
}

#[test]
fn a_create_over_http_happens_once_whatever_befalls_any_request() {
    let Befallen { fired, differed, .. } = each_befallen(&scenario(), carry);
    assert!(fired > 30 && differed > 20, "{fired} faults, {differed} runs that differ");
}

#[test]
fn a_run_over_http_is_the_same_when_it_is_repeated() {
    let mut faulty = scenario();
    let at = carry(&faulty).sites.iter().find(|site| site.operation == "http.post").unwrap().key(0);
    faulty.plan.faults.push(Planned { at, fault: Class::ResponseLost.strong() });
    let first = carry(&faulty);
    assert_eq!((first.unfired, first.hash), (0, carry(&faulty).hash));
}

/// A counter that is asked over HTTP.
#[derive(Debug, Default)]
struct Counter(u32);

impl Model for Counter {}

impl Respond for Counter {
    fn respond(&mut self, _: Time, request: &Request<Bytes>) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        match request.uri().path() {
            "/count" => self.0 += 1,
            _ => *response.status_mut() = StatusCode::NOT_FOUND,
        }
        response
    }
}

/// Says what its client was answered, by asking for a path with that name.
async fn counting(seat: Seat) {
    let api = seat.api::<Counter>();
    let post =
        |path: &str| Request::post(format!("http://counter{path}")).body(Bytes::new()).expect("it is one");
    let asked = seat.env().timeout(Duration::from_secs(2), api.send(post("/count"))).await;
    let told = match asked {
        Some(Ok(response)) => format!("/told/{}", response.status().as_u16()),
        Some(Err(_)) => "/told/error".to_owned(),
        None => "/told/nothing".to_owned(),
    };
    seat.env().timeout(Duration::from_secs(2), api.send(post(&told))).await;
}

#[test]
fn a_model_that_answers_http_meets_the_faults_of_every_other_call() {
    let run = |fault: Option<Fault>| {
        let mut scenario = Scenario::bare("counter", 1);
        scenario.storm_ms = 20_000;
        let cast = Cast::new().program("client", counting).model(Counter::default);
        let counted = Arc::new(std::sync::Mutex::new(0));
        let calm = run_with(&scenario, &cast).unwrap();
        let site = calm.sites.iter().find(|site| site.resource == "counter/count").unwrap();
        scenario.plan.faults.extend(fault.map(|fault| Planned { at: site.key(0), fault }));
        let seen = Arc::clone(&counted);
        let outcome = run_with(&scenario, &cast.rule(move || Counted(Arc::clone(&seen)))).unwrap();
        let told = outcome.sites.iter().find_map(|site| site.resource.strip_prefix("counter/told/"));
        let counted = *counted.lock().unwrap();
        (counted, told.unwrap().to_owned())
    };
    let expected = |count: u32, told: &str| (count, told.to_owned());
    assert_eq!(run(None), expected(1, "200"));
    assert_eq!(run(Some(Fault::Throttled)), expected(0, "429"));
    assert_eq!(run(Some(Fault::Unavailable)), expected(0, "503"));
    assert_eq!(run(Some(Fault::RequestLost)), expected(0, "nothing"));
    assert_eq!(run(Some(Fault::ResponseLost)), expected(1, "nothing"));
    assert_eq!(run(Some(Fault::LateEffect(5_000))), expected(1, "nothing"));
    assert_eq!(run(Some(Fault::Duplicate(100))), expected(2, "200"));
    assert_eq!(run(Some(Fault::Duplicate(3_000))), expected(2, "nothing"), "its patience is shorter");
}

/// Looks what the counter has come to.
#[derive(Debug)]
struct Counted(Arc<std::sync::Mutex<u32>>);

impl Rule for Counted {
    fn id(&self) -> &'static str {
        "counted"
    }

    fn says(&self) -> &'static str {
        "what the counter shows is looked at"
    }

    fn fact(&mut self, _: Time, _: &Fact, _: &State) -> Result<(), String> {
        Ok(())
    }

    fn end(&mut self, _: Time, state: &State) -> Result<(), String> {
        let counter = state.cloud.own::<Counter>().ok_or("there is no counter")?;
        *self.0.lock().map_err(|error| error.to_string())? = counter.0;
        Ok(())
    }
}
