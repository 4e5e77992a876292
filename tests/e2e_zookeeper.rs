//! ZooKeeper, end to end: real ensembles, real clients, real kills.

mod support;

use support::zookeeper::ZOOKEEPER;

scenarios! { ZOOKEEPER;
    a_service_is_created_with_its_members_apart,
    an_engine_that_is_killed_is_started_again_in_place,
    a_guard_that_is_killed_takes_its_engine_along,
    an_agent_that_is_killed_is_replaced_by_a_newer_build_under_load_and_no_engine_notices,
    a_server_that_is_killed_is_replaced_and_no_engine_notices,
    a_member_whose_node_is_killed_comes_back_as_itself_elsewhere,
    a_node_that_comes_back_after_its_member_has_moved_leaves_it_alone,
    a_node_that_is_killed_while_a_member_moves_to_it_is_survived_too,
    everything_killed_at_once_comes_back_with_the_next_up,
    an_engine_that_is_stopped_past_the_lease_goes_on_as_the_same_life,
    a_guard_that_is_stopped_past_the_lease_goes_on_with_its_engine,
    a_guard_that_stays_stopped_is_killed_with_its_engine_before_another_runs,
    an_agent_that_is_stopped_past_the_lease_is_suspected_and_nothing_moves,
    a_server_that_is_stopped_past_the_lease_goes_on_and_no_engine_notices,
    an_engine_whose_start_takes_longer_than_any_deadline_is_left_to_it,
    a_crash_loop_backs_off_and_does_not_move,
    a_restart_gives_every_member_a_new_life_one_after_another,
    a_service_that_is_stopped_and_started_cold_is_the_same,
    a_deleted_service_leaves_only_its_volumes,
    a_service_is_undeleted_with_its_data_after_its_address_was_used_again,
    a_full_disk_is_named_and_everything_goes_on_once_there_is_room,
    a_read_only_disk_is_named_and_everything_goes_on_once_it_can_be_written,
}
