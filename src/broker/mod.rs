pub mod group;
pub mod partitioner;
