//! The conformance suite: behaviour that all brokers share. A case that skips a broker says why.

mod cases;
mod lab;

use self::lab::{Kind, Lab};

/// Expands to one test per case and broker.
macro_rules! suite {
    ($($file:ident { $($case:ident)* })*) => {
        suite!(@broker memory, Kind::Memory, $($file { $($case)* })*);
        suite!(@broker sqlite, Kind::Sqlite, $($file { $($case)* })*);
        suite!(@broker rabbitmq_classic, Kind::Classic, $($file { $($case)* })*);
        suite!(@broker rabbitmq_quorum, Kind::Quorum, $($file { $($case)* })*);
    };
    (@broker $broker:ident, $kind:expr, $($file:ident { $($case:ident)* })*) => {
        mod $broker {
            use super::*;
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    if let Some(lab) = Lab::new($kind) {
                        cases::$file::$case(&lab).await;
                    }
                }
            )*)*
        }
    };
}

suite! {
    registers {
        a_reader_of_notes_resumes_where_it_left_off
        a_note_is_known_to_every_connection_until_it_lapses
        a_forced_note_stays_forced
        a_lock_has_one_holder_at_a_time
        a_lock_for_another_time_is_the_same_lock
        a_forgotten_lock_opens_by_itself
        a_lock_is_kept_by_its_holder_through_a_wait
        of_many_contenders_one_gets_the_lock
        a_pause_is_read_without_a_trace_and_ended_by_a_later_note
    }
    delivering {
        a_message_is_published_consumed_and_acked
        messages_come_in_the_order_in_which_they_were_published
        a_requeued_message_comes_back_first_and_redelivered
        a_dropped_delivery_comes_back
        a_rejected_message_is_dead_lettered
        no_more_than_the_prefetch_is_handed_out
        a_prefetch_of_zero_is_refused
        a_smaller_prefetch_counts_what_was_delivered_before
        two_consumers_share_a_queue
        one_consumer_listens_to_several_queues
        a_waiting_consumer_gets_a_message_at_once
        urgent_messages_come_first
        get_takes_one_message_or_none
        get_many_keeps_the_order_and_requeued_messages_their_position
        a_look_does_not_delete_a_queue_that_goes_with_its_last_consumer
        a_thousand_concurrent_publishes_all_arrive_once
    }
    life {
        a_cancelled_consumer_ends_and_nothing_is_lost
        a_dropped_consumer_requeues_its_deliveries
        closing_requeues_unsettled_deliveries
        a_closed_broker_refuses_to_publish
        settling_after_closing_does_nothing
        an_ack_that_was_flushed_is_kept
        messages_outlive_the_connection
        a_consumer_changes_its_queues
        a_consumer_without_queues_waits_for_some
        an_exclusive_queue_goes_with_its_connection
        an_auto_delete_queue_goes_with_its_last_consumer
    }
    topology {
        declaring_twice_changes_nothing
        a_queue_with_other_arguments_is_used_as_it_is
        a_binding_needs_its_exchange_and_queue
        names_may_be_odd
        names_that_are_too_long_or_broken_are_refused
        queues_reports_the_length_of_each
        purge_counts_what_it_drops
        a_deleted_queue_is_gone_with_its_messages
        a_queue_that_does_not_exist_is_an_error
        a_queue_in_use_or_with_messages_is_kept_if_so_asked
        exchanges_can_be_listed_and_deleted
        an_exchange_in_use_is_kept_if_so_asked
        a_binding_can_be_removed
        the_oldest_message_has_an_age
        messages_are_looked_at_without_being_taken
        a_message_is_found_by_its_id
    }
    exchanges {
        a_direct_exchange_compares_keys
        a_fanout_exchange_copies_to_every_queue
        a_topic_exchange_matches_patterns
        two_bindings_to_one_queue_make_one_copy
        a_mandatory_message_without_a_queue_is_unroutable
        a_message_that_is_not_mandatory_may_vanish
        a_missing_exchange_is_an_error_that_leaves_the_broker_usable
        an_unroutable_publish_among_many_fails_only_its_caller
    }
    time {
        a_delayed_message_comes_when_it_is_due
        a_short_delay_is_not_held_up_by_a_long_one
        a_delay_goes_through_exchanges_too
        a_delayed_message_arrives_with_its_own_address
        a_message_that_waited_too_long_is_dead_lettered
        a_message_with_an_expiration_is_dropped
        a_message_with_an_expiration_is_dead_lettered
    }
    limits {
        a_full_queue_refuses_more
        a_full_queue_drops_its_oldest_message
    }
    fidelity {
        all_properties_arrive
        all_types_of_headers_arrive
        an_empty_body_arrives
        a_large_binary_body_arrives
    }
}
