//! The records that both sides of ctrace share.
#![no_std]
