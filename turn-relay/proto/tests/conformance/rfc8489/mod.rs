//! RFC 8489, Session Traversal Utilities for NAT (STUN).

mod section_14_attributes;
mod section_6_3_1_processing_requests;
mod section_6_3_2_processing_indications;
mod section_6_3_receiving_messages;
mod section_7_fingerprint;
mod section_9_2_1_bid_down;
mod section_9_2_4_receiving_a_request;
