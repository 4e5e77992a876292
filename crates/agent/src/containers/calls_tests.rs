//! Every call of the protocol in every order and repetition that an engine of Docker can produce, as a table.

use Act::{Agents, Ask, Forsake, Guard, Offer, Say, Withdraw};
use Answer::{Done, Folder, Is, Listed, Nowhere, Refused};

use super::*;

/// What happens to `orders-0`, of the service `orders`. There is no other member.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// The agent has made it ready, and waits for a container.
    Offer,
    /// It waits no more.
    Withdraw,
    /// The guard of a container comes up, or ends.
    Guard(bool),
    /// The agent is killed, and there is another one.
    Agents,
    /// A call with the volume's name, the caller's identifier, and the service as its option.
    Ask(&'static str, &'static str, Answer),
    /// A call with this body.
    Say(&'static str, &'static [u8], Answer),
    /// A `Mount` by this caller, which is dead before there is an answer.
    Forsake(&'static str),
}

/// What the engine is told.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// Nothing more.
    Done,
    /// This.
    Is(&'static str),
    /// The folder of the member.
    Folder,
    /// That it is mounted nowhere.
    Nowhere,
    /// These volumes.
    Listed(&'static [&'static str]),
    /// A refusal with this text.
    Refused(&'static str),
}

const ANOTHERS: Answer = Refused("another container has orders-0 on node-1");
const NOT_READY: Answer = Refused("orders-0 is not placed on node-1");
const NO_MEMBER: Answer = Refused("is no member");
const GLOBAL: Answer = Is(r#"{"Capabilities":{"Scope":"global"}}"#);

const ROWS: &[(&str, &[Act])] = &[
    (
        "an engine starts: it asks for what there is, again and again",
        &[
            Say("Plugin.Activate", b"", Is(r#"{"Implements":["VolumeDriver"]}"#)),
            Say("VolumeDriver.Capabilities", b"{}\n", GLOBAL),
            Say("VolumeDriver.List", b"{}\n", Listed(&[])),
            Say("Plugin.Activate", b"", Is(r#"{"Implements":["VolumeDriver"]}"#)),
            Say("VolumeDriver.Capabilities", b"", GLOBAL),
        ],
    ),
    (
        "created, and created again, by each engine and after each of its starts",
        &[
            Ask("Create", "", Done),
            Ask("Create", "", Done),
            Agents,
            Ask("Create", "", Done),
            Say("VolumeDriver.Create", br#"{"Name":"orders-0","Opts":null}"#, Done),
            Ask("Get", "", Nowhere),
            Ask("List", "", Listed(&["orders-0"])),
        ],
    ),
    (
        "created without a word of its service",
        &[
            Say("VolumeDriver.Create", br#"{"Name":"orders-0","Opts":null}"#, Refused("option service")),
            Say("VolumeDriver.Create", br#"{"Name":"orders-0","Opts":{}}"#, Refused("option service")),
            Ask("List", "", Listed(&[])),
        ],
    ),
    (
        "created as a member of another service, or of none",
        &[
            Say(
                "VolumeDriver.Create",
                br#"{"Name":"orders-0","Opts":{"service":"cache"}}"#,
                Refused("service cache has no member orders-0"),
            ),
            Say("VolumeDriver.Create", br#"{"Name":"orders-0","Opts":{"service":"a/b"}}"#, Refused("a/b")),
            Ask("Get", "", Refused("no such volume")),
        ],
    ),
    (
        "W-11: a container more than its service has members",
        &[
            Say(
                "VolumeDriver.Create",
                br#"{"Name":"orders-7","Opts":{"service":"orders"}}"#,
                Refused("service orders has no member orders-7"),
            ),
            Say("VolumeDriver.Mount", br#"{"Name":"orders-7","ID":"a"}"#, Refused("orders-7 is not placed")),
        ],
    ),
    (
        "asked for what it does not know",
        &[
            Ask("Get", "", Refused("no such volume: orders-0")),
            Ask("Path", "", Refused("no such volume: orders-0")),
            Ask("Unmount", "a", Done),
            Ask("Remove", "", Done),
        ],
    ),
    (
        "W-08: removed, again, and made again: only the engine has forgotten it",
        &[
            Ask("Create", "", Done),
            Ask("Remove", "", Done),
            Ask("Remove", "", Done),
            Ask("Get", "", Refused("no such volume")),
            Ask("List", "", Listed(&[])),
            Ask("Create", "", Done),
            Offer,
            Ask("Mount", "a", Folder),
        ],
    ),
    (
        "W-09: removed while its container is about to start",
        &[
            Ask("Create", "", Done),
            Offer,
            Ask("Remove", "", Done),
            Ask("Create", "", Done),
            Ask("Mount", "a", Folder),
            Ask("Remove", "", Refused("a container that is about to start has orders-0")),
            Ask("Get", "", Folder),
            Ask("Unmount", "a", Done),
            Ask("Remove", "", Done),
        ],
    ),
    (
        "W-09: removed while it runs, and when it has ended",
        &[
            Ask("Create", "", Done),
            Offer,
            Ask("Mount", "a", Folder),
            Guard(true),
            Ask("Remove", "", Refused("orders-0 runs on node-1")),
            Withdraw,
            Ask("Unmount", "a", Done),
            Ask("Remove", "", Refused("orders-0 runs on node-1")),
            Guard(false),
            Ask("Remove", "", Done),
        ],
    ),
    (
        "W-10: a mount that is refused holds nothing",
        &[
            Ask("Mount", "a", NOT_READY),
            Ask("Mount", "a", NOT_READY),
            Offer,
            Ask("Mount", "b", Folder),
            Ask("Mount", "a", ANOTHERS),
            Ask("Unmount", "b", Done),
            Ask("Mount", "c", Folder),
        ],
    ),
    (
        "W-12: asked for when it shall not run any more",
        &[Ask("Create", "", Done), Offer, Withdraw, Ask("Mount", "a", NOT_READY), Ask("Path", "", Nowhere)],
    ),
    (
        "its path before it is mounted, while it is, and after",
        &[
            Ask("Create", "", Done),
            Ask("Path", "", Nowhere),
            Offer,
            Ask("Path", "", Nowhere),
            Ask("Mount", "a", Folder),
            Ask("Path", "", Folder),
            Ask("Get", "", Folder),
            Ask("Unmount", "a", Done),
            Ask("Path", "", Nowhere),
        ],
    ),
    ("mounted without having been created", &[Offer, Ask("Mount", "a", Folder)]),
    (
        "mounted twice by one container",
        &[
            Offer,
            Ask("Mount", "a", Folder),
            Ask("Mount", "a", Folder),
            Guard(true),
            Withdraw,
            Ask("Mount", "a", Folder),
        ],
    ),
    (
        "mounted by a second container, before the first one's engine runs and while it does",
        &[
            Offer,
            Ask("Mount", "a", Folder),
            Ask("Mount", "b", ANOTHERS),
            Guard(true),
            Withdraw,
            Ask("Mount", "b", ANOTHERS),
            Ask("Mount", "a", Folder),
        ],
    ),
    (
        "asked for while its data is prepared, under the lock that its guard will have",
        &[
            Offer,
            Withdraw,
            Guard(true),
            Ask("Mount", "a", NOT_READY),
            Guard(false),
            Offer,
            Ask("Mount", "a", Folder),
        ],
    ),
    ("unmounted without having been mounted", &[Ask("Unmount", "a", Done), Offer, Ask("Unmount", "a", Done)]),
    (
        "unmounted by a container that does not have it",
        &[Offer, Ask("Mount", "a", Folder), Ask("Unmount", "b", Done), Ask("Mount", "b", ANOTHERS)],
    ),
    (
        "unmounted twice",
        &[
            Offer,
            Ask("Mount", "a", Folder),
            Ask("Unmount", "a", Done),
            Ask("Unmount", "a", Done),
            Ask("Mount", "b", Folder),
        ],
    ),
    (
        "unmounted late, when another container has it",
        &[
            Offer,
            Ask("Mount", "a", Folder),
            Offer,
            Ask("Mount", "b", Folder),
            Ask("Unmount", "a", Done),
            Ask("Mount", "c", ANOTHERS),
            Ask("Mount", "b", Folder),
        ],
    ),
    (
        "unmounted while its engine runs, as by each docker cp: it has it still",
        &[
            Offer,
            Ask("Mount", "a", Folder),
            Guard(true),
            Withdraw,
            Ask("Mount", "a", Folder),
            Ask("Unmount", "a", Done),
            Ask("Mount", "b", ANOTHERS),
            Ask("Mount", "a", Folder),
            Agents,
            Ask("Unmount", "a", Done),
            Ask("Mount", "a", Folder),
        ],
    ),
    (
        "the engine killed with its containers: no Unmount follows, and it mounts again",
        &[
            Ask("Create", "", Done),
            Offer,
            Ask("Mount", "a", Folder),
            Guard(true),
            Withdraw,
            Guard(false),
            Ask("Get", "", Nowhere),
            Ask("Mount", "a", NOT_READY),
            Offer,
            Ask("Get", "", Nowhere),
            Ask("Mount", "a", Folder),
            Ask("Get", "", Folder),
        ],
    ),
    (
        "the engine killed with its containers: another one is first",
        &[
            Offer,
            Ask("Mount", "a", Folder),
            Guard(true),
            Withdraw,
            Guard(false),
            Offer,
            Ask("Mount", "b", Folder),
            Ask("Mount", "a", ANOTHERS),
            Ask("Unmount", "a", Done),
            Ask("Mount", "a", ANOTHERS),
        ],
    ),
    (
        "the engine killed with its containers, and the volume removed",
        &[
            Ask("Create", "", Done),
            Offer,
            Ask("Mount", "a", Folder),
            Guard(true),
            Withdraw,
            Guard(false),
            Ask("Remove", "", Done),
        ],
    ),
    (
        "the engine killed while it waits: who is dead takes nothing",
        &[Forsake("a"), Offer, Ask("Mount", "b", Folder), Ask("Mount", "a", ANOTHERS)],
    ),
    (
        "the agent killed while the engine waits, which asks the next one",
        &[Forsake("a"), Agents, Offer, Ask("Mount", "a", Folder), Ask("Mount", "b", ANOTHERS)],
    ),
    (
        "the agent killed when it has answered, which the engine has not heard",
        &[Offer, Ask("Mount", "a", Folder), Agents, Offer, Ask("Mount", "a", Folder)],
    ),
    (
        "the agent killed while its engine runs: the next one knows whose it is",
        &[
            Ask("Create", "", Done),
            Offer,
            Ask("Mount", "a", Folder),
            Guard(true),
            Agents,
            Ask("Path", "", Folder),
            Ask("Mount", "b", ANOTHERS),
            Ask("Mount", "a", Folder),
            Ask("Remove", "", Refused("orders-0 runs")),
            Ask("Unmount", "a", Done),
            Ask("Mount", "b", ANOTHERS),
            Guard(false),
            Ask("Mount", "b", NOT_READY),
        ],
    ),
    (
        "unmounted when the agent is another one, and its engine has ended",
        &[
            Offer,
            Ask("Mount", "a", Folder),
            Guard(true),
            Guard(false),
            Agents,
            Ask("Unmount", "a", Done),
            Agents,
            Ask("Unmount", "a", Done),
            Offer,
            Ask("Mount", "b", Folder),
        ],
    ),
    (
        "a body that is not what it should be",
        &[
            Say("VolumeDriver.Mount", b"", NO_MEMBER),
            Say("VolumeDriver.Mount", b"{", Refused("VolumeDriver.Mount: EOF")),
            Say("VolumeDriver.Mount", b"[]", NO_MEMBER),
            Say("VolumeDriver.Mount", b"Name=orders-0", Refused("VolumeDriver.Mount: expected")),
            Say("VolumeDriver.Create", b"\xff\xfe", Refused("VolumeDriver.Create: ")),
            Say("VolumeDriver.Create", br#"{"Name":"orders-0","Opts":[]}"#, Refused("VolumeDriver.Create: ")),
            Say("VolumeDriver.Unmount", br#"{"Name":1,"ID":2}"#, Refused("VolumeDriver.Unmount: ")),
            Say("Plugin.Activate", b"null", Refused("Plugin.Activate: ")),
        ],
    ),
    (
        "a body with more in it than this version knows",
        &[Offer, Say("VolumeDriver.Mount", br#"{"Name":"orders-0","ID":"a","More":{"x":[1]}}"#, Folder)],
    ),
    (
        "names in the wrong case, and names that are none",
        &[
            Offer,
            Say("VolumeDriver.Mount", br#"{"Name":"Orders-0","ID":"a"}"#, NO_MEMBER),
            Say("VolumeDriver.Create", br#"{"Name":"ORDERS-0","Opts":{"service":"orders"}}"#, NO_MEMBER),
            Say(
                "VolumeDriver.Create",
                br#"{"Name":"orders-0","Opts":{"service":"Orders"}}"#,
                Refused("Orders"),
            ),
            Say(
                "VolumeDriver.Create",
                br#"{"Name":"orders-0","Opts":{"Service":"orders"}}"#,
                Refused("option service"),
            ),
            Say("VolumeDriver.Mount", br#"{"name":"orders-0","id":"a"}"#, NO_MEMBER),
            Say("VolumeDriver.Get", br#"{"Name":" orders-0"}"#, NO_MEMBER),
            Say("VolumeDriver.Path", br#"{"Name":"../../etc"}"#, NO_MEMBER),
            Say("VolumeDriver.Remove", br#"{"Name":"."}"#, NO_MEMBER),
            Say("VolumeDriver.Unmount", br#"{"Name":"orders-0/../x","ID":"a"}"#, NO_MEMBER),
        ],
    ),
    (
        "calls that are none",
        &[
            Say("VolumeDriver.mount", br#"{"Name":"orders-0","ID":"a"}"#, Refused("is not a call")),
            Say("Secret.Get", b"{}", Refused("is not a call")),
            Say("NetworkDriver.CreateNetwork", b"{}", Refused("is not a call")),
        ],
    ),
];

impl Bench {
    async fn act(&mut self, act: Act) {
        let body =
            |id: &str| json!({ "Name": "orders-0", "ID": id, "Opts": { "service": "orders" } }).to_string();
        match act {
            Offer => self.offer("orders-0"),
            Withdraw => self.gate.withdraw(&"orders-0".parse().unwrap()),
            Guard(comes_up) => {
                let lock = self.dir.guard_lock(&"orders-0".parse().unwrap());
                self.guard = comes_up.then(|| Lock::try_exclusive(&lock).unwrap().unwrap());
            }
            Agents => self.another_agent(),
            Ask(call, id, answer) => {
                let told = self.send(&format!("VolumeDriver.{call}"), body(id).as_bytes()).await;
                self.expect(told, answer);
            }
            Say(call, body, answer) => {
                let told = self.send(call, body).await;
                self.expect(told, answer);
            }
            Forsake(id) => {
                let mut waiting = self.begin("VolumeDriver.Mount", body(id).as_bytes()).await;
                let mut nothing = [0];
                let told = self.env.timeout(Duration::from_secs(5), waiting.read(&mut nothing)).await;
                assert!(told.is_none(), "it is kept waiting: {told:?}");
                drop(waiting);
                self.env.clock().sleep(ROUND).await;
            }
        }
    }

    fn expect(&self, told: Result<Value, Refusal>, answer: Answer) {
        let folder = self.mountpoint("orders-0");
        let at = |volume: &Value| PathBuf::from(volume["Mountpoint"].as_str().unwrap());
        // `Get` tells of a volume, `Mount` and `Path` of its mountpoint alone.
        let mountpoint = |told: &Value| at(told.get("Volume").unwrap_or(told));
        match (answer, told) {
            (Done, Ok(told)) => assert_eq!(told, json!({})),
            (Is(wanted), Ok(told)) => assert_eq!(told.to_string(), wanted),
            (Folder, Ok(told)) => assert_eq!(mountpoint(&told), folder),
            (Nowhere, Ok(told)) => assert_eq!(mountpoint(&told), PathBuf::new()),
            (Listed(wanted), Ok(told)) => {
                let volumes = told["Volumes"].as_array().unwrap();
                let names: Vec<&str> =
                    volumes.iter().map(|volume| volume["Name"].as_str().unwrap()).collect();
                assert_eq!(names, wanted);
            }
            (Refused(named), Err(refusal)) => assert!(refusal.contains(named), "{named}: {refusal}"),
            (answer, told) => panic!("{answer:?}: {told:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_of_docker_is_answered_right_whatever_it_asks_how_often_and_in_which_order() {
    for (row, acts) in ROWS {
        let mut bench = Bench::new();
        bench.record("orders-0").await;
        for act in *acts {
            println!("{row}: {act:?}");
            bench.act(*act).await;
        }
    }
}
