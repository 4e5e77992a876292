//! What users and crashes make of Docker: a table of what is done after one another, and what comes of it.
#![allow(unreachable_pub, reason = "test support")]

use Act::{
    Asks, BothAsk, Copies, Docker, DockerIsRefused, Ends, KillAgent, KillContainer, KillDocker, Mounted,
    Removes, RunIsRefused, Runs, RunsApart, Serves, StartAgent, StartDocker, StartIsRefused, Starts, Stops,
    Told, Unable, Wants, Why,
};

/// What is done, or what comes of it. The service is called `@` in what Docker is told.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    /// Docker does this.
    Docker(&'static [&'static str]),
    /// Docker refuses this, and says so.
    DockerIsRefused(&'static [&'static str], &'static str),
    /// A container of this name is made, and its engine starts.
    Runs(&'static str),
    /// Docker says why it starts no container of this name.
    RunIsRefused(&'static str, &'static str),
    /// A container is made whose program is not there: it has its volume, and does not start.
    Unable(&'static str),
    /// A container is made that has a network of its own.
    RunsApart(&'static str),
    /// `steadfast why` says so of the member.
    Why(&'static str),
    /// A container that has ended is started again.
    Starts(&'static str),
    /// Docker says why it does not start it again.
    StartIsRefused(&'static str, &'static str),
    /// `docker stop`.
    Stops(&'static str),
    /// `docker cp` out of a container.
    Copies(&'static str),
    /// `docker rm --force`.
    Removes(&'static str),
    /// A container of this name is asked for; nobody waits for the answer.
    Asks(&'static str),
    /// What was asked for has ended: it runs, or it has failed.
    Ends(bool),
    /// Two containers are asked for at once; one of them has the member.
    BothAsk(&'static str, &'static str),
    /// Guard and engine, everything of the container.
    KillContainer,
    /// The engine of Docker.
    KillDocker,
    StartDocker,
    KillAgent,
    StartAgent,
    /// Docker or the agent has said so since.
    Told(&'static str),
    /// The service is told to run, or to stop.
    Wants(bool),
    /// It serves, and has its data.
    Serves,
    /// Docker says that its volume is mounted, or that it is not.
    Mounted(bool),
}

pub const ANOTHERS: &str = "another container has";

pub const ROWS: &[(&str, &[Act])] = &[
    (
        "volumes that are no members",
        &[
            DockerIsRefused(
                &["volume", "create", "-d", "steadfast", "-o", "service=@", "NotAMember"],
                "is no member",
            ),
            DockerIsRefused(
                &["volume", "create", "-d", "steadfast", "-o", "service=nobody", "@-0"],
                "has no member",
            ),
            DockerIsRefused(
                &["volume", "create", "-d", "steadfast", "-o", "service=@", "@-1"],
                "has no member",
            ),
            DockerIsRefused(&["volume", "create", "-d", "steadfast", "@-0"], "option service"),
            DockerIsRefused(&["volume", "inspect", "@-0"], "no such volume"),
        ],
    ),
    (
        "made again, forgotten again: the data stays",
        &[
            Runs("first"),
            Serves,
            DockerIsRefused(&["volume", "rm", "@-0"], "in use"),
            Removes("first"),
            Docker(&["volume", "rm", "@-0"]),
            DockerIsRefused(&["volume", "rm", "@-0"], "no such volume"),
            Docker(&["volume", "create", "-d", "steadfast", "-o", "service=@", "@-0"]),
            Docker(&["volume", "create", "-d", "steadfast", "-o", "service=@", "@-0"]),
            Mounted(false),
            Runs("second"),
            Mounted(true),
            Serves,
        ],
    ),
    ("stopped and started", &[Runs("first"), Serves, Stops("first"), Starts("first"), Serves]),
    ("restarted by Docker", &[Runs("first"), Serves, Docker(&["restart", "first"]), Serves]),
    ("asked for by two at once", &[BothAsk("first", "second"), Serves]),
    (
        "a second container while the first one runs, which is copied out of",
        &[
            Runs("first"),
            Serves,
            Copies("first"),
            Copies("first"),
            RunIsRefused("second", ANOTHERS),
            Serves,
            StartIsRefused("second", ANOTHERS),
        ],
    ),
    (
        "a container in a network of its own, where the member's address is not",
        &[RunsApart("first"), Why("--network host"), Removes("first"), Runs("second"), Serves],
    ),
    ("a container that has its volume and cannot start", &[Unable("first"), Runs("second"), Serves]),
    (
        "Docker killed with its containers, and started again: the same container",
        &[
            Runs("first"),
            Serves,
            KillDocker,
            KillContainer,
            StartDocker,
            Mounted(false),
            Starts("first"),
            Serves,
            Mounted(true),
        ],
    ),
    (
        "Docker killed, its containers live: they end when it is back, and another one is first",
        &[
            Runs("first"),
            Serves,
            KillDocker,
            StartDocker,
            Runs("second"),
            Serves,
            StartIsRefused("first", ANOTHERS),
            Serves,
        ],
    ),
    (
        "Docker killed while it waits for a member that shall not run",
        &[
            Wants(false),
            Asks("first"),
            Told("asks for its volume"),
            KillDocker,
            Ends(false),
            StartDocker,
            Wants(true),
            Runs("second"),
            Serves,
        ],
    ),
    (
        "the agent killed and away while Docker asks",
        &[KillAgent, Asks("first"), Told("Unable to connect to plugin"), StartAgent, Ends(true), Serves],
    ),
    (
        "the agent away for longer than Docker asks",
        &[KillAgent, RunIsRefused("first", "steadfast"), StartAgent, Runs("second"), Serves],
    ),
    (
        "the agent killed under a container, which goes on, ends, and is started by the next agent",
        &[
            Runs("first"),
            Serves,
            KillAgent,
            StartAgent,
            Serves,
            RunIsRefused("second", ANOTHERS),
            Stops("first"),
            Starts("first"),
            Serves,
        ],
    ),
    (
        "the agent and Docker killed with the container",
        &[
            Runs("first"),
            Serves,
            KillDocker,
            KillAgent,
            KillContainer,
            StartAgent,
            StartDocker,
            Starts("first"),
            Serves,
        ],
    ),
    (
        "a service that was told to stop",
        &[
            Runs("first"),
            Serves,
            Wants(false),
            StartIsRefused("first", "@-0"),
            Wants(true),
            Starts("first"),
            Serves,
        ],
    ),
];
