//! What every [`ShardStore`] must do. Each function takes a factory and panics where a promise is
//! broken; run them all on every implementation.
