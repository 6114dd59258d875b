//! What node commands may ask of the node they run on.

/// The node as its commands see it.
pub trait Node {}
