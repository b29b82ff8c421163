//! What the store's histories are made of: a plan drawn from the seed, devices with their fates, a model of what the
//! store promised, and the steps that drive the one and ask the other.

pub(crate) mod bays;
pub(crate) mod history;
pub(crate) mod last;
pub(crate) mod model;
pub(crate) mod plan;
pub(crate) mod steps;
pub(crate) mod world;
