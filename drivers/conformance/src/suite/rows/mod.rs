//! Moving rows out of tables, and back.

mod back;
mod beside;
mod bind;
mod export;
mod keep;
mod moved;
mod partition;
mod prune;
mod schema;

pub(crate) use back::{
    rows_come_back_as_they_were, rows_of_many_tables_come_back_at_once_or_not_at_all,
    rows_that_are_there_are_treated_as_asked, values_that_are_computed_by_now_are_not_lost,
};
pub(crate) use beside::what_triggers_delete_besides_is_refused;
pub(crate) use bind::{a_cutoff_is_bound_as_what_it_is, predicates_that_are_none_are_refused};
pub(crate) use export::{
    a_dropped_export_leaves_nothing, an_export_sees_one_state, keys_of_any_text_make_ranges,
    keys_of_several_columns_make_ranges, settings_change_no_bytes,
};
pub(crate) use keep::copies_are_found_and_removed_by_their_keys;
pub(crate) use partition::{
    a_partition_is_dropped_or_put_back_in_one_step, a_partition_leaves_as_a_table,
};
pub(crate) use prune::{
    a_dropped_deletion_never_was, a_ledger_entry_is_there_when_its_transaction_committed,
    a_lock_keeps_others_out, deleted_rows_are_those_that_were_exported,
    rows_hang_on_those_they_refer_to, versions_that_are_told_apart_stand_for_rows,
    what_others_changed_is_seen,
};
pub(crate) use schema::{
    a_changed_schema_has_another_fingerprint, a_reference_that_files_do_not_tell_is_known,
    what_has_no_rows_is_refused, what_speaks_against_a_set_is_told,
};
