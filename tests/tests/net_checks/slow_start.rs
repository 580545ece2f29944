//! `slow_start`: the weight of a server that comes back.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::need;

use crate::scene::{Kind, Scene};

/// It climbs, second by second, and the first moment is no avalanche. What was never gone keeps its weight.
pub fn a_server_comes_back_gradually() -> Result<()> {
    const WEIGHT: u32 = 100;
    need::network()?;
    let mut scene = Scene::new(Kind::Dr)?;
    let config =
        scene.config("TCP", 80, "slow_start 8").replace(" weight 1\n", &format!(" weight {WEIGHT}\n"));
    let _agent = Agent::start(&scene.lab, &scene.set.balancer.netns, &config)?;
    scene.has_servers(2)?;
    ensure!(
        scene.weights()? == vec![WEIGHT; 4],
        "all have their weight at the start: {:?}",
        scene.weights()?
    );
    scene.set.servers[0].stop();
    scene.has_servers(1)?;
    let content = lb_tests::peer::Content::new()?;
    scene.set.servers[0].restart(&[80], &content)?;
    scene.has_servers(2)?;
    let (back, mut seen) = (Instant::now(), Vec::new());
    while seen.last() != Some(&WEIGHT) {
        ensure!(back.elapsed() < Duration::from_secs(20), "it never has its whole weight: {seen:?}");
        let mut weights = scene.weights()?;
        weights.sort_unstable();
        ensure!(weights[2..] == [WEIGHT; 2], "the other one lost some: {weights:?}");
        let lower = weights.first().copied().context("no servers")?;
        if seen.last() != Some(&lower) {
            seen.push(lower);
        }
        thread::sleep(Duration::from_millis(100));
    }
    ensure!(seen.is_sorted() && seen.len() >= 5, "not gradually: {seen:?}");
    ensure!(seen.first().is_some_and(|first| *first <= WEIGHT / 2), "it begins with too much: {seen:?}");
    ensure!(back.elapsed() > Duration::from_secs(5), "whole after {:?}", back.elapsed());
    Ok(())
}
