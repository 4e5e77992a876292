//! Redis Cluster, end to end: real members, a real client that goes where it is sent, real kills.

mod support;

use support::redis_cluster::REDIS_CLUSTER;

scenarios! { REDIS_CLUSTER;
    a_service_is_created_with_its_members_apart,
    an_engine_that_is_killed_is_started_again_in_place,
    a_guard_that_is_killed_takes_its_engine_along,
    an_agent_that_is_killed_is_replaced_by_a_newer_build_under_load_and_no_engine_notices,
    a_member_whose_node_is_killed_comes_back_as_itself_elsewhere,
    a_node_that_comes_back_after_its_member_has_moved_leaves_it_alone,
    everything_killed_at_once_comes_back_with_the_next_up,
    an_engine_that_is_stopped_past_the_lease_goes_on_as_the_same_life,
    a_restart_gives_every_member_a_new_life_one_after_another,
    a_service_that_is_stopped_and_started_cold_is_the_same,
    a_deleted_service_leaves_only_its_volumes,
    a_full_disk_is_named_and_everything_goes_on_once_there_is_room,
}
