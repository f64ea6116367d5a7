//! Each promise, on each kind of database: a SQLite file, an old server, a new one.

use stillpoint_testcontainers::Postgres;

use super::bench::Bench;

/// Makes a test of each promise in SQLite, and one that proves all of them for a server.
macro_rules! promises {
    ($($module:ident: $($case:ident)*;)*) => {
        $(
            mod $module {
                use crate::state::{$module, bench::Bench};

                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $case() {
                        $module::$case(&Bench::sqlite(1).await).await;
                    }
                )*
            }
        )*

        async fn prove_all(server: &Postgres) {
            $($(
                let promise = concat!(stringify!($module), "::", stringify!($case));
                // What was proven last is what failed.
                println!("{promise}");
                super::$module::$case(&Bench::postgres(server).await).await;
            )*)*
        }
    };
}

promises! {
    queue:
        a_due_time_is_queued_once_and_again_only_after_a_failure
        the_first_in_rank_is_taken_and_no_cap_is_passed
        who_takes_room_that_others_wait_for_learns_of_it
        what_waits_becomes_more_urgent
        an_agent_takes_what_is_its_own_and_nobody_else_does
        what_agents_say_is_heard
        row_30_what_is_bound_to_a_site_is_taken_there_alone
        row_30_workers_of_a_site_are_heard
        row_30_nobody_makes_way_for_a_site_that_is_silent
        a_cap_of_nothing_lets_nothing_run
        never_two_of_a_kind_for_one_database
        somebody_may_end_a_job
        somebody_may_try_a_job_again
        an_end_is_said_once
        a_claim_that_was_forgotten_counts_no_more
        workers_that_race_take_nothing_twice;
    workers:
        whoever_was_not_heard_of_has_lost_what_it_had
        nobody_loses_anything_because_the_database_was_away
        a_job_that_does_not_get_on_is_ended
        one_worker_at_a_time_has_a_lease
        a_lease_without_a_term_lasts_while_its_worker_is_heard_of
        one_leads;
    due:
        due_times_are_settled_once
        settling_is_one_step
        a_decision_that_was_overtaken_does_nothing
        the_newest_that_were_skipped_are_remembered;
    said:
        marks_hold_until_somebody_says_otherwise
        a_mark_ends_what_waits
        the_newest_marks_are_remembered
        one_configuration_holds
        what_was_told_is_told_once_over_restarts
        messages_that_nobody_takes_are_bounded;
    endpoints:
        endpoints_are_remembered_as_they_were_changed
        two_that_change_endpoints_lose_nothing
        an_adoption_is_remembered_until_its_database_is_forgotten;
    history:
        jobs_are_found_by_what_they_are
        old_jobs_are_forgotten_save_the_newest_of_each;
    audit:
        row_83_a_changed_line_is_found
        tables_of_a_newer_program_are_left_alone
        tables_of_an_older_program_become_these
        a_transaction_that_is_dropped_changes_nothing_and_holds_nobody_up
        any_text_is_kept;
    faults:
        every_call_may_be_repeated_when_its_answer_was_lost
        a_claim_that_nobody_waited_for_is_found_again
        a_claim_may_be_given_up_at_any_await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_server_of_postgresql() {
    let Some(server) = Postgres::required(13) else { return };
    prove_all(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_server_of_postgresql() {
    let Some(server) = Postgres::required(18) else { return };
    prove_all(&server).await;
}
