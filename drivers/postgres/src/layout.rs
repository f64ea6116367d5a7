//! What a backup knows of the cluster besides its files: one small part, versioned.
