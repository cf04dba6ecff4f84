//! Rows of the system shard: drives, policies, groups, buckets, users, access keys.
