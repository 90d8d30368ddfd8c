//! What reading a configuration gave, as lines for people.
