//! Judges of histories. Pure: no clock but the budget's, no file, no network.

pub mod cycles;
pub mod linearizable;
