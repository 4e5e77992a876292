//! Redis, end to end: real servers, real clients, real kills.

mod support;

use support::redis::REDIS;

scenarios! { REDIS;
    a_service_is_created_with_its_members_apart,
    an_engine_that_is_killed_is_started_again_in_place,
    a_guard_that_is_killed_takes_its_engine_along,
    an_agent_that_is_killed_is_replaced_under_load_and_no_engine_notices,
    a_server_that_is_killed_is_replaced_and_no_engine_notices,
    a_member_whose_node_is_killed_comes_back_as_itself_elsewhere,
    everything_killed_at_once_comes_back_with_the_next_up,
}
