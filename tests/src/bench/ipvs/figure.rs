//! Figures: what the guest says to the host, as lines of JSON.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::bench::measure::Rounds;

/// Instructions for a packet with one of the two balancers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// The same packets without the balancer.
    pub floor: f64,
    /// With it.
    pub raw: f64,
    /// Half the distance between the quartiles of the rounds' differences.
    pub noise: f64,
}

/// A case's.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// The case's name.
    pub case: String,
    /// How many times fewer instructions are aimed at.
    pub aim: f64,
    /// How many there may be with our balancer, if that is said.
    pub most: Option<f64>,
    /// With our balancer.
    pub ours: Cost,
    /// With kernel IPVS.
    pub ipvs: Cost,
    /// Packets measured with each.
    pub packets: u64,
}

impl Cost {
    /// What rounds came to.
    pub const fn of(rounds: Rounds) -> Self {
        Self { floor: rounds.floor, raw: rounds.raw, noise: rounds.noise }
    }
    /// The balancer's own share.
    pub fn own(&self) -> f64 {
        self.raw - self.floor
    }

    fn json(&self) -> Value {
        json!([self.floor, self.raw, self.noise])
    }

    fn from(value: &Value) -> Option<Self> {
        let number = |at| value.get(at).and_then(Value::as_f64);
        Some(Self { floor: number(0)?, raw: number(1)?, noise: number(2)? })
    }
}

impl Figure {
    /// How many times fewer instructions ours has.
    pub fn ratio(&self) -> f64 {
        self.ipvs.own() / self.ours.own()
    }

    /// Does ours have more than it may?
    pub fn is_over(&self) -> bool {
        self.most.is_some_and(|most| self.ours.own() > most)
    }

    /// As a line for the host.
    pub fn line(&self) -> String {
        let Self { case, aim, most, ours, ipvs, packets } = self;
        json!({"case": case, "aim": aim, "most": most, "ours": ours.json(), "ipvs": ipvs.json(), "packets": packets})
            .to_string()
    }

    /// A line of the guest's.
    pub fn parse(line: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(line).with_context(|| format!("the line {line:?}"))?;
        let read = || {
            Some(Self {
                case: value.get("case")?.as_str()?.to_owned(),
                aim: value.get("aim")?.as_f64()?,
                most: value.get("most")?.as_f64(),
                ours: Cost::from(value.get("ours")?)?,
                ipvs: Cost::from(value.get("ipvs")?)?,
                packets: value.get("packets")?.as_u64()?,
            })
        };
        read().with_context(|| format!("the line {line:?} is no figure"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn example() -> Figure {
        let cost = |floor, raw| Cost { floor, raw, noise: 1.5 };
        let (ours, ipvs) = (cost(100.0, 350.0), cost(1000.0, 4000.0));
        Figure { case: "v4 tcp dr 1024".to_owned(), aim: 12.0, most: Some(260.0), ours, ipvs, packets: 9216 }
    }

    #[test]
    fn a_figure_comes_through_as_it_was() -> Result<()> {
        let figure = example();
        assert_eq!(Figure::parse(&figure.line())?, figure);
        assert!((figure.ratio() - 12.0).abs() < f64::EPSILON);
        assert!(!figure.is_over() && Figure { most: Some(249.0), ..figure.clone() }.is_over());
        let unbounded = Figure { most: None, ..figure };
        assert_eq!(Figure::parse(&unbounded.line())?, unbounded);
        assert!(!unbounded.is_over());
        assert!(Figure::parse(r#"{"case": "x"}"#).is_err());
        Ok(())
    }
}
