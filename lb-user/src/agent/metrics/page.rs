//! The page a scrape gets: families of metrics, one after the other, in Prometheus' text format.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, NoLabelSet, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::view::{Holdings, View};
use super::{of_agent, of_tables};

/// The page.
pub fn text(view: View, holdings: Holdings) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    let durations = view.durations.clone();
    registry.register_with_unit("lb_check_duration", of_agent::DURATION, Unit::Seconds, durations);
    registry.register_collector(Box::new(All { view, holdings }));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct All {
    view: View,
    holdings: Holdings,
}

impl Collector for All {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        of_tables::write(&mut page, &self.holdings)?;
        of_agent::write(&mut page, &self.view)
    }
}

/// A family of gauges: name, meaning, and the value of one of its series.
pub type Figure<T, V> = (&'static str, &'static str, fn(&T) -> V);

/// The page being written.
pub struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    /// A family of counters; its name gets `_total` at its end.
    pub fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl Iterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in rows {
            // No exemplars.
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&value, None)?;
        }
        Ok(())
    }

    /// A family of gauges.
    pub fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl Iterator<Item = (L, V)>,
    ) -> fmt::Result {
        self.measures(name, help, None, rows)
    }

    /// A family of gauges in seconds; its name gets `_seconds` at its end.
    pub fn seconds<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl Iterator<Item = (L, f64)>,
    ) -> fmt::Result {
        self.measures(name, help, Some(&Unit::Seconds), rows)
    }

    fn measures<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        rows: impl Iterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in rows {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}
