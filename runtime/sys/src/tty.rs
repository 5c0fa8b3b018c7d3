//! (see the functions)
