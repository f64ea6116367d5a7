//! Every sentence of the contract that the suite proves, in the order the table prints them.

use std::fmt;

use futures::future::LocalBoxFuture;

use crate::{
    Scene,
    stage::{Stage, Verdict},
};

/// One sentence of the contract, and the test that proves it.
pub(crate) struct Sentence {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    pub(crate) needs: &'static [Need],
    pub(crate) prove: for<'a> fn(&'a Stage) -> LocalBoxFuture<'a, Verdict>,
}

impl fmt::Debug for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// What a server must allow for a sentence to be asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Log,
    NoLog,
    Incremental,
    SingleDatabase,
    Sandbox,
    NoSandbox,
    Rows,
    Scene(Scene),
}

use Need::{Incremental, Log, NoLog, NoSandbox, Rows, Sandbox, SingleDatabase};

macro_rules! sentences {
    ($($module:ident::$name:ident [$($need:expr),*] $text:literal)*) => {
        /// All of them.
        pub(crate) static SENTENCES: &[Sentence] = &[$(Sentence {
            name: concat!(stringify!($module), "::", stringify!($name)),
            text: $text,
            needs: &[$($need),*],
            prove: |stage| Box::pin(super::$module::$name(stage)),
        }),*];
    };
}

sentences! {
    probe::an_engine_names_itself []
        "An engine has a name, URL schemes without a colon, and a name for each database."
    probe::connecting_changes_nothing []
        "Reaching and probing a server changes nothing there."
    probe::the_driver_claims_what_the_server_allows []
        "A probe says what this server allows, no more and no less."
    probe::nothing_there_is_missing []
        "An address at which nothing answers is Missing or Transient."
    probe::something_else_there_is_unsupported [Need::Scene(Scene::Foreign)]
        "An address at which something else answers is Unsupported."
    probe::an_identity_is_unique_and_stable []
        "An identity is the same for every connection, and no two databases share one."
    probe::an_identity_survives_a_restart [Need::Scene(Scene::Restart)]
        "An identity survives a restart of the server."
    probe::an_identity_survives_a_crash [Need::Scene(Scene::Crash)]
        "An identity survives a crash of the server."
    probe::a_replaced_database_has_another_identity [Need::Scene(Scene::Replacement)]
        "A database that takes the place of another one has another identity."

    copy::a_copy_is_the_database []
        "Restoring a copy of a quiet server yields exactly what it held."
    copy::a_copy_never_holds_part_of_a_transaction []
        "A copy never holds part of a transaction: restoring it yields a state that some client \
         could have seen."
    copy::a_copy_holds_what_was_committed_before_its_time []
        "A copy holds whatever was committed before its time, and nothing of more than a second \
         later."
    copy::a_copy_is_of_the_instant_it_claims []
        "A finished copy is consistent at the instant that the capabilities name."
    copy::evidence_is_complete []
        "Evidence names the position, what must be replayed, and how the copy was taken."
    copy::parts_written_at_once_are_limited []
        "No more parts are written at once than the request allows."
    copy::a_failing_sink_ends_the_backup []
        "Whatever the sink reports ends the backup, and leaves nothing behind in the server."
    copy::a_departed_server_ends_the_backup [Need::Scene(Scene::Departure)]
        "A backup whose server goes away ends as Departed."
    copy::a_replaced_server_ends_the_backup [Need::Scene(Scene::Replacement)]
        "A backup whose server's identity changes ends as Departed."
    copy::a_database_is_restored_without_its_neighbours [SingleDatabase]
        "One database is restored without its neighbours."
    copy::any_method_runs_while_any_other_runs []
        "Any method may run while any other runs."

    incremental::row_64_an_incremental_copy_equals_a_full_one [Incremental, Log]
        "An incremental copy keeps only unchanged bytes: it equals a full one, byte for byte."
    incremental::row_64_increments_build_on_increments [Incremental, Log]
        "Increment after increment, every backup is restorable on its own."
    incremental::an_incremental_copy_is_whole_under_load [Incremental, Log]
        "An incremental copy that is taken under load holds whole transactions."
    incremental::what_cannot_be_proven_unchanged_is_written [Incremental, Log]
        "What the log does not prove unchanged is written."

    capture::no_log_is_unsupported [NoLog]
        "A server that keeps no log says so, and which statement would change it."
    capture::every_commit_is_an_event [Log]
        "Every commit is an event of one segment, in order, and no later than it was seen."
    capture::segments_follow_each_other_under_load [Log]
        "Segments follow each other without a hole while many clients write."
    capture::an_idle_capture_returns_soon [Log]
        "With nothing committed, the next stretch is none, at once or within a second."
    capture::a_capture_joins_a_backup [Log]
        "A capture that begins at a backup's evidence continues it."
    capture::a_backup_joins_a_capture [Log]
        "A backup that is taken while a capture runs is continued by its log."
    capture::a_large_transaction_spans_segments [Log, Need::Scene(Scene::Bulk)]
        "A large transaction spans segments that hold no event, and none exceeds its limits."

    history::nothing_is_lost_between_next_and_confirm [Log]
        "Whoever dies between taking and confirming a segment continues without loss, or is told."
    history::unconfirmed_log_is_not_forgotten [Log, Need::Scene(Scene::Discard)]
        "The engine may forget log only after it was confirmed."
    history::a_gap_is_reported_as_a_value [Log, Need::Scene(Scene::Discard)]
        "Log that the engine no longer has is a gap, whose first segment succeeds nothing."
    history::a_foreign_mark_is_a_gap [Log]
        "A mark of another database is a gap, never continued."
    history::capture_survives_a_restart [Log, Need::Scene(Scene::Restart)]
        "After a restart of the server, capture goes on from its mark, or reports a gap."
    history::capture_survives_a_crash [Log, Need::Scene(Scene::Crash)]
        "After a crash of the server, capture goes on from its mark, or reports a gap."
    history::a_lineage_succeeds_another [Log, Need::Scene(Scene::Succession)]
        "A segment that begins another lineage says from which position of the old one."
    history::a_replaced_database_ends_the_capture [Log, Need::Scene(Scene::Replacement)]
        "A capture whose database was replaced ends as Departed."
    history::a_departed_database_ends_the_capture [Log, Need::Scene(Scene::Departure)]
        "A capture whose database went away ends as Departed."

    recovery::every_commit_can_be_restored [Log]
        "Recovery to a position yields the state at that commit."
    recovery::every_moment_can_be_restored [Log]
        "Recovery to an instant stops after the last transaction committed at or before it."
    recovery::the_latest_state_can_be_restored [Log]
        "Recovery to the latest state stops at the end of the captured log."
    recovery::a_copy_alone_can_be_restored [Log]
        "Recovery to the consistent state replays nothing of the captured log."
    recovery::a_position_inside_a_transaction_is_refused [Log]
        "A position that is no end of a commit is refused."
    recovery::a_position_before_the_copy_is_refused [Log]
        "A position before the copy is refused."
    recovery::a_position_past_the_log_is_a_gap [Log]
        "A position past the end of the captured log is a Gap."
    recovery::only_the_log_that_is_needed_is_read [Log]
        "Recovery reads the log only as far as the target needs."
    recovery::corrupt_log_is_not_replayed [Log]
        "Corrupt log ends the recovery as Corrupt."

    publish::planning_changes_nothing []
        "A plan is a value: the same request yields the same plan, below the staging directory, \
         and nothing was changed."
    publish::an_existing_target_is_refused []
        "A target that exists and may not be overwritten is Refused, and stays as it was."
    publish::an_existing_target_is_replaced []
        "A target that may be overwritten is replaced by the whole database."
    publish::publishing_is_one_step []
        "A publication that is cut short leaves the old database or the new one."
    publish::damage_is_found [Need::Scene(Scene::Damage)]
        "The engine's own check ends as Corrupt when what was recovered is damaged."

    sandbox::a_sandbox_answers_from_the_copy_and_reaches_nothing [Sandbox]
        "A sandbox answers from the copy, can change nothing, reaches nothing else, and leaves \
         nothing at work once it was stopped."
    sandbox::a_dropped_sandbox_ends [Sandbox]
        "A sandbox that is dropped ends, and can be removed."
    sandbox::no_sandbox_is_unsupported [NoSandbox]
        "An engine without sandboxes says so."

    rows::what_has_no_rows_is_refused [Rows]
        "A table is told with its key and with who refers to it; a view is Unsupported, nothing \
         Missing."
    rows::a_changed_schema_has_another_fingerprint [Rows]
        "A change of a table's schema, or of who refers to it, changes its fingerprint."
    rows::what_speaks_against_a_set_is_told [Rows]
        "What speaks against moving a set is told, with the statement that changes it."
    rows::a_reference_that_files_do_not_tell_is_known [Rows]
        "So is a reference of which files do not tell which rows hang on which."
    rows::predicates_that_are_none_are_refused [Rows]
        "A predicate is one expression about one row, the same at any time; others are Invalid."
    rows::a_cutoff_is_bound_as_what_it_is [Rows]
        "A cutoff is the same literal whatever the session's settings are."
    rows::an_export_sees_one_state [Rows]
        "Everything that is exported is of one state."
    rows::settings_change_no_bytes [Rows]
        "Values have the same bytes whatever the role's or the server's settings are."
    rows::keys_of_any_text_make_ranges [Rows]
        "Ranges of keys of any text hold each row once."
    rows::keys_of_several_columns_make_ranges [Rows]
        "So do ranges of keys of several columns."
    rows::a_dropped_export_leaves_nothing [Rows]
        "Dropping an export at any await leaves no transaction."
    rows::deleted_rows_are_those_that_were_exported [Rows]
        "Deleted rows have the bytes that they were exported with, and are those that are gone."
    rows::versions_that_are_told_apart_stand_for_rows [Rows]
        "Versions of rows that are deleted are those that were read, and none after a change."
    rows::rows_hang_on_those_they_refer_to [Rows]
        "Rows of other tables go with those that they refer to, over any number of references."
    rows::what_triggers_delete_besides_is_refused [Rows]
        "Where triggers would delete rows that are not handed over, of whatever table, nothing is \
         deleted; what they write down or count is."
    rows::a_dropped_deletion_never_was [Rows]
        "Dropping a deletion at any await, or rolling it back, leaves every row, and no entry."
    rows::a_ledger_entry_is_there_when_its_transaction_committed [Rows]
        "A ledger entry is there exactly when its transaction committed, and once."
    rows::a_lock_keeps_others_out [Rows]
        "A lock keeps others from the same set, as long as its session lives."
    rows::what_others_changed_is_seen [Rows]
        "What others changed, added or deleted since the export shows in what is deleted."
    rows::rows_come_back_as_they_were [Rows]
        "Rows that are put back have the bytes that they had, in their table or in a new one."
    rows::rows_that_are_there_are_treated_as_asked [Rows]
        "Rows that are there already are kept, replaced or refused, as asked."
    rows::values_that_are_computed_by_now_are_not_lost [Rows]
        "A value that its table would compute otherwise by now is refused, and comes back into a \
         new table."
    rows::rows_of_many_tables_come_back_at_once_or_not_at_all [Rows]
        "Rows of many tables are put back in one transaction, new tables with them."

    rows::copies_are_found_and_removed_by_their_keys [Rows]
        "Copies of rows have the bytes that those had, and are found and removed by their keys."

    rows::a_partition_leaves_as_a_table [Rows]
        "A partition that leaves its table is a table with the same rows, once and for all."
    rows::a_partition_is_dropped_or_put_back_in_one_step [Rows]
        "It is dropped, or put back, with what the ledger says of it, or stays as it was."

    cancel::a_dropped_probe_leaves_nothing []
        "Dropping connect or probe at any await leaves the server as it was."
    cancel::a_dropped_backup_leaves_nothing []
        "Dropping a backup at any await leaves the server as it was."
    cancel::a_dropped_capture_leaves_nothing [Log]
        "Dropping a capture at any await releases everything it holds in the engine."
    cancel::a_dropped_recovery_can_be_repeated [Log]
        "Dropping a recovery at any await does not keep the next one from succeeding."
}
