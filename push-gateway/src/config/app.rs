//! One entry of `apps`.
