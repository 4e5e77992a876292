//! The memory backend: the reference, and the state of the simulator.
