//! `orlop man DIR`.
