//! Sign-ups.
fn main() {}
