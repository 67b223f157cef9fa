//! ctrace as a library: everything but the command line.
//!
//! Data flows one way: sources (kernel ring, files) give records; `events` decodes them; `containers` attributes
//! them; `findings` judges them; views show them. Everything right of the sources is plain code over plain values.

pub mod containers;
pub mod doctor;
pub mod events;
pub mod findings;
pub mod history;
pub mod kernel;
pub mod lenses;
pub mod listing;
pub mod live;
pub mod model;
pub mod network;
pub mod pipeline;
pub mod privileges;
pub mod recording;
pub mod replay;
pub mod run;
pub mod tui;
pub mod verify;
pub mod views;
