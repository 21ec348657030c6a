//! The plain door for events: one JSON object per event, the shape other systems already send.

pub mod event;
pub mod publish;
