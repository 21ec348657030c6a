pub mod partitioner;
