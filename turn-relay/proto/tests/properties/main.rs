//! Whole conversations of several clients on two servers that share a `Commons`, drawn at random, beside a model as simple as the RFC's text: who has
//! which allocation, permission and channel until when. Whatever the servers do is what the model says.
//!
//! The decoder that judges every message is that of `stun-types`; what holds for every effect is asserted in [`support::world`].

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::duration_suboptimal_units, reason = "the RFCs count seconds")]

#[expect(dead_code, reason = "each test binary uses a part of it")]
#[path = "../support/mod.rs"]
mod support;

mod conversation;
mod model;

use proptest::prelude::*;

use conversation::{Action, Conversation, action};

/// Conversations; fewer without optimization.
const CASES: u32 = if cfg!(debug_assertions) {
    1_000
} else {
    30_000
};

fn settings() -> ProptestConfig {
    ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn servers_do_what_the_model_says(
        seed in any::<u64>(),
        actions in prop::collection::vec(action(), 1..120),
    ) {
        let mut conversation = Conversation::new(seed);
        for action in &actions {
            conversation.act(action);
        }
        conversation.end();
    }
}

#[test]
fn a_conversation_of_twenty_thousand_actions_ends_with_nothing_left() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};

    let mut runner = TestRunner::deterministic();
    let actions: Vec<Action> = prop::collection::vec(action(), 20_000)
        .new_tree(&mut runner)
        .expect("actions can be drawn")
        .current();
    let mut conversation = Conversation::new(4711);
    for action in &actions {
        conversation.act(action);
    }
    conversation.check_that_much_happened();
    conversation.end();
}
