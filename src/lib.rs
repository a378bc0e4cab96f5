//! The `lith` facade.
