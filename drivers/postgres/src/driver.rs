//! The engine and its connected driver: the contract's methods, each handed to its module.
