//! The agent: keepalived's health checks over this balancer's tables.

pub mod config;
