//! The settings of one cluster: where it is and how to log in.
