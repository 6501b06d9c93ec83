//! The engine against plugins that misbehave.
