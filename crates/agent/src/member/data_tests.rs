use steadfast_core::ids::{Epoch, Generation, GroupName, Revision, RoleTerm};
use steadfast_core::model::{EventRing, Initialised, MemberPhase, MembershipChange};
use steadfast_core::runtime::Timestamp;

use super::*;
use crate::host::Identity;

fn member(name: &str, initialised: bool) -> Member {
    Member {
        id: "m1".parse().unwrap(),
        name: name.parse().unwrap(),
        service_id: "s1".parse().unwrap(),
        service: "orders".parse().unwrap(),
        group: GroupName::main(),
        ordinal: 0,
        epoch: Epoch(1),
        phase: MemberPhase::Prepared,
        placed_on: None,
        run: true,
        generation: Generation(1),
        revision: Revision(1),
        holder: None,
        unreleased: Vec::new(),
        volumes: Vec::new(),
        address: None,
        initialised: initialised
            .then(|| Initialised { epoch: Epoch(1), engine_version: "7.0.15".to_owned() }),
        last_node: None,
        zone: None,
        recloning: false,
        phase_since: Timestamp::UNIX_EPOCH,
        events: EventRing::default(),
        extra: serde_json::Map::new(),
    }
}

fn peer(name: &str) -> Peer {
    Peer { name: name.parse().unwrap(), ordinal: 0, host: format!("{name}.test"), address: None }
}

fn facts(owner: Option<(&str, bool)>, empty: bool) -> Vec<(MountedVolume, VolumeFacts)> {
    let identity = owner.map(|(member, initialised)| Identity {
        member: member.parse().unwrap(),
        service: "s1".parse().unwrap(),
        volume: "data".parse().unwrap(),
        epoch: Epoch(1),
        architecture: std::env::consts::ARCH.to_owned(),
        engine_version: None,
        initialised,
    });
    let volume = MountedVolume::new("data".parse().unwrap(), "/volume".into(), None);
    vec![(volume, VolumeFacts { identity, empty, epoch: None })]
}

fn role(phase: RolePhase, leader: Option<&str>) -> RoleState {
    RoleState {
        term: RoleTerm(1),
        phase,
        leader: leader.map(|name| name.parse().unwrap()),
        previous: None,
        successor: None,
        failures: 0,
        since: Timestamp::UNIX_EPOCH,
    }
}

fn view<'a>(
    member: &'a Member,
    volumes: &'a [(MountedVolume, VolumeFacts)],
    role: Option<&'a RoleState>,
) -> DataView<'a> {
    DataView {
        member,
        volumes,
        leadership: Leadership::Steadfast,
        topology: Topology::PrimaryReplicas,
        learners: false,
        bootstrapped: false,
        role,
        serving_leader: None,
    }
}

fn refused(step: &DataStep) -> Option<Reason> {
    match step {
        DataStep::Refuse(reason, _) => Some(reason.clone()),
        DataStep::Keep | DataStep::Make(_) | DataStep::Wait(..) | DataStep::RaiseEpochAbove(_) => None,
    }
}

#[test]
fn what_belongs_to_somebody_else_is_refused() {
    let me = member("orders-0", false);
    let first = role(RolePhase::Bootstrapping, Some("orders-0"));
    for volumes in [facts(Some(("m2", true)), false), facts(Some(("m2", false)), true), facts(None, false)] {
        assert_eq!(refused(&decide(&view(&me, &volumes, Some(&first)))), Some(Reason::VolumeForeign));
    }
}

#[test]
fn data_that_was_made_once_is_never_made_again() {
    let first = role(RolePhase::Bootstrapping, Some("orders-0"));
    let (known, unknown) = (member("orders-0", true), member("orders-0", false));
    for (me, volumes) in [
        (&known, facts(None, true)),
        (&known, facts(Some(("m1", false)), true)),
        (&known, facts(Some(("m1", true)), true)),
        (&unknown, facts(Some(("m1", true)), true)),
    ] {
        let mut view = view(me, &volumes, Some(&first));
        assert_eq!(refused(&decide(&view)), Some(Reason::VolumeUnexpectedlyEmpty));
        view.topology = Topology::Quorum;
        view.leadership = Leadership::Engine;
        assert_eq!(refused(&decide(&view)), Some(Reason::VoterAmnesia));
    }
    assert_eq!(decide(&view(&known, &facts(Some(("m1", true)), false), None)), DataStep::Keep);
    // The volume says so, the record not yet: somebody died in between.
    assert_eq!(decide(&view(&unknown, &facts(Some(("m1", true)), false), None)), DataStep::Keep);
}

#[test]
fn only_the_chosen_one_makes_the_first_data() {
    let me = member("orders-0", false);
    for volumes in [facts(None, true), facts(Some(("m1", false)), true), facts(Some(("m1", false)), false)] {
        let first = role(RolePhase::Bootstrapping, Some("orders-0"));
        let step = decide(&view(&me, &volumes, Some(&first)));
        assert_eq!(step, DataStep::Make(FirstData::Initialise));
        for role in [
            None,
            Some(role(RolePhase::Bootstrapping, Some("orders-1"))),
            Some(role(RolePhase::Led, Some("orders-1"))),
            Some(role(RolePhase::Electing, None)),
        ] {
            let step = decide(&view(&me, &volumes, role.as_ref()));
            assert!(matches!(step, DataStep::Wait(Reason::BootstrapRunning, _)), "{step:?}");
        }
    }
}

#[test]
fn others_join_once_the_leader_serves() {
    let me = member("orders-0", false);
    let (volumes, leader) = (facts(None, true), peer("orders-1"));
    let led = role(RolePhase::Led, Some("orders-1"));
    let view = DataView { serving_leader: Some(&leader), ..view(&me, &volumes, Some(&led)) };
    assert_eq!(decide(&view), DataStep::Make(FirstData::Join(Some(leader.clone()))));
}

#[test]
fn an_engine_that_leads_itself_initialises_every_member_of_a_new_service() {
    let me = member("orders-0", false);
    let volumes = facts(None, true);
    let mut view = DataView { leadership: Leadership::Engine, ..view(&me, &volumes, None) };
    assert_eq!(decide(&view), DataStep::Make(FirstData::Initialise));
    view.bootstrapped = true;
    assert_eq!(decide(&view), DataStep::Make(FirstData::Join(None)));
}

#[test]
fn a_voter_whose_data_was_given_up_joins_as_a_learner_or_not_at_all() {
    let me = Member { recloning: true, ..member("orders-0", false) };
    let volumes = facts(None, true);
    let (leadership, topology) = (Leadership::Engine, Topology::Quorum);
    let mut view = DataView { leadership, topology, ..view(&me, &volumes, None) };
    let step = decide(&view);
    assert!(matches!(step, DataStep::Refuse(Reason::VoterAmnesia, _)), "{step:?}");
    view.learners = true;
    assert_eq!(decide(&view), DataStep::Make(FirstData::Join(None)), "it never begins a history of its own");
}

#[test]
fn during_an_election_nobody_takes_writes() {
    let peers = [peer("orders-0"), peer("orders-1")];
    let me = "orders-0".parse().unwrap();
    let wanted = |role: Option<&RoleState>| wanted_role(&me, &peers, None, role);
    assert_eq!(wanted(None), WantedRole::Fenced);
    assert_eq!(wanted(Some(&role(RolePhase::Electing, Some("orders-0")))), WantedRole::Fenced);
    assert_eq!(
        wanted(Some(&role(RolePhase::Led, Some("orders-0")))),
        WantedRole::Primary { replicas: vec![peer("orders-1")] }
    );
    assert_eq!(wanted(Some(&role(RolePhase::Led, Some("orders-1")))), WantedRole::Follow(peer("orders-1")));
    assert_eq!(wanted(Some(&role(RolePhase::Led, Some("orders-9")))), WantedRole::Fenced);
}

#[test]
fn only_members_that_count_confirm_writes() {
    use MembershipChange::{Admitting, Learning, Leaving, Removing};
    let me = "orders-0".parse().unwrap();
    let peers: Vec<Peer> = (0..)
        .zip(["orders-0", "orders-1", "orders-2"])
        .map(|(ordinal, name)| Peer { ordinal, ..peer(name) })
        .collect();
    let led = role(RolePhase::Led, Some("orders-0"));
    let confirming = |change: Option<MembershipChange>| {
        let group = Group { change, ..Group::of(3) };
        match wanted_role(&me, &peers, Some(&group), Some(&led)) {
            WantedRole::Primary { replicas } => replicas.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([None, Some(Admitting)].map(confirming), [2, 2]);
    assert_eq!([Learning, Leaving, Removing].map(Some).map(confirming), [1, 1, 1]);
}

/// The records were put back to an older backup, and the volume has been opened since.
#[test]
fn an_epoch_of_the_volume_that_the_records_do_not_know_is_raised_above_and_only_on_a_volume_of_its_own() {
    let found = |owner, epoch| {
        let mut found = facts(Some((owner, true)), false);
        found[0].1.epoch = Some(Epoch(epoch));
        found
    };
    let (member, role) = (member("orders-0", true), role(RolePhase::Led, Some("orders-0")));
    let step = |volumes: &[(MountedVolume, VolumeFacts)]| {
        decide(&DataView {
            member: &member,
            volumes,
            leadership: Leadership::Steadfast,
            topology: Topology::PrimaryReplicas,
            learners: false,
            bootstrapped: true,
            role: Some(&role),
            serving_leader: None,
        })
    };
    assert_eq!(step(&found("m1", 1)), DataStep::Keep);
    assert_eq!(step(&found("m1", 3)), DataStep::RaiseEpochAbove(Epoch(3)));
    assert!(matches!(step(&found("m2", 3)), DataStep::Refuse(Reason::VolumeForeign, _)));
}
