//! What every store must do, as cases that run over any of them.
//!
//! A case is named after its transition and its promise. It gets a fresh store and a way to let the
//! store's time pass. After each step the scene checks the invariants of docs/state-machines.md.

#![expect(clippy::unwrap_used, reason = "a case that cannot reach its store has failed")]

pub mod doubt;
pub mod erasure;
pub mod fire;
pub mod history;
pub mod known_failures;
pub mod lease;
pub mod memory;
pub mod pace;
pub mod pinned;
pub mod poison;
pub mod quota;
pub mod random;
mod random_dead;
mod random_erasure;
mod random_fire;
mod random_history;
mod random_reconcile;
mod random_retention;
mod random_rollback;
mod random_share;
mod random_suppression;
mod reached;
pub mod reconcile;
pub mod relay;
pub mod retention;
pub mod rollback;
pub mod scene;
pub mod split;
pub mod steer;
pub mod suppression;
pub mod waves;
pub mod windows;

use crate::Store;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

/// A store to try, empty, and its time.
#[async_trait]
pub trait Fixture: Send + Sync {
    fn store(&self) -> Arc<dyn Store>;
    /// Returns when the store's clock has moved on by at least this much. Of a store whose clock the test does not move:
    /// waits for it.
    async fn pass(&self, ms: u64) {
        let until = self.store().now_ms().await.unwrap().saturating_add_unsigned(ms);
        loop {
            let left = until - self.store().now_ms().await.unwrap();
            if left <= 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(left.unsigned_abs())).await;
        }
    }
}

/// Cases that hold within a shard: turns are taken there, and the backlog is that of one. (So do those of `pace`: each
/// shard has its part of a limit.)
pub mod one_shard {
    pub use super::history::claim_stops_while_the_backlog_is_full;
    pub use super::lease::{
        claim_keeps_a_small_run_from_waiting, claim_of_a_resumed_lane_does_not_catch_up,
        claim_takes_turns_by_weight_and_run,
    };
}

/// Makes one `#[tokio::test]` per case; `$fixture` is an async function that returns `impl Fixture`. For a store that
/// may have several shards: `conformance_tests!($fixture, of_shards)`, or `conformance_tests!($fixture, in_turn)` within a
/// test that runs all cases, where a server is too dear to have one for each.
#[macro_export]
macro_rules! conformance_tests {
    ($fixture:ident) => {
        $crate::conformance_tests!($fixture, of_shards);
        $crate::conformance_tests!(@module $fixture, one_shard,
            claim_takes_turns_by_weight_and_run,
            claim_keeps_a_small_run_from_waiting,
            claim_of_a_resumed_lane_does_not_catch_up,
            claim_stops_while_the_backlog_is_full
        );
        $crate::conformance_tests!(@module $fixture, pace,
            checkpoint_paces_a_lane,
            checkpoint_paces_a_site_over_lanes,
            checkpoint_tells_when_to_ask_again,
            checkpoint_caps_a_lane_over_workers,
            checkpoint_repeated_pays_once,
            what_is_handed_back_is_not_refunded_but_leaves,
            reclaim_gives_the_room_back,
            facts_and_abandon_give_the_room_back,
            cancel_run_gives_the_room_back,
            limits_given_late_count_what_is_in_flight,
            claim_skips_a_lane_without_room,
            claim_skips_a_throttled_site,
            claim_takes_no_more_than_has_room
        );
    };
    ($fixture:ident, of_shards) => {
        $crate::conformance_tests!(@groups module, $fixture);
    };
    ($fixture:ident, in_turn) => {
        $crate::conformance_tests!(@groups turn, $fixture);
    };
    (@groups $how:ident, $fixture:ident) => {
        $crate::conformance_tests!(@$how $fixture, split,
            apply_campaign_counts_versions_and_keeps_pause,
            apply_campaign_repeated_by_key_does_not_go_back,
            create_run_is_one_run_per_submit,
            create_run_needs_its_campaign,
            claim_split_is_a_lease_that_comes_back,
            claim_split_repeated_is_the_same_lease,
            add_batches_moves_the_cursor_once,
            add_batches_of_a_stale_splitter_is_refused,
            add_batches_of_a_cancelled_run_is_refused,
            add_batches_of_nothing_finishes_an_empty_run,
            add_batches_without_batches_keeps_the_lease,
            release_split_with_an_error_fails_the_run_until_resumed,
            bad_rows_are_kept_and_counted
        );
        $crate::conformance_tests!(@$how $fixture, waves,
            add_batches_before_their_time_are_leased_when_it_comes,
            add_batches_of_a_time_that_has_passed_are_ready,
            add_batches_before_their_time_end_with_their_run,
            pause_run_and_resume_begin_nothing_early,
            erase_recipients_before_their_time_leaves_the_others_waiting,
            compare_gone_back_begins_nothing_early,
            reconcile_leaves_what_waits_for_its_time
        );
        $crate::conformance_tests!(@$how $fixture, windows,
            checkpoint_grants_within_its_span_only,
            checkpoint_repeated_after_its_span_tells_what_it_granted,
            checkpoint_closes_by_the_clock_of_the_store,
            release_until_its_window_opens_costs_no_attempt
        );
        $crate::conformance_tests!(@$how $fixture, pinned,
            pin_audience_is_what_the_next_one_splits,
            pin_audience_keeps_the_lease,
            pin_audience_is_refused_once_rows_were_read,
            pin_audience_of_a_split_that_was_taken_away_is_refused,
            pin_audience_of_a_paused_run_waits_for_its_resume
        );
        $crate::conformance_tests!(@$how $fixture, rollback,
            compare_moves_with_what_is_acknowledged,
            compare_finds_nothing_in_what_is_there,
            compare_gone_back_leases_nothing_until_workers_reported,
            compare_gone_back_marks_each_whatever_the_sequence,
            compare_gone_back_marks_who_may_have_been_sent_to,
            compare_gone_back_holds_what_must_not_be_sent_twice,
            compare_gone_back_takes_facts_of_what_was_lost,
            compare_gone_back_keeps_a_reason_whatever_is_told_of_it,
            compare_gone_back_makes_every_lease_stale,
            compare_gone_back_doubts_what_is_split_again_and_not_what_is_new,
            compare_gone_back_leaves_who_is_cancelled_unknown,
            compare_gone_back_is_no_strike,
            compare_gone_back_marks_who_is_retried_or_replayed,
            compare_gone_back_retries_of_a_hold_only_who_may_be_sent_twice,
            compare_gone_back_marks_a_batch_that_was_set_aside
        );
        $crate::conformance_tests!(@$how $fixture, lease,
            claim_gives_each_batch_to_one_worker,
            claim_repeated_returns_the_same_leases,
            claim_skips_what_is_paused,
            claim_of_a_draining_worker_is_empty,
            checkpoint_grants_a_window_and_no_more,
            checkpoint_repeated_answers_the_same,
            checkpoint_late_copy_takes_no_intent_back,
            checkpoint_takes_each_outcome_once,
            checkpoint_with_an_old_fence_is_lost,
            checkpoint_of_no_batch_is_gone,
            checkpoint_refuses_what_is_not_due,
            checkpoint_refuses_an_intent_beyond_the_hard_cap,
            checkpoint_extends_the_lease,
            finish_settles_a_batch_for_ever,
            finish_is_refused_while_in_intent,
            finish_delays_the_deferred_rest,
            finish_repeated_answers_the_same,
            release_brings_the_batch_to_the_front,
            release_costs_no_attempt,
            release_with_a_delay_keeps_no_other_batch_waiting,
            release_with_a_delay_costs_nothing_but_time,
            release_with_a_delay_does_not_make_anybody_due_sooner,
            deferred_recipients_exhaust_their_time,
            batches_show_every_delivery
        );
        $crate::conformance_tests!(@$how $fixture, doubt,
            reclaim_puts_intents_in_doubt_and_resends_them,
            reclaim_holds_what_must_not_be_sent_twice,
            reclaim_leaves_a_living_lease_alone,
            reclaim_waits_after_an_outage,
            an_expired_lease_that_was_not_reclaimed_goes_on,
            release_with_abandon_puts_intents_in_doubt,
            a_lost_reply_is_resent_with_its_reason,
            a_resend_handed_back_is_no_resend,
            facts_not_written_repeated_keep_an_older_doubt,
            facts_accepted_overrides_every_state,
            facts_correct_a_settled_batch_once,
            facts_of_a_fence_that_was_not_issued_are_refused,
            facts_not_written_undo_a_doubt,
            facts_of_an_older_intent_do_not_decide,
            finish_with_an_old_fence_keeps_its_facts
        );
        $crate::conformance_tests!(@$how $fixture, history,
            claim_history_gives_what_settled_in_order,
            claim_history_serves_one_caller_at_a_time,
            retire_batches_leaves_states_and_fences,
            retire_batches_repeated_answers_the_same,
            retire_batches_refuses_what_changed,
            retire_batches_keeps_what_may_be_replayed,
            retire_batches_of_a_large_batch_leaves_a_small_one,
            facts_correct_a_retired_batch_once,
            facts_never_reopen_a_retired_batch,
            finish_of_a_retired_batch_is_settled,
            cancel_batches_passes_over_retired_ones
        );
        $crate::conformance_tests!(@$how $fixture, reconcile,
            reconcile_repairs_nothing_wherever_batches_stand,
            reconcile_keeps_its_pace
        );
        $crate::conformance_tests!(@$how $fixture, relay,
            share_relay_divides_connections,
            share_relay_gives_what_others_do_not_want,
            share_relay_ends_with_the_silence_of_a_worker,
            share_relay_of_a_late_call_changes_nothing,
            share_relay_holds_the_lowest_limit,
            share_relay_paces_all_workers_by_one_rate
        );
        $crate::conformance_tests!(@$how $fixture, quota,
            share_limit_gives_more_once_others_have_less,
            share_limit_of_an_old_turn_changes_nothing,
            share_limit_tells_again_what_was_not_taken,
            share_limit_counts_what_is_in_flight,
            share_limit_keeps_the_part_of_a_shard_that_is_not_heard,
            share_limit_is_as_the_model_says
        );
        $crate::conformance_tests!(@$how $fixture, poison,
            reclaim_sets_aside_the_one_that_ends_workers,
            reclaim_knows_of_the_one_by_facts,
            claim_of_a_suspect_batch_is_for_ever_smaller_ranges,
            reclaim_counts_no_expiry_with_an_outcome,
            reclaim_counts_no_expiry_of_an_outage,
            reclaim_sets_aside_a_batch_of_which_nobody_is_heard_again,
            cancel_run_ends_a_batch_that_was_set_aside,
            replay_dead_in_doubt_needs_to_be_told,
            replay_dead_begins_with_a_clean_record,
            purge_dead_leaves_the_state,
            facts_correct_a_dead_letter,
            dead_letters_are_listed_by_run_and_page,
            retry_run_begins_again_with_the_exhausted,
            retry_run_resends_the_unknown_with_their_reason,
            retry_run_goes_in_steps_and_leaves_what_came_later,
            retry_run_leaves_dead_letters_to_replay,
            retry_run_reaches_into_a_leased_batch
        );
        $crate::conformance_tests!(@$how $fixture, retention,
            forget_run_is_gone_at_once_and_its_batches_step_by_step,
            forget_run_without_batches_is_one_step,
            forget_run_leaves_what_has_not_ended,
            forget_run_counts_from_its_end,
            forget_run_waits_for_dead_letters,
            forget_run_takes_the_unknown_and_exhausted_with_it,
            forget_run_does_not_wait_for_its_history,
            forget_segments_keeps_what_is_left_again,
            forget_kept_leaves_what_is_about_to_be_named
        );
        $crate::conformance_tests!(@$how $fixture, fire,
            fire_begins_one_run_however_many_ask,
            fire_repeated_answers_the_same,
            fire_of_what_changed_is_stale,
            fire_of_what_is_to_come_is_early,
            fire_counts_what_was_passed_over,
            fire_lets_the_run_before_give_way,
            fire_begins_nothing_for_a_paused_or_deleted_campaign,
            fire_of_what_was_lost_marks_who_may_have_been_sent_to,
            apply_campaign_with_another_schedule_begins_now,
            due_schedules_are_listed_longest_due_first
        );
        $crate::conformance_tests!(@$how $fixture, erasure,
            erase_recipients_ends_who_is_pending,
            erase_recipients_in_intent_end_by_their_outcome,
            erase_recipients_in_doubt_are_unknown_and_not_resent,
            erase_recipients_are_never_begun_again,
            erase_recipients_takes_dead_letters_off_the_list,
            erase_recipients_refuses_a_history_that_is_on_its_way,
            erase_recipients_takes_single_reply_texts,
            erase_recipients_of_every_place_leaves_nothing_to_repair,
            erase_run_takes_the_split_from_its_holder,
            erase_run_of_a_paused_run_waits_for_its_resume,
            write_erasure_is_for_one_at_a_time
        );
        $crate::conformance_tests!(@$how $fixture, suppression,
            suppress_keeps_the_gravest_of_each_scope,
            suppress_with_another_key_is_refused,
            suppress_lists_in_order_and_by_page,
            suppress_makes_every_batch_unchecked,
            checkpoint_of_an_unchecked_batch_grants_nothing_until_it_is_looked_at,
            checkpoint_repeated_after_the_look_grants,
            add_batches_looked_at_need_no_look,
            suppress_recipients_ends_who_is_pending,
            suppress_recipients_in_intent_end_by_their_outcome_and_are_looked_at_again,
            suppress_recipients_in_doubt_are_unknown,
            suppress_recipients_of_a_waiting_batch_settle_it,
            suppress_recipients_with_an_old_fence_changes_nothing,
            retry_run_of_who_was_passed_over_is_looked_at_again
        );
        $crate::conformance_tests!(@$how $fixture, steer,
            pause_run_stops_intents_and_resume_goes_on,
            pause_lane_stops_its_runs,
            cancel_run_ends_pending_and_keeps_what_was_sent,
            cancel_run_leaves_doubt_unknown,
            cancel_run_waits_for_what_is_in_flight,
            cancel_run_is_for_ever,
            runs_are_listed_newest_first,
            workers_are_listed_with_what_they_hold,
            drain_worker_marks_by_name
        );
        $crate::conformance_tests!(@$how $fixture, known_failures,
            delayed_batches_due_together_all_return,
            a_process_is_not_its_name,
            one_lost_lease_does_not_stop_the_others_of_its_call,
            large_numbers_come_back_whole
        );
    };
    (@turn $fixture:ident, $module:ident, $($case:ident),* $(,)?) => {
        $({
            println!("{}", stringify!($case));
            let fixture = $fixture().await;
            $crate::conformance::$module::$case(&fixture).await;
        })*
    };
    (@module $fixture:ident, $module:ident, $($case:ident),* $(,)?) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $case() {
                    let fixture = super::$fixture().await;
                    $crate::conformance::$module::$case(&fixture).await;
                }
            )*
        }
    };
}
