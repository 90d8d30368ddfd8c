//! RFC 8656, Traversal Using Relays around NAT (TURN).

mod section_10_2_receiving_a_create_permission_request;
mod section_11_5_receiving_an_icmp_packet;
mod section_11_send_and_data;
mod section_12_channels;
mod section_21_security;
mod section_5_general_behavior;
mod section_7_2_dual_allocations;
mod section_7_2_even_ports_and_reservations;
mod section_7_2_receiving_an_allocate_request;
mod section_8_2_receiving_a_refresh_request;
mod section_9_permissions;
mod sections_13_to_16_ip_header;
